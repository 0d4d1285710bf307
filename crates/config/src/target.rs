use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::adapter::{Adapter, BackendSync, CrmBatch, WorkflowTrigger};
use crate::breaker::Breaker;
use crate::dispositions::Dispositions;
use crate::retry::Retry;
use crate::{Secret, SecretList, SecretSource, units};

/// `[targets.<name>]`: one system kept in step.
///
/// The name is `^[a-z][a-z0-9-]{0,39}$`: it becomes part of queue names, metrics and ledger rows.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Target {
    /// The key of the section.
    #[serde(skip_deserializing)]
    pub name: String,
    /// `adapter = "backend-sync" | "crm-batch" | "webhook" | "workflow-trigger"`, with the keys only that adapter knows.
    /// Required.
    #[serde(skip_deserializing)]
    pub adapter: Adapter,
    /// Where requests go. `backend-sync`, `webhook`: the whole URL; `crm-batch`, `workflow-trigger`: the base, see
    /// [`Target::endpoint`].
    /// Default: none, the target is skipped with a warning.
    pub url: Option<String>,
    /// Actions the target wants. Default: all three.
    #[serde(with = "units::list")]
    pub actions: BTreeSet<Action>,
    /// Tenants whose users the target wants. Default: all. A tenant that is added later comes in with
    /// `postbound resync`.
    #[serde(with = "units::list")]
    pub tenants: BTreeSet<String>,
    /// Whether a newer state may take the place of one still waiting; `false` sends every change, in order.
    /// Default true.
    pub coalesce: bool,
    /// Requests in flight at most, per worker. Default 64.
    pub concurrency: usize,
    /// Bytes of messages held at most, per worker. Default 8 MiB: some hundred messages, which take several times as much when they are read.
    #[serde(with = "units::bytes")]
    pub in_flight_bytes_max: usize,
    /// Messages taken ahead of the acknowledgement, per partition. Default 16, fewer where `in_flight_bytes_max` has no room for
    /// them. Lowered, it counts once a worker has begun with an empty queue: RabbitMQ keeps what was given back in its order only for a consumer that takes all of it.
    pub prefetch_messages: u16,
    /// Time for a whole request, connect to last byte; `worker.lease` must exceed it by more than 2 s.
    /// Default 10 s.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Time for connecting alone. Default 5 s.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// When a failed delivery is tried again, and when it is given up.
    pub retry: Retry,
    /// When the target as a whole is paused for failing calls.
    pub breaker: Breaker,
    /// What this target means by an answer, over the built-in table. Default: empty.
    pub dispositions: Dispositions,
    /// Requests the target takes in a span of time, shared by all workers. Default: no limit.
    pub rate_limit: Option<RateLimit>,
    /// Share of `rate_limit` and `concurrency` that backfill (replays, resyncs) may not use, 0.0 to below 1.0.
    /// Default 0.5.
    pub live_share: f64,
    /// Whether the target refuses versions older than the one it holds. Where it does not, a delivery of
    /// unknown outcome may take effect after a newer one: the newest state is then sent once more, under a new
    /// key. Default false.
    pub guards_versions: bool,
    /// How long after an unknown outcome that is done: by then the lost request has ended at the target. Not
    /// shorter than `timeout`. Default 1 min.
    #[serde(with = "units::duration")]
    pub doubt_after: Duration,
    /// Bytes of an answer read at most. Default 1 MiB.
    #[serde(with = "units::bytes")]
    pub response_bytes_max: usize,
    /// Changes of this origin come from the target itself and are not echoed to it. Default: its name.
    pub origin: String,
    /// API key sent in the header the adapter's contract names. Default: none.
    pub api_key: Option<Secret>,
    /// The same, kept in a file and read again when that changes. Default: none.
    pub api_key_file: Option<PathBuf>,
    /// Sent as `Authorization: Bearer ...`. Default: none.
    pub bearer_token: Option<Secret>,
    /// The same, kept in a file and read again when that changes. Default: none.
    pub bearer_token_file: Option<PathBuf>,
    /// User of `Authorization: Basic ...`, with `basic_password`. Default: none.
    pub basic_user: Option<String>,
    /// Its password. Default: none.
    pub basic_password: Option<Secret>,
    /// The same, kept in a file and read again when that changes. Default: none.
    pub basic_password_file: Option<PathBuf>,
    /// Standard Webhooks secrets (`whsec_...`); each one signs. Default: requests are not signed.
    #[serde(with = "units::list")]
    pub signing_secrets: Vec<Secret>,
    /// The same, kept in a file, one a line, read again when that changes. Default: none.
    pub signing_secrets_file: Option<PathBuf>,
    /// Further headers of every request; their values are treated as secrets. Default: none.
    pub headers: BTreeMap<String, Secret>,
    /// Authorities in PEM that are trusted instead of the system's. Read at the start, as the two below. Default: none.
    pub ca_file: Option<PathBuf>,
    /// Our certificate in PEM, with those it was issued by, for targets that ask for one (mutual TLS). Default: none.
    pub client_cert_file: Option<PathBuf>,
    /// Its key in PEM. Default: none.
    pub client_key_file: Option<PathBuf>,
    /// The `User-Agent`. Default `postbound/<version>`.
    pub user_agent: String,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            name: String::new(),
            adapter: Adapter::BackendSync(BackendSync::default()),
            url: None,
            actions: BTreeSet::from([Action::Created, Action::Updated, Action::Deleted]),
            tenants: BTreeSet::new(),
            coalesce: true,
            concurrency: 64,
            in_flight_bytes_max: 8 << 20,
            prefetch_messages: 16,
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            retry: Retry::default(),
            breaker: Breaker::default(),
            dispositions: Dispositions::default(),
            rate_limit: None,
            live_share: 0.5,
            guards_versions: false,
            doubt_after: Duration::from_secs(60),
            response_bytes_max: 1 << 20,
            origin: String::new(),
            api_key: None,
            api_key_file: None,
            bearer_token: None,
            bearer_token_file: None,
            basic_user: None,
            basic_password: None,
            basic_password_file: None,
            signing_secrets: Vec::new(),
            signing_secrets_file: None,
            headers: BTreeMap::new(),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            user_agent: concat!("postbound/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl Target {
    /// A target with every default, for tests and tools.
    pub fn new(name: impl Into<String>, adapter: Adapter) -> Self {
        let name = name.into();
        Self { origin: name.clone(), name, adapter, ..Self::default() }
    }

    /// Whether it has a URL; one without is skipped.
    pub fn is_enabled(&self) -> bool {
        self.url.is_some()
    }

    /// The URL requests go to: for `crm-batch` and `workflow-trigger` the path of the contract
    /// (`/api/internal/sync/users`, `/workflows/trigger`) is appended when the URL names no path of its own. `None` when
    /// the target is skipped.
    pub fn endpoint(&self) -> Option<Url> {
        let mut url = Url::parse(self.url.as_deref()?).ok()?;
        let path = match self.adapter {
            Adapter::CrmBatch(_) => Some(CrmBatch::PATH),
            Adapter::WorkflowTrigger(_) => Some(WorkflowTrigger::PATH),
            Adapter::BackendSync(_) | Adapter::Webhook(_) => None,
        };
        if let (Some(path), "/") = (path, url.path()) {
            url.set_path(path);
        }
        Some(url)
    }

    /// Where the API key comes from, if there is one. Make one source per client: it holds a small cache.
    pub fn api_key(&self) -> Option<SecretSource> {
        SecretSource::from_settings(self.api_key.as_ref(), self.api_key_file.as_ref())
    }

    /// Where the bearer token comes from, if there is one.
    pub fn bearer_token(&self) -> Option<SecretSource> {
        SecretSource::from_settings(self.bearer_token.as_ref(), self.bearer_token_file.as_ref())
    }

    /// Where the password of `basic_user` comes from, if there is one.
    pub fn basic_password(&self) -> Option<SecretSource> {
        SecretSource::from_settings(self.basic_password.as_ref(), self.basic_password_file.as_ref())
    }

    /// Where the signing secrets come from, if requests are signed.
    pub fn signing_secrets(&self) -> Option<SecretList> {
        SecretList::from_settings(&self.signing_secrets, self.signing_secrets_file.as_ref())
    }
}

/// What can happen to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The user came to be.
    Created,
    /// The user changed.
    Updated,
    /// The user is gone.
    Deleted,
}

impl Action {
    /// The word used on every wire and in every table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

/// `{ requests = 100, per = "15m" }`: so many requests in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests in the span.
    pub requests: u32,
    /// The span.
    #[serde(with = "units::duration")]
    pub per: Duration,
}
