//! The guarded backend: what contract S2 demands of a request, and what it is answered.
//!
//! The body is the user's whole state: a field that is absent or null is empty from then on. A delete needs an id
//! alone. The version decides and not the action: a newer `updated` brings a deleted user back as a newer `created` does.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use postbound_http::require_json;
use serde_json::{Map, Value};

use crate::intake::{Delivery, Envelope};
use crate::problem::{Problem, Refusal, database, key_conflict, key_in_progress, stale_version};
use crate::server::Receiver;
use crate::shape;
use crate::storage::BackendChange;

/// Tenant of a request that names none.
pub(crate) const DEFAULT_TENANT: &str = "default";

/// Handles one request. An `Err` was not logged by the database.
pub(crate) async fn sync(receiver: &Receiver, delivery: &Delivery) -> Result<Response, Problem> {
    require_json(&delivery.headers)?;
    let envelope = Envelope::strict(&delivery.headers)?;
    let json = delivery.json()?;
    let (id, action) = check(json)?;
    let change = BackendChange {
        tenant_id: envelope.tenant.as_deref().unwrap_or(DEFAULT_TENANT),
        user_id: id,
        action,
        version: envelope.version,
        key: envelope.key.as_deref(),
        event_id: envelope.event_id.as_deref(),
        body_sha256: &delivery.sha256,
        content: json,
    };
    let answer = receiver.storage().sync_backend(&change).await.map_err(database)?;
    tracing::debug!(
        contract = "s2", tenant.id = change.tenant_id, user.id = id, user.version = change.version,
        outcome = %answer.outcome, "receiver.user.synced"
    );
    Ok(answer_with(&answer.outcome, answer.response, answer.held_version))
}

/// The answer to an outcome of the database's function, for both contracts.
pub(crate) fn answer_with(outcome: &str, response: Option<String>, held_version: Option<i64>) -> Response {
    match outcome {
        "stale" => Refusal::from(stale_version(held_version)).into_response(),
        "in_progress" => Refusal::from(key_in_progress()).into_response(),
        "key_conflict" => Refusal::from(key_conflict()).into_response(),
        _ => {
            let headers = [(header::CONTENT_TYPE, "application/json")];
            let mut answer = (StatusCode::OK, headers, response.unwrap_or_default()).into_response();
            if outcome == "replayed" {
                let value = axum::http::HeaderValue::from_static("true");
                answer.headers_mut().insert("idempotency-replayed", value);
            }
            answer
        }
    }
}

/// The user's id and the action, once the body is found to be in order.
fn check(json: &Value) -> Result<(&str, &str), Problem> {
    let body = json.as_object().ok_or_else(|| Problem::malformed("the body must be a JSON object"))?;
    if let Some(error) = shape::wrong_type(body, shape::BACKEND_USER) {
        return Err(Problem::malformed(error));
    }
    let id = required(body, "id")?;
    let action = required(body, "action")?;
    if !matches!(action, "created" | "updated" | "deleted") {
        return Err(Problem::unacceptable("action must be created, updated or deleted"));
    }
    if action != "deleted" && shape::text(body, "email").is_none() {
        return Err(Problem::unacceptable(format!("email is required when a user is {action}")));
    }
    if !shape::is_storable(json) {
        return Err(Problem::unacceptable("the character NUL cannot be stored"));
    }
    Ok((id, action))
}

fn required<'b>(body: &'b Map<String, Value>, name: &str) -> Result<&'b str, Problem> {
    shape::text(body, name).ok_or_else(|| Problem::malformed(format!("{name} is required")))
}
