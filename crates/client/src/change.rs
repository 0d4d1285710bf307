use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// The tenant of producers that have none.
pub const DEFAULT_TENANT: &str = "default";

/// One change of one user, still to be written.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    pub(crate) tenant_id: String,
    pub(crate) user_id: String,
    pub(crate) action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) targets: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
}

impl Change {
    /// The user came to be, or came back after a delete.
    pub fn created(tenant_id: impl Into<String>, user_id: impl Into<String>) -> Self {
        Self::new(tenant_id.into(), user_id.into(), "created")
    }

    /// The user's state changed. Refused for a deleted user; accepted for one never seen before.
    pub fn updated(tenant_id: impl Into<String>, user_id: impl Into<String>) -> Self {
        Self::new(tenant_id.into(), user_id.into(), "updated")
    }

    /// The user is gone. Needs no data.
    pub fn deleted(tenant_id: impl Into<String>, user_id: impl Into<String>) -> Self {
        Self::new(tenant_id.into(), user_id.into(), "deleted")
    }

    fn new(tenant_id: String, user_id: String, action: &'static str) -> Self {
        Self {
            tenant_id,
            user_id,
            action,
            data: None,
            origin: None,
            targets: None,
            event_id: None,
            traceparent: None,
        }
    }

    /// The user's whole state after the change: anything that serializes to a JSON object of at most 256 KiB.
    /// Left out, it is `{}`.
    ///
    /// # Errors
    /// When the state cannot be serialized.
    pub fn data<T: Serialize + ?Sized>(mut self, state: &T) -> Result<Self, serde_json::Error> {
        self.data = Some(serde_json::value::to_raw_value(state)?);
        Ok(self)
    }

    /// The system the change came from. A target of that origin does not get it back.
    #[must_use]
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = Some(origin.into());
        self
    }

    /// The only targets the change is for. Left out, it is for all; an empty list is for none.
    #[must_use]
    pub fn targets<T: Into<String>>(mut self, targets: impl IntoIterator<Item = T>) -> Self {
        self.targets = Some(targets.into_iter().map(Into::into).collect());
        self
    }

    /// An id of the caller's own: written again with the same content, the change is written only once.
    #[must_use]
    pub fn event_id(mut self, event_id: Uuid) -> Self {
        self.event_id = Some(event_id);
        self
    }

    /// W3C trace context to carry to the targets; a malformed one is ignored.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }
}
