use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// Which adapter renders a target's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterKind {
    /// `backend-sync`: one user a request.
    BackendSync,
    /// `crm-batch`: many users of one tenant a request.
    CrmBatch,
}

impl AdapterKind {
    /// The word used in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BackendSync => "backend-sync",
            Self::CrmBatch => "crm-batch",
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
}

impl Adapter {
    /// Which one it is.
    pub fn kind(&self) -> AdapterKind {
        match self {
            Self::BackendSync(_) => AdapterKind::BackendSync,
            Self::CrmBatch(_) => AdapterKind::CrmBatch,
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
