use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::errors::Errors;
use crate::ingress_directory::IngressDirectory;
use crate::ingress_source::IngressSource;
use crate::ingress_status::IngressStatus;
use crate::ingress_token::IngressToken;
use crate::tree::Node;
use crate::units;
use crate::validate::Check;

/// `[ingress]`: the HTTP process that takes changes in: webhooks of other systems, `POST /v1/events`, the directory, the
/// sync status.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingress {
    /// Where requests are taken; port 0 takes any free one. Default `127.0.0.1:8090`.
    #[serde(with = "units::listen")]
    pub listen: SocketAddr,
    /// Longest body taken; longer ones are answered 413. Default 512 KiB, twice what a user's data may be.
    #[serde(with = "units::bytes")]
    pub body_bytes_max: usize,
    /// Time for a whole request, its body included. Default 15 s.
    #[serde(with = "units::duration")]
    pub request_timeout: Duration,
    /// Requests worked on at once; more are answered 503 at once. Default 256.
    pub concurrency: usize,
    /// Days for which webhook ids and idempotency keys are remembered. Default 7.
    pub dedup_window_days: u32,
    /// Days for which changes of users nobody knows are kept; then they are dropped, as they hold personal data. Default 30.
    pub waiting_days: u32,
    /// Bearer tokens of those who may call `/v1` and the directory, by a name for the logs. Default: nobody may.
    pub tokens: BTreeMap<String, IngressToken>,
    /// Webhooks taken in, by name. Default: none.
    pub sources: BTreeMap<String, IngressSource>,
    /// `POST /v1/events`.
    pub events: IngressEvents,
    /// Sync status and identity links.
    pub status: IngressStatus,
    /// The user directory.
    pub directory: IngressDirectory,
}

impl Default for Ingress {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8090)),
            body_bytes_max: 512 << 10,
            request_timeout: Duration::from_secs(15),
            concurrency: 256,
            dedup_window_days: 7,
            waiting_days: 30,
            tokens: BTreeMap::new(),
            sources: BTreeMap::new(),
            events: IngressEvents::default(),
            status: IngressStatus::default(),
            directory: IngressDirectory::default(),
        }
    }
}

/// `[ingress.events]`: `POST /v1/events`, for producers that cannot reach Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngressEvents {
    /// The longest time a request may ask to wait for its delivery (`Prefer: wait=3`); `off` answers at once. Default 5 s.
    #[serde(with = "units::duration_or_off")]
    pub wait_max: Option<Duration>,
}

impl Default for IngressEvents {
    fn default() -> Self {
        Self { wait_max: Some(Duration::from_secs(5)) }
    }
}

/// The section as it stands in the file; where it is not there, the defaults.
pub(crate) fn decode_ingress(root: &Node, errors: &mut Errors) -> Ingress {
    let mut ingress: Ingress = crate::decode::section(root.at(["ingress"]), "ingress", &[], errors);
    for (name, source) in &mut ingress.sources {
        source.name.clone_from(name);
    }
    ingress
}

impl Check<'_> {
    pub(crate) fn ingress(&mut self, ingress: &Ingress) {
        self.some_count(ingress.body_bytes_max, "ingress.body_bytes_max");
        self.some_time(ingress.request_timeout, "ingress.request_timeout");
        self.some_count(ingress.concurrency, "ingress.concurrency");
        self.at_least_one(ingress.dedup_window_days, "ingress.dedup_window_days");
        self.at_least_one(ingress.waiting_days, "ingress.waiting_days");
        if let Some(wait) = ingress.events.wait_max {
            self.require(
                wait < ingress.request_timeout,
                "ingress.events.wait_max",
                "must be shorter than ingress.request_timeout",
            );
        }
        self.ingress_status(&ingress.status);
        self.ingress_directory(&ingress.directory);
        for (name, token) in &ingress.tokens {
            self.ingress_token(name, token);
        }
        for source in ingress.sources.values() {
            self.ingress_source(source);
        }
        self.ingress_paths(ingress);
    }

    /// Two sources on one path cannot be told apart.
    fn ingress_paths(&mut self, ingress: &Ingress) {
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, source) in &ingress.sources {
            if let Some(other) = taken.insert(source.path(), name) {
                let key = format!("ingress.sources.{name}.path");
                self.require(
                    false,
                    &key,
                    format!("{} is that of the source `{other}` already", source.path()),
                );
            }
        }
    }
}
