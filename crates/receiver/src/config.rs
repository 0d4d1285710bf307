//! What a receiver is told at its start, and what can be wrong with it.

use std::fmt;
use std::time::Duration;

/// A contract a receiver can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Contract {
    /// The backend's registration workflow: one registration per request, `POST /workflows/trigger`.
    S0,
    /// The backend's user sync: one user per request, `POST /internal/users/sync`.
    S2,
    /// The CRM's batch sync: one tenant's users per request, `POST /api/internal/sync/users`.
    S3,
}

impl Contract {
    /// The name used in `request_log.contract` and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S0 => "s0",
            Self::S2 => "s2",
            Self::S3 => "s3",
        }
    }
}

/// How careful the receiver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The model: keys, signatures, versions and idempotency are checked, refusals are RFC 9457 problems.
    #[default]
    Guarded,
    /// The documents' sample code: no version, no idempotency, the last writer wins.
    Guardless,
}

/// At most this many requests in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// How many requests one client address may send in a window.
    pub requests: u32,
    /// How long the window is; it starts with a client's first request.
    pub per: Duration,
}

impl Default for RateLimit {
    /// The CRM document's recommendation: 100 requests in 15 minutes.
    fn default() -> Self {
        Self { requests: 100, per: Duration::from_secs(15 * 60) }
    }
}

/// Settings of one receiver process. Start from [`ReceiverConfig::new`] and change what differs.
#[derive(Clone)]
pub struct ReceiverConfig {
    /// Postgres, as `postgres://user:password@host:port/database`. Connect directly, not through a pooler in
    /// transaction mode: `search_path` is set per connection. Benchmarks may append
    /// `?options=-c%20synchronous_commit=off`.
    pub database_url: String,
    /// The schema that holds the receiver's tables: lowercase letters, digits and underscores.
    pub schema: String,
    /// Which endpoints exist; the others answer 404.
    pub contracts: Vec<Contract>,
    /// The model or the samples.
    pub mode: Mode,
    /// S3: the key expected in `X-Internal-API-Key`; `None` admits everyone.
    pub api_key: Option<String>,
    /// S0 and S2, guarded: the key expected in `Authorization: Bearer` or `X-Internal-API-Key`; `None` asks for none.
    pub backend_api_key: Option<String>,
    /// S0 and S2, guarded: Standard Webhooks secrets (`whsec_...`), any of which may have signed; empty asks for no signature.
    pub signing_secrets: Vec<String>,
    /// S3: how often one client may call; `None` for no limit.
    pub rate_limit: Option<RateLimit>,
    /// Longest body accepted, in bytes; a longer one is answered 413.
    pub body_bytes_max: usize,
    /// Most users accepted in one S3 request; more are answered 422.
    pub users_max: usize,
    /// Connections to Postgres.
    pub pool_size: u32,
    /// Longest wait for a connection, and longest run of a statement; past it the answer is 503.
    pub database_timeout: Duration,
    /// How long answers are kept for repeated idempotency keys.
    pub idempotency_retention: Duration,
    /// S0: the mail server of the welcome e-mails; `None`: they are written down and not sent.
    pub smtp: Option<Smtp>,
    /// S2, S3: where changes made here are told, and the backend's administration with it; `None` for nowhere.
    pub notify: Option<crate::NotifyConfig>,
    /// Whether `/_faults` exists, by which anyone who reaches the port can make the receiver misbehave: for tests and
    /// demonstrations only.
    pub faults: bool,
}

impl ReceiverConfig {
    /// All contracts, guarded, without keys or secrets, faults off, the documents' limits.
    pub fn new(database_url: impl Into<String>) -> Self {
        Self {
            database_url: database_url.into(),
            schema: "receiver".to_owned(),
            contracts: vec![Contract::S0, Contract::S2, Contract::S3],
            mode: Mode::Guarded,
            api_key: None,
            backend_api_key: None,
            signing_secrets: Vec::new(),
            rate_limit: Some(RateLimit::default()),
            body_bytes_max: 1024 * 1024,
            users_max: 100,
            pool_size: 16,
            database_timeout: Duration::from_secs(8),
            idempotency_retention: Duration::from_secs(7 * 24 * 60 * 60),
            smtp: None,
            notify: None,
            faults: false,
        }
    }
}

/// A mail server.
#[derive(Clone, PartialEq, Eq)]
pub struct Smtp {
    /// `smtps://user:password@host`, or `smtp://user:password@host:587?tls=required`; a plain `smtp://host` is for trials.
    pub url: String,
    /// Who writes, such as `Postbound <welcome@example.com>`.
    pub from: String,
}

impl fmt::Debug for Smtp {
    /// Leaves out the server's address, which may hold its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp").field("from", &self.from).finish_non_exhaustive()
    }
}

impl fmt::Debug for ReceiverConfig {
    /// Leaves out the database's address, the keys and the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiverConfig")
            .field("schema", &self.schema)
            .field("contracts", &self.contracts)
            .field("mode", &self.mode)
            .field("api_key", &self.api_key.is_some())
            .field("backend_api_key", &self.backend_api_key.is_some())
            .field("signing_secrets", &self.signing_secrets.len())
            .field("rate_limit", &self.rate_limit)
            .field("body_bytes_max", &self.body_bytes_max)
            .field("users_max", &self.users_max)
            .field("pool_size", &self.pool_size)
            .field("database_timeout", &self.database_timeout)
            .field("idempotency_retention", &self.idempotency_retention)
            .field("smtp", &self.smtp)
            .field("notify", &self.notify)
            .field("faults", &self.faults)
            .finish()
    }
}

/// Why a receiver could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The schema's name is not a plain lowercase identifier.
    #[error("schema name {0:?} is not of lowercase letters, digits and underscores, or is longer than 63")]
    SchemaName(String),
    /// Webhooks cannot be sent.
    #[error("the webhooks back to the sender cannot be sent: {0}")]
    Notify(String),
    /// A signing secret cannot be used; its position in the list, never its text.
    #[error("signing secret {position} is not whsec_ followed by the base64 of 24 to 64 bytes")]
    SigningSecret {
        /// Position in `signing_secrets`, from 0.
        position: usize,
    },
    /// The mail server's settings cannot be used. They are not repeated: they may hold its password.
    #[error("smtp: {0}")]
    Smtp(&'static str),
    /// Postgres refused or was not there.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The listening socket failed.
    #[error("listener: {0}")]
    Listener(#[from] std::io::Error),
}

/// Refuses a schema name that would need quoting, so that it can stand in statements and in `search_path`.
pub(crate) fn check_schema_name(schema: &str) -> Result<(), ReceiverError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if schema.is_empty()
        || schema.len() > 63
        || schema.starts_with(|c: char| c.is_ascii_digit())
        || !schema.chars().all(plain)
    {
        return Err(ReceiverError::SchemaName(schema.to_owned()));
    }
    Ok(())
}
