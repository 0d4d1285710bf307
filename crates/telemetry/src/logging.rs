use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line a person reads, coloured on a terminal.
    Human,
    /// One JSON object a line, the event's fields at its top level.
    Json,
}

/// Sends the process's logs to stderr; stdout stays for what a command answers.
///
/// `filter` is a level or directives, such as `info,postbound_worker=debug`.
///
/// # Errors
/// When the filter cannot be read, or logging was set up before; then nothing changes.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| LoggingError::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let set = match format {
        LogFormat::Human => lines.with_ansi(io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    set.map_err(|_| LoggingError::AlreadySet)
}

/// Logging cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error(
        "`{filter}` is not a log filter: {reason}; expected a level or directives such as `info,postbound_worker=debug`"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody was first.
    #[error("logging is already set up in this process")]
    AlreadySet,
}
