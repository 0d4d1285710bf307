use postbound_event::{Action, UserKey};
use serde_json::value::RawValue;
use std::sync::Arc;
use time::OffsetDateTime;
use uuid::Uuid;

/// One state of one user, to be delivered.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The event that brought the state.
    pub event_id: Uuid,
    /// Whose state it is.
    pub key: UserKey,
    /// The user's version, from 1.
    pub version: i64,
    /// The action as the target shall see it, which folding may have changed.
    pub action: Action,
    /// When the change was written to the log.
    pub logged_at: OffsetDateTime,
    /// W3C trace context of the producer.
    pub traceparent: Option<String>,
    /// The canonical user: an object with the fields of `schemas/user.schema.json`. For a delete it may be `{}`, or the
    /// last known state.
    pub data: Arc<RawValue>,
    /// 0 for every ordinary attempt. Above, it makes a new idempotency key (and `webhook-id`) for the same bytes, for a
    /// state that is sent once more on purpose: a receiver that remembers the key would answer without applying it.
    /// A retry keeps the number of the attempt it repeats.
    pub resend: u32,
    /// Whether it is one of a full sync, of all users of the tenant, for contracts that tell one.
    pub full_sync: bool,
}

/// What targets may want to know of a tenant (seed 003: `tenant`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantInfo {
    /// The tenant's id.
    pub id: String,
    /// Display name.
    pub name: Option<String>,
    /// Subdomain of its site.
    pub subdomain: Option<String>,
    /// Id of its organization at the identity provider.
    pub kinde_org_id: Option<String>,
}

impl TenantInfo {
    /// A tenant of which only the id is known.
    pub fn unknown(id: impl Into<String>) -> Self {
        Self { id: id.into(), name: None, subdomain: None, kinde_org_id: None }
    }
}
