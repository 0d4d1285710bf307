//! Where settings come from: the file, variables in it, the environment.

use crate::{good, load, variables};
use insta::assert_snapshot;
use postbound_config::{Action, Answer, Breaker, Config, Disposition, LogFormat, RateLimit, ReceiverMode};
use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

#[test]
fn the_example_loads_and_holds_the_defaults() {
    let example = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../postbound.example.toml"));
    let environment = variables(&[
        "DATABASE_URL=postgres://app:hunter2@db/app",
        "RABBITMQ_URL=amqp://app:hunter2@mq",
        "CRM_APP_URL=https://crm.example",
        "INTERNAL_API_KEY=hunter2",
    ]);
    let config = Config::load(Some(example), environment).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.targets.keys().collect::<Vec<_>>(), ["backend", "crm"]);
    assert_eq!(config.enabled_targets().map(|target| target.name.as_str()).collect::<Vec<_>>(), ["crm"]);
    assert_eq!(config.warnings(), ["target `backend` has no URL: it is skipped"]);
    let crm = &config.targets["crm"];
    assert_eq!(crm.endpoint().unwrap().as_str(), "https://crm.example/api/internal/sync/users");
    assert_eq!(crm.api_key().unwrap().current().unwrap().expose(), "hunter2");
    assert_snapshot!(serde_json::to_string_pretty(&config).unwrap());
}

#[test]
fn every_default_the_example_names_is_the_real_one() {
    let example = include_str!("../../../postbound.example.toml");
    let shown = [
        "# password_file",
        "# ca_file",
        "# client_",
        "# api_key_file",
        "# basic_",
        "# signing_secrets_file",
        "# headers",
        "# dispositions",
    ];
    let uncommented: String = example
        .lines()
        .filter(|line| !shown.iter().any(|key| line.starts_with(key)) && !line.contains("<version>"))
        // Keys whose comment shows a value where the default is none.
        .filter(|line| {
            !(line.starts_with("# rate_limit")
                || line.starts_with("# database_url")
                || line.starts_with("# smtp_url")
                || line.starts_with("# notify_"))
        })
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.split(' ').nth(1) == Some("=") => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let environment = ["DATABASE_URL=postgres://db", "RABBITMQ_URL=amqp://mq"];
    let all = load(&uncommented, &environment).unwrap_or_else(|errors| panic!("{errors}\n{uncommented}"));
    assert!(uncommented.contains("\nretry.horizon = ") && uncommented.contains("\nbreaker.window = "));
    assert!(uncommented.contains("\nsend_versions = true") && uncommented.contains("\nfaults = false"));
    assert_eq!(all, load(example, &environment).unwrap());
}

#[test]
fn everything_can_come_from_the_environment() {
    let environment = variables(&[
        "POSTBOUND_DATABASE__URL=postgres://db",
        "POSTBOUND_BROKER__URL=amqp://mq",
        "POSTBOUND_TARGETS__MY_CRM__ADAPTER=crm-batch",
        "POSTBOUND_TARGETS__MY_CRM__URL=http://crm",
        "POSTBOUND_TARGETS__MY_CRM__API_KEY=12345",
        "POSTBOUND_TARGETS__MY_CRM__ACTIONS=created, deleted",
        "POSTBOUND_TARGETS__MY_CRM__RETRY={ attempts = 5, delays = ['1s'] }",
        "POSTBOUND_TARGETS__MY_CRM__RETRY__SCHEDULE=1s,10s",
        "POSTBOUND_TARGETS__MY_CRM__BREAKER__CALLS_MIN=5",
        "POSTBOUND_TARGETS__MY_CRM__DISPOSITIONS__RESULT_FAILED=permanent",
        "POSTBOUND_TARGETS__MY_CRM__DISPOSITIONS__500_599=unknown",
        "POSTBOUND_TARGETS__MY_CRM__RATE_LIMIT__REQUESTS=100",
        "POSTBOUND_TARGETS__MY_CRM__RATE_LIMIT__PER=15m",
        "POSTBOUND_TARGETS__MY_CRM__HEADERS__X_TEAM=accounts",
        "POSTBOUND_TELEMETRY__LISTEN=",
        "POSTBOUND_RECEIVER_PORT=tcp://10.0.0.1:80",
        "UNRELATED=1",
    ]);
    let config = Config::load(None, environment).unwrap_or_else(|errors| panic!("{errors}"));
    let crm = &config.targets["my-crm"];
    assert_eq!(crm.api_key.as_ref().unwrap().expose(), "12345");
    assert_eq!(crm.actions, BTreeSet::from([Action::Created, Action::Deleted]));
    assert_eq!((crm.retry.attempts, crm.retry.delay(4)), (5, Some(Duration::from_secs(1))));
    assert_eq!(crm.retry.schedule, [1, 10].map(Duration::from_secs));
    assert_eq!(crm.breaker, Breaker { calls_min: 5, ..Breaker::default() });
    assert_eq!(
        crm.dispositions.iter().collect::<Vec<_>>(),
        [
            (Answer::Statuses { from: 500, to: 599 }, Disposition::Unknown),
            (Answer::Reason("result_failed"), Disposition::Permanent),
        ]
    );
    assert_eq!(crm.headers["x-team"].expose(), "accounts");
    assert_eq!(crm.rate_limit, Some(RateLimit { requests: 100, per: Duration::from_secs(900) }));
    assert_eq!(config.telemetry.listen, None);
}

