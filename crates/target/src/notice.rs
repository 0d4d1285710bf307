//! What a webhook is told beside users' states, always as a CloudEvent (1.0, structured JSON).

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// Something that happened, and is no user's state: a user was linked, a resync is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// Id of the event, the same for every attempt.
    pub id: Uuid,
    /// Its `type`, such as `identity.linked`.
    pub kind: String,
    /// Tenant of the user, where it is about one.
    pub tenant: Option<String>,
    /// The user, where it is about one: the `subject`.
    pub user: Option<String>,
    /// When it happened.
    pub at: OffsetDateTime,
    /// What is told.
    pub data: Value,
}

impl Notice {
    /// The body. Nothing in it comes from the clock: a retry sends the same bytes.
    pub(crate) fn render(&self, source: &str) -> Vec<u8> {
        let mut event = json!({
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "type": self.kind,
            "time": self.at.format(&Rfc3339).unwrap_or_default(),
            "datacontenttype": "application/json",
            "data": self.data,
        });
        for (name, value) in [("subject", &self.user), ("tenantid", &self.tenant)] {
            if let Some(value) = value {
                event[name] = Value::from(value.as_str());
            }
        }
        event.to_string().into_bytes()
    }
}
