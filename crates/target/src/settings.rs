use crate::disposition::AdapterKind;
use crate::template::{BodyTemplate, TextTemplate};
use crate::{AddressPolicy, Override};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Everything a [`crate::Target`] must be told. Fields are those of `[targets.<name>]` in the configuration.
#[derive(Clone)]
pub struct TargetSettings {
    /// Name of the target; part of every idempotency key.
    pub name: String,
    /// The whole URL requests go to, `http` or `https`.
    pub url: String,
    /// Time for a whole request, connect to last byte. Default 10 s (seed 002).
    pub timeout: Duration,
    /// Time for connecting alone. Default 5 s.
    pub connect_timeout: Duration,
    /// Bytes of an answer read at most. Default 1 MiB.
    pub response_bytes_max: usize,
    /// Requests in flight at most; as many idle connections are kept. Default 64.
    pub concurrency: usize,
    /// The `User-Agent`. Default `postbound/<version>`.
    pub user_agent: String,
    /// Further headers of every request. Values are treated as secrets; Postbound's own headers win over them.
    pub headers: Vec<(String, String)>,
    /// `X-Internal-API-Key` (seed 003), of a webhook the header it names. Default: none.
    pub api_key: SecretFn,
    /// `Authorization: Bearer`. Default: none.
    pub bearer_token: SecretFn,
    /// User of `Authorization: Basic`, which goes out instead of a bearer token. Default: none.
    pub basic_user: Option<String>,
    /// Its password.
    pub basic_password: SecretFn,
    /// Standard Webhooks secrets (`whsec_...`); each one signs. Default: requests are not signed.
    pub signing_secrets: SecretsFn,
    /// What TLS is made with. Default: the system's authorities, and no certificate of our own.
    pub tls: TlsFiles,
    /// Tenants whose users the target wants; empty: all. Default: all.
    pub tenants: Vec<String>,
    /// Where requests may go. Default: anywhere.
    pub addresses: AddressPolicy,
    /// The adapter and what only it knows.
    pub adapter: AdapterSettings,
    /// What this target means by an answer, over the built-in table. Default: none.
    pub dispositions: Vec<Override>,
    /// The time of an attempt. Default: the system's clock.
    pub clock: Clock,
}

/// Files in PEM, read when a target is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Authorities that are trusted, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate and those it was issued by, and its key: for targets that ask for one (mutual TLS).
    pub client: Option<(PathBuf, PathBuf)>,
}

/// An adapter with its own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdapterSettings {
    /// One user a request, to a fixed URL (seed 002).
    BackendSync {
        /// Whether requests bear `postbound-tenant`.
        send_tenant_header: bool,
    },
    /// Up to 100 users of one tenant a request, each settled by its own result (seed 003).
    CrmBatch {
        /// `X-Sync-Source`.
        sync_source: String,
        /// `metadata.syncedBy`.
        synced_by: String,
        /// `metadata.applicationCode`.
        application_code: String,
        /// Users one request carries at most, 1 to 100.
        batch_users_max: usize,
        /// Whether users bear `version`, and deleted ones `deleted: true`; off for receivers that refuse unknown
        /// fields.
        send_versions: bool,
    },
    /// One user a request, to any endpoint.
    Webhook {
        /// What the body is.
        body: WebhookBody,
        /// The body's `Content-Type`.
        content_type: String,
        /// Headers whose values are made of the state. Those of [`TargetSettings::headers`] of the same name give way.
        headers: Vec<(String, TextTemplate)>,
        /// The header that bears [`TargetSettings::api_key`].
        api_key_header: String,
        /// JSON pointer into the answer, to the target's own id of the user.
        external_id: Option<String>,
        /// Fields whose change alone is worth a request, each a name or a JSON pointer; empty: all of them.
        changed_fields: Vec<String>,
    },
    /// One registration a request, which starts a workflow (seeds 000 and 001).
    WorkflowTrigger(WorkflowSettings),
}

/// The body of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookBody {
    /// A CloudEvent 1.0 in structured JSON.
    CloudEvents {
        /// Its `source`, a URI reference.
        source: String,
        /// What stands before the action in its `type`.
        type_prefix: String,
    },
    /// What a template of the configuration makes of the state.
    Template(BodyTemplate),
}

/// What a workflow is told, and where its answer holds ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowSettings {
    /// `trigger`.
    pub trigger: String,
    /// `inputData.eventType`.
    pub event_type: String,
    /// `inputData.source` of a user whose data names none.
    pub source: String,
    /// `metadata.platform` of a user whose data names none.
    pub platform: String,
    /// `metadata.authProvider` of a user whose data names none.
    pub auth_provider: String,
    /// Systems by name, each with the JSON pointer into the answer to the user's id there.
    pub links: Vec<(Arc<str>, String)>,
}

impl Default for WorkflowSettings {
    /// As the seeds have it.
    fn default() -> Self {
        let link = |name: &str| (Arc::from(name), format!("/{name}"));
        Self {
            trigger: "user_registration".to_owned(),
            event_type: "account_created".to_owned(),
            source: "website".to_owned(),
            platform: "web".to_owned(),
            auth_provider: "email".to_owned(),
            links: vec![link("frontendUserId"), link("crmContactId")],
        }
    }
}

