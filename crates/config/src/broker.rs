use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Secret, SecretSource, units};

/// `[broker]`: the RabbitMQ that carries changes from the relay to the workers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Broker {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. Required, except for a receiver that
    /// stands alone.
    pub url: Secret,
    /// File that holds the password; it takes the place of the one in the URL and is read again at each
    /// connect. Default: none.
    pub password_file: Option<PathBuf>,
    /// Heartbeat asked of the broker; a connection silent for two of them is dead. Default 10 s.
    #[serde(with = "units::duration")]
    pub heartbeat: Duration,
    /// Time one connect may take, TLS and AMQP handshake included. Default 10 s.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// PEM file of the authority that signed the broker's certificate; no other is trusted then. Read at each
    /// connect, as are the client's own. Default: the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate; needs `client_key_file`. Default: none.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the client certificate's key; needs `client_cert_file`. Default: none.
    pub client_key_file: Option<PathBuf>,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            password_file: None,
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
        }
    }
}

impl Broker {
    /// Where the password comes from when it does not stand in the URL.
    pub fn password(&self) -> Option<SecretSource> {
        self.password_file.as_ref().map(SecretSource::file)
    }
}
