use std::sync::OnceLock;

use jsonschema::Validator;
use postbound_client::{Change, DEFAULT_TENANT};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::openapi::user_schema;
use crate::problem::Problem;

/// What is told of a body that breaks the schema at most.
const ERRORS_MAX: usize = 10;

/// A change as a producer tells it over HTTP; the columns of `postbound.outbox`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Event)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EventBody {
    /// Tenant of the user; `default` where left out.
    #[schema(min_length = 1, max_length = 256)]
    tenant_id: Option<String>,
    /// The user's id.
    #[schema(min_length = 1, max_length = 256)]
    pub(super) user_id: String,
    pub(super) action: EventAction,
    /// The user's whole state after the change.
    #[serde(default)]
    #[schema(value_type = Option<super::describe::User>)]
    data: Option<Value>,
    /// The target the change comes from, which does not get it back.
    #[schema(min_length = 1, max_length = 256)]
    origin: Option<String>,
    /// The only targets it is for; left out: all.
    targets: Option<Vec<String>>,
    /// An id of the producer's own; the same id with other content is refused.
    event_id: Option<Uuid>,
}

/// What happened to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum EventAction {
    Created,
    Updated,
    Deleted,
}

impl EventBody {
    /// Reads and validates a body: 400 where it is not JSON, 422 where it is not of the form. Reasons name places and
    /// never repeat values.
    pub(super) fn read(body: &[u8]) -> Result<Self, Problem> {
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            Problem::malformed(format!(
                "the body is not JSON: line {} column {}",
                error.line(),
                error.column()
            ))
        })?;
        if !value.is_object() {
            return Err(Problem::unacceptable("the body is not a JSON object"));
        }
        let event = Self::deserialize(&value).map_err(|error| Problem::unacceptable(masked(&error)))?;
        if let Some(data) = &event.data {
            check_user(data, "/data")?;
        }
        Ok(event)
    }

    pub(super) fn tenant(&self) -> &str {
        self.tenant_id.as_deref().unwrap_or(DEFAULT_TENANT)
    }

    /// The only targets it is for; None: all.
    pub(super) fn targets(&self) -> Option<&[String]> {
        self.targets.as_deref()
    }

    /// The change to be written.
    pub(super) fn change(&self, traceparent: Option<&str>) -> Result<Change, Problem> {
        let (tenant, user) = (self.tenant(), &self.user_id);
        let mut change = match self.action {
            EventAction::Created => Change::created(tenant, user),
            EventAction::Updated => Change::updated(tenant, user),
            EventAction::Deleted => Change::deleted(tenant, user),
        };
        if let Some(data) = &self.data {
            change = change.data(data).map_err(|_| Problem::internal())?;
        }
        if let Some(origin) = &self.origin {
            change = change.origin(origin);
        }
        if let Some(targets) = &self.targets {
            change = change.targets(targets.iter().cloned());
        }
        if let Some(event_id) = self.event_id {
            change = change.event_id(event_id);
        }
        if let Some(traceparent) = traceparent {
            change = change.traceparent(traceparent);
        }
        Ok(change)
    }
}

/// Refuses (422) data that is not of the schema of a user. `place` is where it stands in the body.
pub(crate) fn check_user(data: &Value, place: &str) -> Result<(), Problem> {
    let validator = validator().ok_or_else(Problem::internal)?;
    let errors: Vec<Value> = validator
        .iter_errors(data)
        .take(ERRORS_MAX)
        .map(|error| {
            let detail = error.masked().to_string();
            json!({"pointer": format!("{place}{}", error.instance_path()), "detail": detail})
        })
        .collect();
    if errors.is_empty() {
        return Ok(());
    }
    Err(Problem::unacceptable("the data is not of the schema urn:postbound:schema:user:1")
        .with("errors", errors))
}

/// Compiled once; None would be a fault of the build, which a test rules out.
fn validator() -> Option<&'static Validator> {
    static VALIDATOR: OnceLock<Option<Validator>> = OnceLock::new();
    VALIDATOR
        .get_or_init(|| jsonschema::options().should_validate_formats(true).build(&user_schema()).ok())
        .as_ref()
}

/// The error without what stands between quotes or after "unexpected", unless it is a name of ours.
fn masked(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(": ") {
        Some(("invalid type", _)) => "a member is of the wrong type".to_owned(),
        Some((_, rest)) if text.starts_with("invalid value") => {
            format!(
                "a member has a wrong value: {}",
                rest.rsplit("expected").next().unwrap_or_default().trim()
            )
        }
        _ if text.starts_with("UUID") => "eventId is not a UUID".to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &Value, status: u16, says: &str) {
        let problem = EventBody::read(body.to_string().as_bytes()).unwrap_err();
        assert_eq!(problem.status.as_u16(), status, "{problem:?}");
        assert!(problem.body().to_string().contains(says), "{problem:?}");
        assert!(!problem.body().to_string().contains("secret"), "{problem:?}");
    }

    #[test]
    fn a_body_that_is_not_of_the_form_is_told_where_and_never_quoted() {
        check(&json!([]), 422, "not a JSON object");
        check(&json!({"action": "updated"}), 422, "userId");
        check(&json!({"userId": 7, "action": "updated"}), 422, "wrong type");
        check(&json!({"userId": "u", "action": "gone"}), 422, "created");
        check(&json!({"userId": "u", "action": "updated", "user": {}}), 422, "unknown field");
        check(&json!({"userId": "u", "action": "updated", "eventId": "secret"}), 422, "eventId");
        check(&json!({"userId": "u", "action": "updated", "data": {"email": "secret"}}), 422, "/data/email");
        check(&json!({"userId": "u", "action": "updated", "data": ["secret"]}), 422, "/data");
        let problem = EventBody::read(b"{").unwrap_err();
        assert_eq!(problem.status.as_u16(), 400);
    }

    #[test]
    fn fields_the_schema_does_not_list_pass() {
        let body =
            json!({"userId": "u", "action": "created", "data": {"email": "ada@example.com", "shoeSize": 38}});
        let event = EventBody::read(body.to_string().as_bytes()).unwrap();
        assert_eq!(event.tenant(), "default");
        event.change(None).unwrap();
    }
}
