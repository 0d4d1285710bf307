//! The guard-less receivers: the documents' sample code (Go Fiber for S2, Express for S3), with its faults.
//!
//! They are here to show what a target does that was built from the samples alone: an older state overwrites a newer
//! one, a repeated request is applied again, and in the CRM a changed e-mail address makes a second record.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use postbound_http::set_retry_after;
use serde_json::{Map, Value, json};
use sqlx::types::Json;

use crate::backend::DEFAULT_TENANT;
use crate::config::Contract;
use crate::intake::{Delivery, Envelope};
use crate::problem::{Problem, database};
use crate::server::Receiver;
use crate::shape::{self, Fields};
use crate::storage::{BackendChange, CrmUsers};

/// Handles one S2 request as the Go sample does: 400 only where the body cannot be read into its struct.
pub(crate) async fn sync_backend(receiver: &Receiver, delivery: &Delivery) -> Result<Response, Problem> {
    let invalid = || Problem::malformed("Invalid payload");
    let json = delivery.json.as_ref().map_err(|_| invalid())?;
    let body = json.as_object().ok_or_else(invalid)?;
    if shape::wrong_type(body, shape::BACKEND_USER).is_some() || !shape::is_storable(json) {
        return Err(invalid());
    }
    // A missing string is an empty one in Go.
    let text = |name| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let envelope = Envelope::lenient(&delivery.headers);
    let change = BackendChange {
        tenant_id: envelope.tenant.as_deref().unwrap_or(DEFAULT_TENANT),
        user_id: text("id"),
        action: text("action"),
        version: envelope.version,
        key: envelope.key.as_deref(),
        event_id: envelope.event_id.as_deref(),
        body_sha256: &delivery.sha256,
        content: json,
    };
    receiver.storage().sample_backend(&change).await.map_err(database)?;
    tracing::debug!(
        contract = "s2",
        tenant.id = change.tenant_id,
        user.id = change.user_id,
        "receiver.user.synced"
    );
    Ok(axum::Json(json!({ "success": true })).into_response())
}

/// Handles one S3 request as the Express sample does, with its Joi schema's refusal of unknown fields.
pub(crate) async fn sync_crm(
    receiver: &Receiver,
    delivery: &Delivery,
    failing: &[String],
) -> Result<Response, Problem> {
    let invalid = |details: String| {
        Problem::malformed("Invalid request format").with("details", json!([{ "message": details }]))
    };
    let json = delivery.json.as_ref().map_err(|error| invalid(error.clone()))?;
    let (tenant_id, contents) = check_schema(json).map_err(invalid)?;
    let envelope = Envelope::lenient(&delivery.headers);
    let mut users = CrmUsers::default();
    for user in contents {
        let id = user.get("id").and_then(Value::as_str).unwrap_or_default();
        let storable = shape::is_storable(user);
        let failed = !storable || failing.iter().any(|failing| failing == id);
        users.ids.push(id);
        // The body may bear no version; the header's is logged where it can only mean this user.
        users.versions.push(envelope.version.filter(|_| contents.len() == 1));
        users.deleted.push(false);
        users.errors.push(failed.then(|| "this user could not be saved".to_owned()));
        users.contents.push(Json(if storable { user } else { &Value::Null }));
    }
    let answer = receiver
        .storage()
        .sample_crm(tenant_id, &envelope, &delivery.sha256, &users)
        .await
        .map_err(database)?;
    tracing::debug!(contract = "s3", tenant.id = tenant_id, users = users.ids.len(), "receiver.batch.synced");
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], answer).into_response())
}

/// A refusal in the samples' shapes.
pub(crate) fn refusal(contract: Contract, problem: Problem) -> Response {
    let status = problem.status;
    let retry_after = problem.wait;
    let mut response = match contract {
        _ if status == StatusCode::TOO_MANY_REQUESTS => (status, problem.detail).into_response(),
        Contract::S0 | Contract::S2 => {
            (status, axum::Json(json!({ "error": problem.detail }))).into_response()
        }
        Contract::S3 => {
            let mut body = json!({ "success": false, "error": problem.detail });
            if let Some(details) = problem.member("details") {
                body["details"] = details.clone();
            }
            (status, axum::Json(body)).into_response()
        }
    };
    set_retry_after(&mut response, retry_after);
    response
}

/// The document's request format as its Joi schema would hold it: nothing else may stand in it.
fn check_schema(json: &Value) -> Result<(&str, &[Value]), String> {
    let body = json.as_object().ok_or("\"value\" must be of type object")?;
    let known = ["operation", "tenant", "users", "metadata"];
    if let Some(key) = body.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("\"{key}\" is not allowed"));
    }
    required(body, "operation", "operation")?;
    let tenant = body.get("tenant").and_then(Value::as_object).ok_or("\"tenant\" is required")?;
    check_object(tenant, shape::CRM_TENANT, "tenant")?;
    let tenant_id = required(tenant, "id", "tenant.id")?;
    required(tenant, "name", "tenant.name")?;
    if let Some(metadata) = body.get("metadata") {
        let metadata = metadata.as_object().ok_or("\"metadata\" must be of type object")?;
        check_object(metadata, shape::CRM_METADATA, "metadata")?;
    }
    let users = body.get("users").and_then(Value::as_array).ok_or("\"users\" is required")?;
    for (position, user) in users.iter().enumerate() {
        let path = format!("users[{position}]");
        let user = user.as_object().ok_or_else(|| format!("\"{path}\" must be of type object"))?;
        check_object(user, shape::CRM_USER, &path)?;
        required(user, "name", &format!("{path}.name"))?;
        if !is_email(required(user, "email", &format!("{path}.email"))?) {
            return Err(format!("\"{path}.email\" must be a valid email"));
        }
    }
    Ok((tenant_id, users))
}

fn check_object(object: &Map<String, Value>, fields: &Fields, path: &str) -> Result<(), String> {
    if let Some(key) = shape::unknown(object, fields) {
        return Err(format!("\"{path}.{key}\" is not allowed"));
    }
    shape::wrong_type(object, fields).map_or(Ok(()), |error| Err(format!("\"{path}\": {error}")))
}

fn required<'o>(object: &'o Map<String, Value>, name: &str, path: &str) -> Result<&'o str, String> {
    object
        .get(name)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| format!("\"{path}\" is required"))
}

/// Joi's rule in short: one @, and a domain of two labels or more.
fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(local, domain)| {
        let labels: Vec<&str> = domain.split('.').collect();
        !local.is_empty()
            && labels.len() >= 2
            && labels.iter().all(|label| !label.is_empty())
            && !domain.contains('@')
            && !text.contains(char::is_whitespace)
    })
}
