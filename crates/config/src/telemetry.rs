use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::units;

/// `[telemetry]`: logs, metrics and health of every role.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where `/healthz`, `/readyz` and `/metrics` are served; port 0 takes any free one, `""` serves none.
    /// Default `127.0.0.1:9464`.
    #[serde(with = "units::listen_optional")]
    pub listen: Option<SocketAddr>,
    /// What is logged, as a level or as filter directives (`info,postbound_worker=debug`). Default `info`.
    pub log: String,
    /// How it is logged. Default `human`.
    pub log_format: LogFormat,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))),
            log: "info".to_owned(),
            log_format: LogFormat::Human,
        }
    }
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line a person reads.
    Human,
    /// One JSON object a line.
    Json,
}
