use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Secret, SecretSource, units};

/// `[database]`: the Postgres that holds the outbox, the ledger and the leases.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// `postgres://user:password@host:port/database`, with `sslmode`, `sslrootcert` and the like as query
    /// parameters. Required, except for a receiver that stands alone with a `receiver.database_url`.
    pub url: Secret,
    /// File that holds the password; it takes the place of the one in the URL and is read again at each
    /// connect, so a rotated password needs no restart. Default: none.
    pub password_file: Option<PathBuf>,
    /// Connections the pool of one process opens at most. Default 10.
    pub pool_max: u32,
    /// Time one connect may take. Default 10 s.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            password_file: None,
            pool_max: 10,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl Database {
    /// Where the password comes from when it does not stand in the URL.
    pub fn password(&self) -> Option<SecretSource> {
        self.password_file.as_ref().map(SecretSource::file)
    }
}