impl AdapterSettings {
    pub(crate) fn kind(&self) -> AdapterKind {
        match self {
            Self::BackendSync { .. } => AdapterKind::BackendSync,
            Self::CrmBatch { .. } => AdapterKind::CrmBatch,
            Self::Webhook { .. } => AdapterKind::Webhook,
            Self::WorkflowTrigger(_) => AdapterKind::WorkflowTrigger,
        }
    }

    /// Whether a success's body may tell ids, and is therefore read.
    pub(crate) fn reads_ids(&self) -> bool {
        match self {
            Self::BackendSync { .. } | Self::CrmBatch { .. } => false,
            Self::Webhook { external_id, .. } => external_id.is_some(),
            Self::WorkflowTrigger(_) => true,
        }
    }
}

impl TargetSettings {
    /// Settings with every default.
    pub fn new(name: impl Into<String>, url: impl Into<String>, adapter: AdapterSettings) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            response_bytes_max: 1 << 20,
            concurrency: 64,
            user_agent: concat!("postbound/", env!("CARGO_PKG_VERSION")).to_owned(),
            headers: Vec::new(),
            api_key: SecretFn::none(),
            bearer_token: SecretFn::none(),
            basic_user: None,
            basic_password: SecretFn::none(),
            signing_secrets: SecretsFn::none(),
            tls: TlsFiles::default(),
            tenants: Vec::new(),
            addresses: AddressPolicy::Any,
            adapter,
            dispositions: Vec::new(),
            clock: Clock::default(),
        }
    }
}

impl fmt::Debug for TargetSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("TargetSettings")
            .field("name", &self.name)
            .field("adapter", &self.adapter)
            .field("timeout", &self.timeout)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

/// Settings no client can be made of.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The URL cannot be used. It is not repeated: it may hold credentials.
    #[error("the url of target {target} is not an absolute http or https url")]
    Url {
        /// Name of the target.
        target: String,
    },
    /// A header cannot be sent. Its value is not repeated.
    #[error("header {header:?} of target {target} cannot be sent")]
    Header {
        /// Name of the target.
        target: String,
        /// Name of the header.
        header: String,
    },
    /// `batch_users_max` is not 1 to 100.
    #[error("target {target} cannot take {users} users a request; 1 to 100 are possible")]
    BatchUsersMax {
        /// Name of the target.
        target: String,
        /// What was asked for.
        users: usize,
    },
    /// An override makes no sense for this adapter.
    #[error("a disposition of target {target} cannot be used: {problem}")]
    Disposition {
        /// Name of the target.
        target: String,
        /// Which, and why.
        problem: String,
    },
    /// A certificate or key cannot be used.
    #[error("the {what} of target {target} cannot be used: {reason}")]
    Tls {
        /// Name of the target.
        target: String,
        /// Which of the files.
        what: &'static str,
        /// Why. Never holds what is in the file.
        reason: String,
    },
    /// The HTTP client cannot be built, for one because the system has no root certificates.
    #[error("no http client can be built for target {target}: {reason}")]
    Client {
        /// Name of the target.
        target: String,
        /// Why.
        reason: String,
    },
}

type Fetch<T> = Arc<dyn Fn() -> Result<T, String> + Send + Sync>;

/// Gives a secret, anew for every request, so that a rotated one is picked up; `None` where there is none.
#[derive(Clone)]
pub struct SecretFn(Fetch<Option<Arc<str>>>);

impl SecretFn {
    /// No secret at all.
    pub fn none() -> Self {
        Self(Arc::new(|| Ok(None)))
    }

    /// One that never changes.
    pub fn fixed(value: impl Into<Arc<str>>) -> Self {
        let value = value.into();
        Self(Arc::new(move || Ok(Some(Arc::clone(&value)))))
    }

    /// One that is asked for before each request. An `Err` says why there is none now and must not hold secrets.
    pub fn new(fetch: impl Fn() -> Result<Option<Arc<str>>, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(fetch))
    }

    pub(crate) fn current(&self) -> Result<Option<Arc<str>>, String> {
        (self.0)()
    }
}

impl fmt::Debug for SecretFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Gives several secrets of one purpose, so that old and new overlap during a rotation; see [`SecretFn`].
#[derive(Clone)]
pub struct SecretsFn(Fetch<Vec<Arc<str>>>);

impl SecretsFn {
    /// No secret at all.
    pub fn none() -> Self {
        Self(Arc::new(|| Ok(Vec::new())))
    }

    /// Some that never change.
    pub fn fixed<S: Into<Arc<str>>>(values: impl IntoIterator<Item = S>) -> Self {
        let values: Vec<Arc<str>> = values.into_iter().map(Into::into).collect();
        Self(Arc::new(move || Ok(values.clone())))
    }

    /// Some that are asked for before each request. An `Err` says why there are none now and must not hold secrets.
    pub fn new(fetch: impl Fn() -> Result<Vec<Arc<str>>, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(fetch))
    }

    pub(crate) fn current(&self) -> Result<Vec<Arc<str>>, String> {
        (self.0)()
    }
}

impl fmt::Debug for SecretsFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Tells the time of an attempt.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> OffsetDateTime + Send + Sync>);

impl Clock {
    /// A clock for tests.
    pub fn new(now: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(OffsetDateTime::now_utc)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