#[test]
fn the_environment_overrides_the_file_even_where_a_variable_of_it_is_missing() {
    let config = good(
        "[targets.crm]\nadapter = 'crm-batch'\nurl = '${NOT_SET}'\nconcurrency = 4\n[telemetry]\nlog_format = 'human'",
        &[
            "POSTBOUND_TARGETS__CRM__CONCURRENCY=8",
            "POSTBOUND_TARGETS__CRM__URL=http://crm",
            "POSTBOUND_TELEMETRY__LOG_FORMAT=json",
            "POSTBOUND_TELEMETRY__LISTEN=0.0.0.0:0",
            "POSTBOUND_RECEIVER__MODE=guardless",
        ],
    );
    assert_eq!(config.targets["crm"].concurrency, 8);
    assert_eq!(config.targets["crm"].url.as_deref(), Some("http://crm"));
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    assert_eq!(config.telemetry.listen, Some(SocketAddr::from(([0, 0, 0, 0], 0))));
    assert_eq!(config.receiver.mode, ReceiverMode::Guardless);
}

#[test]
fn variables_are_filled_into_strings_and_take_the_type_of_their_key() {
    let config = good(
        "
[targets.backend]
adapter = 'backend-sync'
url = 'http://${HOST}:${PORT:-80}/x'
concurrency = '${CONCURRENCY:-32}'
coalesce = '${COALESCE}'
timeout = '${TIMEOUT:-8s}'
response_bytes_max = '${BYTES:-2048}'
api_key = '${KEY:-}'
bearer_token = '$${KEY} $5'
signing_secrets = ['${OLD:-}', '${NEW}']
",
        &[
            "HOST=backend",
            "PORT=",
            "COALESCE=false",
            "NEW=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "BYTES=4KiB",
        ],
    );
    let target = &config.targets["backend"];
    assert_eq!(target.endpoint().unwrap().as_str(), "http://backend/x");
    assert_eq!((target.concurrency, target.coalesce), (32, false));
    assert_eq!((target.timeout, target.response_bytes_max), (Duration::from_secs(8), 4096));
    assert_eq!(target.api_key, None);
    assert_eq!(target.bearer_token.as_ref().unwrap().expose(), "${KEY} $5");
    assert_eq!(
        target.signing_secrets.iter().map(|secret| secret.expose()).collect::<Vec<_>>(),
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    );
}

#[test]
fn a_receiver_alone_needs_no_broker() {
    let config =
        load("[receiver]\ndatabase_url = 'postgres://db'", &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(config.broker.url.is_empty());
}

#[test]
fn without_a_file_it_says_which_one_it_looked_for() {
    let said = Config::load(None, []).unwrap_err().to_string();
    let looked_for = std::env::current_dir().unwrap().join("postbound.toml");
    assert!(said.contains(&format!("there is no file {}", looked_for.display())), "{said}");
    assert!(
        said.contains("--config or POSTBOUND_CONFIG") && said.contains("database.url: is required"),
        "{said}"
    );
}
