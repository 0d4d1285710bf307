//! Logging is set up once, and says why when it cannot be.

use postbound_telemetry::{LogFormat, LoggingError, init_logging};

#[test]
fn logging_is_set_up_once_and_a_bad_filter_changes_nothing() {
    let refused = init_logging("info,postbound=loud", LogFormat::Json).unwrap_err();
    assert!(refused.to_string().starts_with("`info,postbound=loud` is not a log filter: "), "{refused}");
    assert_eq!(init_logging("info", LogFormat::Json), Ok(()));
    assert_eq!(init_logging("info", LogFormat::Human), Err(LoggingError::AlreadySet));
    tracing::info!(user.id = "u-1", "sync.started");
}
