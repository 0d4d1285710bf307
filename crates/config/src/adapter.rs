use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decode::keys_of;
use crate::units;

/// Which adapter renders a target's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterKind {
    /// `backend-sync`: one user a request.
    BackendSync,
    /// `crm-batch`: many users of one tenant a request.
    CrmBatch,
    /// `webhook`: one user a request, to any endpoint.
    Webhook,
    /// `workflow-trigger`: one registration a request.
    WorkflowTrigger,
}

impl AdapterKind {
    /// All of them.
    pub(crate) const ALL: [Self; 4] =
        [Self::BackendSync, Self::CrmBatch, Self::Webhook, Self::WorkflowTrigger];

    /// The keys only targets of this adapter take.
    pub(crate) fn keys(self) -> &'static [&'static str] {
        match self {
            Self::BackendSync => keys_of::<BackendSync>(),
            Self::CrmBatch => keys_of::<CrmBatch>(),
            Self::Webhook => keys_of::<Webhook>(),
            Self::WorkflowTrigger => keys_of::<WorkflowTrigger>(),
        }
    }

    /// The word used in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BackendSync => "backend-sync",
            Self::CrmBatch => "crm-batch",
            Self::Webhook => "webhook",
            Self::WorkflowTrigger => "workflow-trigger",
        }
    }
}

/// The adapter of a target with the settings only it knows. In the file they stand beside the target's other
/// keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Adapter {
    /// One user a request, to a fixed URL (seed 002).
    BackendSync(BackendSync),
    /// Up to 100 users of one tenant a request, each settled by its own result (seed 003).
    CrmBatch(CrmBatch),
    /// One user a request, to any endpoint, as a CloudEvent or as a template says.
    Webhook(Webhook),
    /// One registration a request, which starts a workflow (seeds 000 and 001).
    WorkflowTrigger(WorkflowTrigger),
}

impl Adapter {
    /// Which one it is.
    pub fn kind(&self) -> AdapterKind {
        match self {
            Self::BackendSync(_) => AdapterKind::BackendSync,
            Self::CrmBatch(_) => AdapterKind::CrmBatch,
            Self::Webhook(_) => AdapterKind::Webhook,
            Self::WorkflowTrigger(_) => AdapterKind::WorkflowTrigger,
        }
    }
}

/// Keys of a `backend-sync` target.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendSync {
    /// Whether requests bear `postbound-tenant`. Default true.
    pub send_tenant_header: bool,
}

impl Default for BackendSync {
    fn default() -> Self {
        Self { send_tenant_header: true }
    }
}

/// Keys of a `crm-batch` target.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrmBatch {
    /// `X-Sync-Source`. Default `postbound`.
    pub sync_source: String,
    /// `metadata.syncedBy`. Default `postbound`.
    pub synced_by: String,
    /// `metadata.applicationCode`. Default `crm`.
    pub application_code: String,
    /// Users one request carries at most, 1 to 100. Default 100.
    pub batch_users_max: usize,
    /// How long a request waits for more users of its tenant. Default 5 ms.
    #[serde(with = "units::duration")]
    pub linger: Duration,
    /// Whether each user in a body bears its `version`; off for receivers that refuse unknown fields.
    /// Default true.
    pub send_versions: bool,
}

impl Default for CrmBatch {
    fn default() -> Self {
        Self {
            sync_source: "postbound".to_owned(),
            synced_by: "postbound".to_owned(),
            application_code: "crm".to_owned(),
            batch_users_max: 100,
            linger: Duration::from_millis(5),
            send_versions: true,
        }
    }
}

impl CrmBatch {
    /// The path of the contract, used when the URL names none.
    pub const PATH: &'static str = "/api/internal/sync/users";
}

