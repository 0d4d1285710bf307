//! Where the servers of a run are: what its owner hands to every other process.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{Authority, Postgres, RabbitMq};

/// The environment variable that holds the path of the endpoints' file.
pub const ENDPOINTS_VARIABLE: &str = "POSTBOUND_TESTBED";

/// Both servers of a run, for processes that use but do not own them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoints {
    /// The PostgreSQL server.
    pub postgres: Postgres,
    /// The RabbitMQ server.
    pub rabbitmq: RabbitMq,
    /// Who signed both servers' certificates, and signs those of their clients.
    pub authority: Authority,
}

impl Endpoints {
    /// Reads the file that [`ENDPOINTS_VARIABLE`] names.
    ///
    /// # Errors
    /// If the variable is not set or its file cannot be read; the message says how to run the tests.
    pub fn from_env() -> Result<Self> {
        const HINT: &str = "run `cargo xtask test`, or `cargo xtask services` and its exports";
        let path = std::env::var_os(ENDPOINTS_VARIABLE)
            .map(PathBuf::from)
            .with_context(|| format!("{ENDPOINTS_VARIABLE} is not set: {HINT}"))?;
        Self::read(&path).with_context(|| format!("the servers in {ENDPOINTS_VARIABLE} are gone: {HINT}"))
    }

    /// Reads an endpoints' file.
    ///
    /// # Errors
    /// If the file cannot be read or is of another version of this crate.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("cannot understand {}", path.display()))
    }

    /// Writes the file, readable by its owner alone as it holds passwords.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        Ok(())
    }
}
