//! Secrets are never printed, and a rotated file is picked up.

use std::path::Path;
use std::time::{Duration, Instant};

use postbound_config::{
    Adapter, BackendSync, Breaker, Config, CrmBatch, RateLimit, Retry, Secret, SecretList, SecretSource,
    Target,
};

#[test]
fn a_secret_is_never_printed() {
    let environment = [
        ("POSTBOUND_DATABASE__URL", "postgres://app:hunter2@db/app"),
        ("POSTBOUND_BROKER__URL", "amqp://app:hunter2@mq"),
        ("POSTBOUND_RECEIVER__DATABASE_URL", "postgres://app:hunter2@db/app"),
        ("POSTBOUND_RECEIVER__SIGNING_SECRETS", "whsec_hunter2hunter2hunter2hunter2AAAA"),
        ("POSTBOUND_TARGETS__CRM__ADAPTER", "crm-batch"),
        ("POSTBOUND_TARGETS__CRM__BEARER_TOKEN", "hunter2"),
        ("POSTBOUND_TARGETS__CRM__HEADERS__X_KEY", "hunter2"),
    ];
    let config = Config::load(None, environment.map(|(name, value)| (name.into(), value.into()))).unwrap();
    let secret = Secret::from("hunter2");
    let source = SecretSource::inline(secret.clone());
    let printed = format!("{config:?} {config:#?} {secret} {secret:?} {source:?}");
    let json = serde_json::to_string(&config).unwrap();
    assert!(!printed.contains("hunter2") && !json.contains("hunter2"), "{printed} {json}");
    assert!(json.contains(r#""url":"***""#));
}

#[test]
fn a_url_is_shown_without_its_password() {
    let cases = [
        ("postgres://app:hunter2@db:5432/app?sslmode=require", "postgres://app:***@db:5432/app"),
        ("postgres://app:hunt@er/2@db/app?password=hunter2", "postgres://app:***@db/app"),
        ("amqp://mq:5672/%2f", "amqp://mq:5672/%2f"),
        ("hunter2", "***"),
    ];
    for (url, shown) in cases {
        assert_eq!(Secret::from(url).redacted_url(), shown);
    }
}

/// Waits until the once-a-second look at the file has seen what was written.
fn eventually(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "the change was never seen");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn replace(path: &Path, content: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, content).unwrap();
    std::fs::rename(&next, path).unwrap();
}

#[test]
fn a_rotated_file_is_picked_up_and_a_vanished_one_keeps_the_last_value() {
    let directory = tempfile::tempdir().unwrap();
    let (key, list) = (directory.path().join("key"), directory.path().join("list"));
    let source = SecretSource::file(&key);
    let secrets = SecretList::file(&list);
    let error = source.current().unwrap_err().to_string();
    assert!(error.contains(key.to_str().unwrap()) && error.contains("No such file"), "{error}");

    std::fs::write(&key, "").unwrap();
    assert!(source.current().unwrap_err().to_string().ends_with("is empty"));
    std::fs::write(&key, "first\r\n").unwrap();
    std::fs::write(&list, "one\n\n two \n").unwrap();
    assert_eq!(source.current().unwrap().expose(), "first");
    assert_eq!(*secrets.current().unwrap(), [Secret::from("one"), Secret::from("two")]);

    replace(&key, "other\n");
    replace(&list, "two\n");
    eventually(|| source.current().unwrap().expose() == "other");
    eventually(|| *secrets.current().unwrap() == [Secret::from("two")]);

    std::fs::remove_file(&key).unwrap();
    std::thread::park_timeout(Duration::from_millis(1100));
    assert_eq!(source.current().unwrap().expose(), "other");
}

#[test]
fn files_that_cannot_be_read_are_named_with_their_key() {
    let mut config = Config::default();
    config.database.password_file = Some("/nowhere/password".into());
    let found = config.check_secret_files();
    let [(key, error)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(key, "database.password_file");
    assert!(error.to_string().starts_with("cannot read the secret file /nowhere/password"), "{error}");
}

#[test]
fn the_hash_follows_what_is_sent_and_not_how_fast_or_with_which_secret() {
    let config = Config::default();
    let crm = Target::new("crm", Adapter::CrmBatch(CrmBatch::default()));
    let hash = |target: &Target| config.target_hash(target);
    let base = hash(&crm);
    assert_eq!(base.len(), 64);

    let paced = Target {
        concurrency: 1,
        timeout: Duration::from_secs(1),
        api_key: Some("hunter2".into()),
        retry: Retry { horizon: Duration::from_secs(1), ..Retry::default() },
        breaker: Breaker { calls_min: 1, ..Breaker::default() },
        rate_limit: Some(RateLimit { requests: 1, per: Duration::from_secs(1) }),
        live_share: 0.0,
        doubt_after: Duration::from_secs(1),
        adapter: Adapter::CrmBatch(CrmBatch { linger: Duration::ZERO, ..CrmBatch::default() }),
        ..crm.clone()
    };
    assert_eq!(hash(&paced), base);
    let with_path = |url: &str| hash(&Target { url: Some(url.to_owned()), ..crm.clone() });
    assert_eq!(with_path("http://crm"), with_path("http://crm/api/internal/sync/users"));

    let dispositions = |json: &str| serde_json::from_str(json).unwrap();
    let others = [
        Target { name: "crm2".to_owned(), ..crm.clone() },
        Target { coalesce: false, ..crm.clone() },
        Target { url: Some("http://crm".to_owned()), ..crm.clone() },
        Target { origin: "other".to_owned(), ..crm.clone() },
        Target { guards_versions: true, ..crm.clone() },
        Target { dispositions: dispositions(r#"{"404": "permanent"}"#), ..crm.clone() },
        Target { dispositions: dispositions(r#"{"404": "transient"}"#), ..crm.clone() },
        Target { adapter: Adapter::BackendSync(BackendSync::default()), ..crm.clone() },
        Target {
            adapter: Adapter::CrmBatch(CrmBatch { send_versions: false, ..CrmBatch::default() }),
            ..crm.clone()
        },
    ];
    for other in others {
        assert_ne!(hash(&other), base, "{other:?}");
        let told = other.name != crm.name || other.registered_settings() != crm.registered_settings();
        assert!(told, "people are told which setting it is: {other:?}");
    }
}

#[test]
fn settings_that_are_registered_hold_no_secret() {
    let crm = Target {
        url: Some("https://ada:hunter2@crm.example/sync?token=hunter2".to_owned()),
        api_key: Some("hunter2".into()),
        headers: [("X-Tenant-Key".to_owned(), "hunter2".into())].into(),
        ..Target::new("crm", Adapter::CrmBatch(CrmBatch::default()))
    };
    let settings = crm.registered_settings();
    assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
    let shown = |name: &str| settings[name].as_str();
    assert_eq!(shown("url"), "https://ada:***@crm.example/sync");
    assert_eq!((shown("adapter"), shown("headers")), ("crm-batch", r#"["X-Tenant-Key"]"#));
    assert_eq!((shown("guards_versions"), shown("dispositions")), ("false", "{}"));
}