/// Keys of a `webhook` target.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    /// The body as JSON whose strings may hold placeholders, JSON pointers in double braces: `{{/data/email}}`.
    /// Default: a CloudEvent 1.0 in structured JSON.
    pub body: Option<String>,
    /// The body's `Content-Type`. Default: `application/cloudevents+json`, of a template `application/json`.
    pub content_type: Option<String>,
    /// Headers whose values are templates, such as `{{/user}}`. They are shown: secrets belong into `headers`.
    pub header_templates: BTreeMap<String, String>,
    /// `source` of CloudEvents. Default `/postbound`.
    pub event_source: String,
    /// What stands before the action in the `type` of CloudEvents. Default `user.`.
    pub event_type_prefix: String,
    /// JSON pointer into the answer, to the target's own id of the user. Default: none is taken.
    pub external_id: Option<String>,
    /// The header that bears `api_key`. Default `X-API-Key`.
    pub api_key_header: String,
    /// Fields, by name or JSON pointer: an update that leaves all of them as the target has them is not sent.
    /// Default: every update is.
    #[serde(with = "units::list")]
    pub changed_fields: Vec<String>,
    /// What it is told beside users' states: `identity.linked` (a target told an id of a user), `sync.completed` (a resync
    /// is done). Always as CloudEvents. Default: nothing.
    #[serde(with = "units::list")]
    pub notices: BTreeSet<NoticeKind>,
    /// Whether requests may go to addresses that are not public. Default false.
    pub allow_private_addresses: bool,
    /// Networks that requests may go to though they are not public, such as `10.20.0.0/16`. Default: none.
    #[serde(with = "units::list")]
    pub allow_addresses: Vec<String>,
}

/// What a webhook may be told beside users' states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum NoticeKind {
    /// A target told an id of a user.
    #[serde(rename = "identity.linked")]
    IdentityLinked,
    /// A resync is done.
    #[serde(rename = "sync.completed")]
    SyncCompleted,
}

impl Default for Webhook {
    fn default() -> Self {
        Self {
            body: None,
            content_type: None,
            header_templates: BTreeMap::new(),
            event_source: "/postbound".to_owned(),
            event_type_prefix: "user.".to_owned(),
            external_id: None,
            api_key_header: "X-API-Key".to_owned(),
            changed_fields: Vec::new(),
            notices: BTreeSet::new(),
            allow_private_addresses: false,
            allow_addresses: Vec::new(),
        }
    }
}

impl Webhook {
    /// The `Content-Type` of requests.
    pub fn content_type(&self) -> &str {
        match (&self.content_type, &self.body) {
            (Some(own), _) => own,
            (None, Some(_)) => "application/json",
            (None, None) => "application/cloudevents+json",
        }
    }

    /// Whether anything but public addresses is allowed.
    pub(crate) fn reaches_inside(&self) -> bool {
        self.allow_private_addresses || !self.allow_addresses.is_empty()
    }
}

/// Keys of a `workflow-trigger` target. It always gets every event, and wants `created` alone unless `actions` says
/// otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkflowTrigger {
    /// `trigger`. Default `user_registration`.
    pub trigger: String,
    /// `inputData.eventType`. Default `account_created`.
    pub event_type: String,
    /// `inputData.source` of users whose data names none. Default `website`.
    pub source: String,
    /// `metadata.platform` of users whose data names none. Default `web`.
    pub platform: String,
    /// `metadata.authProvider` of users whose data names none. Default `email`.
    pub auth_provider: String,
    /// Ids that the answer tells: systems by name, each with a JSON pointer. Default: `frontendUserId` and
    /// `crmContactId`, each at the top.
    pub links: BTreeMap<String, String>,
}

impl Default for WorkflowTrigger {
    fn default() -> Self {
        let link = |name: &str| (name.to_owned(), format!("/{name}"));
        Self {
            trigger: "user_registration".to_owned(),
            event_type: "account_created".to_owned(),
            source: "website".to_owned(),
            platform: "web".to_owned(),
            auth_provider: "email".to_owned(),
            links: [link("frontendUserId"), link("crmContactId")].into(),
        }
    }
}

impl WorkflowTrigger {
    /// The path of the contract, used when the URL names none.
    pub const PATH: &'static str = "/workflows/trigger";
}
