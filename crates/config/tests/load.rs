//! The way from a file and an environment to a checked configuration, or to errors that say how to mend it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use insta::assert_snapshot;
use postbound_config::{
    Action, Answer, Breaker, Config, ConfigErrors, Disposition, LogFormat, RateLimit, ReceiverMode, Retry,
};

const BASE: &str = "
[database]
url = 'postgres://app:hunter2@db/app'
[broker]
url = 'amqp://app:hunter2@mq/%2f'
";

/// Loads `text` from a file, under an environment of `NAME=value` entries.
fn load(text: &str, environment: &[&str]) -> Result<Config, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("postbound.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), variables(environment))
}

fn variables(environment: &[&str]) -> Vec<(String, String)> {
    let pair = |entry: &&str| entry.split_once('=').map(|(name, value)| (name.into(), value.into()));
    environment.iter().filter_map(pair).collect()
}

fn good(text: &str, environment: &[&str]) -> Config {
    load(&format!("{BASE}{text}"), environment).unwrap_or_else(|errors| panic!("{errors}"))
}

/// What loading says, with the temporary folder taken out. `text` starts at line 6.
fn refusal(text: &str, environment: &[&str]) -> String {
    refusal_of_whole(&format!("{BASE}{text}"), environment)
}

fn refusal_of_whole(text: &str, environment: &[&str]) -> String {
    let errors = load(text, environment).expect_err("this must be refused");
    let said = errors.to_string();
    assert!(!said.contains("hunter2"), "a secret was printed: {said}");
    said.lines()
        .map(|line| match (line.starts_with('/'), line.find("postbound.toml")) {
            (true, Some(start)) => &line[start..],
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn check(text: &str, environment: &[&str], expected: &str) {
    assert_eq!(refusal(text, environment), expected, "\n--- for:\n{text}\n{environment:?}");
}

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
fn keys_nobody_knows_are_refused_with_the_nearest_one() {
    check(
        "[worker]\nleese = '5s'",
        &[],
        "postbound.toml:7: worker.leese: unknown key\n  to mend it: did you mean `lease`?",
    );
    check(
        "[workers]\nlease = '5s'",
        &[],
        "postbound.toml:6: workers: unknown section\n  to mend it: did you mean `worker`?",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nbatch_user_max = 3",
        &[],
        "postbound.toml:8: targets.crm.batch_user_max: unknown key\n  to mend it: did you mean `batch_users_max`?",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nretry = { attemps = 3 }",
        &[],
        "postbound.toml:8: targets.crm.retry.attemps: unknown key\n  to mend it: did you mean `attempts`?",
    );
    check(
        "[topology]\nshards = 3",
        &[],
        "postbound.toml:7: topology.shards: unknown key\n  \
         to mend it: known here: delivery_limit, partitions, queue_bytes_max, queue_messages_max",
    );
    check(
        "",
        &["POSTBOUND_WORKER__LEESE=5s"],
        "environment variable POSTBOUND_WORKER__LEESE: worker.leese: unknown key\n  \
         to mend it: did you mean `lease`?",
    );
    check(
        "",
        &["POSTBOUND_DATABASE_POOL_MAX=5"],
        "environment variable POSTBOUND_DATABASE_POOL_MAX: two underscores part the levels\n  \
         to mend it: name it POSTBOUND_DATABASE__POOL_MAX",
    );
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_what_is_expected() {
    let units = "expected a number with a unit, such as \"500ms\", \"10s\", \"15m\" or \"24h\"";
    let cases = [
        ("[worker]\nlease = '10 parsecs'", format!("worker.lease: \"10 parsecs\" is not a duration; {units}")),
        ("[worker]\nlease = 15", format!("worker.lease: `15` has no unit; {units} (\"15s\" for seconds)")),
        ("[worker]\nlease = true", "worker.lease: a boolean where a duration is expected".to_owned()),
        (
            "[relay]\npage_rows = '2000'",
            "relay.page_rows: a string where a whole number is expected\n  \
             to mend it: write the value without quotes"
                .to_owned(),
        ),
        (
            "[relay]\npage_rows = -1",
            "relay.page_rows: -1 is out of range; expected a whole number from 0 to 4294967295".to_owned(),
        ),
        ("[relay]\npage_rows = 1979-05-27", "relay.page_rows: a date where a whole number is expected".to_owned()),
        (
            "[relay]\npage_bytes_max = '8 megs'",
            "relay.page_bytes_max: \"8 megs\" is not a size; expected bytes as a number, or a number with a unit, \
             such as \"256KiB\", \"8MiB\" or \"1GiB\""
                .to_owned(),
        ),
        (
            "[telemetry]\nlisten = 'localhost'",
            "telemetry.listen: \"localhost\" is not an address; expected an IP address and a port, \
             such as \"127.0.0.1:8080\" or \"0.0.0.0:8080\" (port 0 takes any free one)"
                .to_owned(),
        ),
        (
            "[telemetry]\nlog_format = 'jsno'",
            "telemetry.log_format: \"jsno\" is not known; expected \"human\" or \"json\"\n  \
             to mend it: did you mean \"json\"?"
                .to_owned(),
        ),
        (
            "[receiver]\napi_key = 12345",
            "receiver.api_key: a whole number where a string is expected\n  to mend it: put the value in quotes"
                .to_owned(),
        ),
        (
            "[receiver]\nrate_limit = { requests = 5 }",
            "receiver.rate_limit: `per` is missing\n  to mend it: add `per`".to_owned(),
        ),
    ];
    for (text, expected) in cases {
        check(text, &[], &format!("postbound.toml:7: {expected}"));
    }
}

#[test]
fn a_value_from_a_variable_is_not_quoted_when_it_does_not_fit() {
    check(
        "[relay]\npage_rows = '${PASSWORD}'",
        &["PASSWORD=hunter2"],
        "postbound.toml:7: relay.page_rows: the variable does not hold a whole number",
    );
    check(
        "",
        &["POSTBOUND_TELEMETRY__LOG_FORMAT=hunter2"],
        "environment variable POSTBOUND_TELEMETRY__LOG_FORMAT: telemetry.log_format: \
         the variable's value is not known; expected \"human\" or \"json\"",
    );
    check(
        "[worker]\nlease = '${PASSWORD}'",
        &["PASSWORD=hunter2"],
        "postbound.toml:7: worker.lease: the variable's value is not a duration; \
         expected a number with a unit, such as \"500ms\", \"10s\", \"15m\" or \"24h\"",
    );
    check(
        "",
        &["POSTBOUND_RECEIVER__FAULTS=hunter2"],
        "environment variable POSTBOUND_RECEIVER__FAULTS: receiver.faults: \
         the variable does not hold `true` or `false`",
    );
}

#[test]
fn a_variable_that_is_not_set_is_named_with_its_key() {
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nurl = '${CRM_APP_URL}'",
        &[],
        "postbound.toml:8: targets.crm.url: the variable CRM_APP_URL is not set\n  \
         to mend it: set CRM_APP_URL, or give a default with `${CRM_APP_URL:-...}`",
    );
    check(
        "[telemetry]\nlog = '${oops'",
        &[],
        "postbound.toml:7: telemetry.log: a `${` is not closed\n  \
         to mend it: close it with `}`, or write `$${` for the two characters themselves",
    );
}

#[test]
fn what_is_required_is_asked_for() {
    assert_snapshot!(refusal_of_whole("[targets.crm]\nurl = 'http://x'", &[]), @r#"
    the configuration has 3 errors:
    postbound.toml: database.url: is required
      to mend it: set it, or POSTBOUND_DATABASE__URL, to postgres://user:password@host/db
    postbound.toml: broker.url: is required
      to mend it: set it, or POSTBOUND_BROKER__URL, to amqp://user:password@host/vhost
    postbound.toml:1: targets.crm.adapter: a target needs an adapter
      to mend it: set `adapter` to one of "backend-sync", "crm-batch", "webhook", "workflow-trigger"
    "#);
    let error = Config::load(Some(Path::new("/nowhere/postbound.toml")), []).unwrap_err();
    assert_snapshot!(error, @"/nowhere/postbound.toml: cannot read the configuration: No such file or directory (os error 2)");
}

#[test]
fn a_mistyped_adapter_is_an_unknown_key() {
    check(
        "[targets.crm]\nadaptor = 'crm-batch'\nurl = 'http://x'",
        &[],
        "postbound.toml:7: targets.crm.adaptor: unknown key\n  to mend it: did you mean `adapter`?",
    );
}

#[test]
fn a_wrong_value_is_not_missing_as_well() {
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nrate_limit = { requests = 5, per = '15x' }",
        &[],
        "postbound.toml:8: targets.crm.rate_limit.per: \"15x\" is not a duration; \
         expected a number with a unit, such as \"500ms\", \"10s\", \"15m\" or \"24h\"",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nrate_limit = { requests = 5 }",
        &[],
        "postbound.toml:8: targets.crm.rate_limit: `per` is missing\n  to mend it: add `per`",
    );
}

#[test]
fn a_signing_secret_nobody_can_sign_with_is_refused_unquoted() {
    let targets = "[targets.crm]\nadapter = 'crm-batch'\n";
    for secret in ["hunter2", "whsec_hunter2", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
        for (section, key) in [(targets, "targets.crm"), ("[receiver]\nfaults = true\n", "receiver")] {
            check(
                &format!("{section}signing_secrets = ['{secret}']"),
                &[],
                &format!(
                    "postbound.toml:8: {key}.signing_secrets: each must be whsec_ followed by the base64 of 24 to 64 \
                     bytes\n  to mend it: make one with: echo whsec_$(openssl rand -base64 32)"
                ),
            );
        }
    }
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

#[test]
fn keys_of_the_other_adapter_are_refused_with_the_reason() {
    check(
        "[targets.backend]\nadapter = 'backend-sync'\nbatch_users_max = 50",
        &[],
        "postbound.toml:8: targets.backend.batch_users_max: \
         `batch_users_max` is for crm-batch targets; this one is backend-sync\n  \
         to mend it: remove it, or set `adapter = \"crm-batch\"`",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nsend_tenant_header = false",
        &[],
        "postbound.toml:8: targets.crm.send_tenant_header: \
         `send_tenant_header` is for backend-sync targets; this one is crm-batch\n  \
         to mend it: remove it, or set `adapter = \"backend-sync\"`",
    );
}

#[test]
fn every_adapter_can_have_pace_and_dispositions_of_its_own() {
    for adapter in ["backend-sync", "crm-batch"] {
        let config = good(
            &format!(
                "[targets.x]\nadapter = '{adapter}'\nrate_limit = {{ requests = 5, per = '1s' }}\nlive_share = 0.9\n\
                 guards_versions = true\ndoubt_after = '5m'\n[targets.x.retry]\nhorizon = '1h'\n\
                 [targets.x.breaker]\nfold_after = '5s'\n\
                 [targets.x.dispositions]\n'500-599' = 'unknown'\n503 = 'whole-target'\ntimeout = 'transient'"
            ),
            &[],
        );
        let target = &config.targets["x"];
        assert_eq!(target.rate_limit, Some(RateLimit { requests: 5, per: Duration::from_secs(1) }));
        assert_eq!((target.live_share, target.guards_versions), (0.9, true));
        assert_eq!(target.doubt_after, Duration::from_secs(300));
        assert_eq!(target.retry, Retry { horizon: Duration::from_secs(3600), ..Retry::default() });
        assert_eq!(target.breaker, Breaker { fold_after: Duration::from_secs(5), ..Breaker::default() });
        let shown = serde_json::to_value(target).unwrap();
        let dispositions = r#"{"500-599":"unknown","503":"whole-target","timeout":"transient"}"#;
        assert_eq!(shown["dispositions"].to_string(), dispositions);
    }
}

#[test]
fn what_must_fit_together_is_checked() {
    check(
        "[worker]\nlease = '11s'\n[targets.backend]\nadapter = 'backend-sync'\n\
         [targets.crm]\nadapter = 'crm-batch'\ntimeout = '9s500ms'",
        &[],
        "postbound.toml:7: worker.lease: 11s is too short for targets.backend.timeout (10s): it must exceed it by \
         more than 2s, for a request must end before the partition can change hands\n  \
         to mend it: raise worker.lease above 12s, or lower targets.backend.timeout",
    );
    check(
        "[worker]\nheartbeat = '6s'",
        &[],
        "postbound.toml:7: worker.heartbeat: must be at most a third of worker.lease (15s)",
    );
    check(
        "[topology]\npartitions = 257",
        &[],
        "postbound.toml:7: topology.partitions: must be between 1 and 256",
    );
    check(
        "[relay]\npoll_min = '1s'",
        &[],
        "postbound.toml:6: relay.poll_max: must not be shorter than poll_min (1s)",
    );
    check(
        "",
        &["POSTBOUND_BROKER__CLIENT_CERT_FILE=/x"],
        "postbound.toml:4: broker.client_key_file: certificate and key of the client go together",
    );
}

#[test]
fn targets_are_checked() {
    let cases = [
        (
            "url = 'crm.example'",
            "url: is not a URL (relative URL without a base); \
          expected http://host/path or https://host/path",
        ),
        ("url = 'ftp://crm'", "url: is not a web address; expected http://host/path or https://host/path"),
        (
            "url = 'http://u:hunter2@crm'",
            "url: must not hold credentials: it is logged\n  \
          to mend it: use `bearer_token`, `api_key` or `headers`",
        ),
        ("concurrency = 0", "concurrency: must be 1 or more"),
        ("actions = []", "actions: a target that wants no action gets nothing"),
        ("retry = { jitter = 1.5 }", "retry.jitter: must be between 0.0 and 1.0"),
        ("retry = { schedule_jitter = -0.1 }", "retry.schedule_jitter: must be between 0.0 and 1.0"),
        ("retry = { schedule = [] }", "retry.schedule: needs one pause or more, each longer than 0"),
        ("retry = { schedule = ['0s'] }", "retry.schedule: needs one pause or more, each longer than 0"),
        ("retry = { horizon = '0s' }", "retry.horizon: must be longer than 0"),
        ("retry = { bounded_attempts = 0 }", "retry.bounded_attempts: must be 1 or more"),
        ("retry = { permanent_attempts = 0 }", "retry.permanent_attempts: must be 1 or more"),
        ("breaker = { failing_share = 0.0 }", "breaker.failing_share: must be above 0.0 and at most 1.0"),
        ("breaker = { calls_min = 0 }", "breaker.calls_min: must be 1 or more"),
        ("breaker = { pause_max = '500ms' }", "breaker.pause_max: must not be shorter than pause_min (1s)"),
        ("live_share = 1.0", "live_share: must be at least 0.0 and below 1.0, or backfill never ends"),
        (
            "doubt_after = '9s'",
            "doubt_after: must not be shorter than timeout (10s): until then a lost request may still take \
             effect\n  to mend it: raise it to 10s or more",
        ),
        (
            "guards_versions = true\nsend_versions = false",
            "guards_versions: needs send_versions: a target can guard only the versions it is told",
        ),
        ("rate_limit = { requests = 0, per = '1s' }", "rate_limit.requests: must be 1 or more"),
        (
            "retry = { delays = ['1s', '2'] }",
            "retry.delays[1]: `2` has no unit; expected a number with a unit, \
          such as \"500ms\", \"10s\", \"15m\" or \"24h\" (\"2s\" for seconds)",
        ),
        ("batch_users_max = 101", "batch_users_max: must be between 1 and 100, the most the contract takes"),
        ("headers = { Host = 'x' }", "headers.Host: is set by Postbound itself"),
        ("headers = { X = \"hunter2\\n\" }", "headers.X: holds characters a header cannot carry"),
    ];
    for (text, expected) in cases {
        check(
            &format!("[targets.crm]\nadapter = 'crm-batch'\n{text}"),
            &[],
            &format!("postbound.toml:8: targets.crm.{expected}"),
        );
    }
    check(
        "[targets.CRM]\nadapter = 'crm-batch'",
        &[],
        "postbound.toml:6: targets.CRM: a target's name is a-z, 0-9 and `-`, starts with a letter and has at most \
         40 characters",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\napi_key = 'hunter2'\napi_key_file = '/x'",
        &[],
        "postbound.toml:9: targets.crm.api_key_file: give either this or `api_key`",
    );
}

#[test]
fn a_disposition_that_makes_no_sense_is_refused_with_the_reason() {
    let answer =
        "is neither an HTTP status, a range such as \"500-599\", nor a reason that can be overridden";
    let status = "is no HTTP status from 200 to 599, nor a range of them such as \"500-599\"";
    let cases = [
        (
            "crm-batch",
            "'result_faild' = 'permanent'",
            format!("result_faild: {answer}; did you mean \"result_failed\"?"),
        ),
        (
            "crm-batch",
            "'http_422' = 'permanent'",
            format!("http_422: {answer}; write the status alone: \"422\""),
        ),
        ("crm-batch", "'100' = 'transient'", format!("100: {status}")),
        ("crm-batch", "'4xx' = 'transient'", format!("4xx: {status}")),
        (
            "crm-batch",
            "'599-500' = 'transient'",
            "599-500: the range must end above its beginning".to_owned(),
        ),
        (
            "crm-batch",
            "'404' = 'pernament'",
            "404: \"pernament\" is not known; expected \"delivered\", \"transient\", \"permanent\", \
             \"whole-target\" or \"unknown\"\n  to mend it: did you mean \"permanent\"?"
                .to_owned(),
        ),
        (
            "crm-batch",
            "'404' = 7",
            "404: a whole number where a string is expected\n  to mend it: put the value in quotes"
                .to_owned(),
        ),
        (
            "crm-batch",
            "'202' = 'delivered'",
            "202: a status cannot be \"delivered\" at a crm-batch target: its results decide".to_owned(),
        ),
        ("backend-sync", "'timeout' = 'delivered'", "timeout: only a status can be \"delivered\"".to_owned()),
        (
            "backend-sync",
            "'result_failed' = 'permanent'",
            "result_failed: is for crm-batch targets: only their answers hold results that are read"
                .to_owned(),
        ),
        (
            "backend-sync",
            "'400-450' = 'permanent', '410-499' = 'transient', '410' = 'delivered'",
            "410-499: overlaps \"400-450\", and neither is within the other".to_owned(),
        ),
    ];
    for (adapter, text, expected) in cases {
        check(
            &format!("[targets.crm]\nadapter = '{adapter}'\ndispositions = {{ {text} }}"),
            &[],
            &format!("postbound.toml:8: targets.crm.dispositions.{expected}"),
        );
    }
}

#[test]
fn all_errors_of_a_file_are_told_at_once() {
    let text = "
[worker]
lease = 'soon'
heartbeet = '1s'
[relay]
page_rows = 0
[targets.crm]
adapter = 'crm-match'
[targets.backend]
adapter = 'backend-sync'
url = '${BACKEND_SYNC_URL}'
timeout = '60s'
linger = '5ms'
";
    assert_snapshot!(refusal(text, &["POSTBOUND_TOPOLOGY__PARTITIONS=0"]));
}

#[test]
fn broken_toml_is_located_without_quoting_the_line() {
    check(
        "[receiver]\napi_key = 'hunter2\nlisten = 5",
        &[],
        "postbound.toml:7: not valid TOML: invalid literal string, expected `'`",
    );
    check("[relay]\npage_rows = 1\npage_rows = 2", &[], "postbound.toml:8: not valid TOML: duplicate key");
}

#[test]
fn the_scheduled_reconcile_can_be_switched_off() {
    for off in ["\"off\"", "0", "\"0\"", "\"0s\""] {
        let config = good(&format!("[relay]\nreconcile_every = {off}"), &[]);
        assert_eq!(config.relay.reconcile_every, None, "{off}");
    }
    let config = good("[relay]\nreconcile_every = \"off\"", &["POSTBOUND_RELAY__RECONCILE_EVERY=1h"]);
    assert_eq!(config.relay.reconcile_every, Some(Duration::from_secs(3600)));
}
