use crate::output::aside;
use std::{fmt, process::ExitCode};

/// How a subcommand ends: its exit code, and what to say of it.
#[derive(Debug)]
pub(crate) enum Exit {
    /// Done, or stopped as asked.
    Done,
    /// It failed.
    Failed(String),
    /// The command line asks for what cannot be, or for too much without `--yes`.
    Usage(String),
    /// The configuration is wrong.
    Configuration(String),
    /// It checked, and something needs mending; it has said what.
    Findings,
    /// It was stopped before the drain was complete.
    Undrained(String),
}

impl Exit {
    pub(crate) fn failed(why: impl fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }

    /// Says what went wrong and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Failed(why) => {
                aside(format!("postbound: {why}"));
                ExitCode::from(1)
            }
            Self::Usage(why) => {
                aside(format!("postbound: {why}"));
                ExitCode::from(2)
            }
            Self::Configuration(why) => {
                aside(why);
                ExitCode::from(3)
            }
            Self::Findings => ExitCode::from(4),
            Self::Undrained(why) => {
                aside(format!("postbound: {why}"));
                ExitCode::from(5)
            }
        }
    }
}

/// Errors that end a command become its exit.
pub(crate) fn failed<E: fmt::Display>(error: E) -> Exit {
    Exit::failed(error)
}
