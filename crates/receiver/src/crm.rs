//! The guarded CRM: what contract S3 demands of a request, and what it is answered.
//!
//! What is wrong with the request as a whole refuses it whole; what is wrong with one user fails that user alone, under
//! its own result. Beyond the document a user may bear `version` (guards it) and `deleted: true` (soft-deletes it, and
//! then needs an id alone). A user is its whole state, as in the backend.

use std::collections::HashSet;

use axum::response::Response;
use postbound_http::{require_json, single};
use serde_json::{Map, Value};
use sqlx::types::Json;

use crate::backend::answer_with;
use crate::intake::{Delivery, Envelope};
use crate::problem::{Problem, database};
use crate::server::Receiver;
use crate::shape;
use crate::storage::{CrmBatch, CrmUsers};

/// Stands for the content of a user that jsonb cannot hold.
static UNSTORABLE: Value = Value::Null;

/// Handles one request; users in `failing` fail by an injected fault. An `Err` was not logged by the database.
pub(crate) async fn sync(
    receiver: &Receiver,
    delivery: &Delivery,
    failing: &[String],
) -> Result<Response, Problem> {
    require_json(&delivery.headers)?;
    let envelope = Envelope::strict(&delivery.headers)?;
    let source = single(&delivery.headers, "x-sync-source")?
        .ok_or_else(|| Problem::malformed("header X-Sync-Source is required"))?;
    let header_tenant = single(&delivery.headers, "x-tenant-id")?
        .ok_or_else(|| Problem::malformed("header X-Tenant-ID is required"))?;
    let body =
        delivery.json()?.as_object().ok_or_else(|| Problem::malformed("the body must be a JSON object"))?;
    let (tenant, tenant_id) = check_tenant(body, header_tenant)?;
    check_operation(body)?;
    let metadata = object(body, "metadata")?;
    let users = check_users(body, receiver.config().users_max)?;
    let users = judge(&users, failing);

    let batch = CrmBatch {
        tenant,
        source,
        sync_type: metadata.and_then(|metadata| shape::text(metadata, "syncType")),
        key: envelope.key.as_deref(),
        event_id: envelope.event_id.as_deref(),
        body_sha256: &delivery.sha256,
    };
    let answer = receiver.storage().sync_crm(&batch, &users).await.map_err(database)?;
    tracing::debug!(
        contract = "s3", tenant.id = tenant_id, users = users.ids.len(), outcome = %answer.outcome,
        "receiver.batch.synced"
    );
    Ok(answer_with(&answer.outcome, answer.response, None))
}

fn check_tenant<'b>(body: &'b Map<String, Value>, header: &str) -> Result<(&'b Value, &'b str), Problem> {
    let tenant = object(body, "tenant")?.ok_or_else(|| Problem::malformed("tenant is required"))?;
    if let Some(error) = shape::wrong_type(tenant, shape::CRM_TENANT) {
        return Err(Problem::malformed(format!("tenant.{error}")));
    }
    let id = shape::text(tenant, "id").ok_or_else(|| Problem::malformed("tenant.id is required"))?;
    shape::text(tenant, "name").ok_or_else(|| Problem::malformed("tenant.name is required"))?;
    if id != header {
        return Err(Problem::malformed("header X-Tenant-ID and tenant.id differ"));
    }
    let value = &body["tenant"];
    if !shape::is_storable(value) {
        return Err(Problem::unacceptable("the character NUL cannot be stored"));
    }
    Ok((value, id))
}

fn check_operation(body: &Map<String, Value>) -> Result<(), Problem> {
    match body.get("operation") {
        None | Some(Value::Null) => Err(Problem::malformed("operation is required")),
        Some(Value::String(operation)) if operation == "user_sync" => Ok(()),
        Some(_) => Err(Problem::unacceptable("operation must be user_sync")),
    }
}

/// The users with their ids, none of them twice.
fn check_users(body: &Map<String, Value>, users_max: usize) -> Result<Vec<(&str, &Value)>, Problem> {
    let users = body
        .get("users")
        .and_then(Value::as_array)
        .ok_or_else(|| Problem::malformed("users is required and must be an array"))?;
    if users.is_empty() || users.len() > users_max {
        let detail = format!("users must hold 1 to {users_max} entries");
        return Err(Problem::unacceptable(detail).with("usersMax", users_max));
    }
    let mut seen = HashSet::with_capacity(users.len());
    let mut named = Vec::with_capacity(users.len());
    for (position, user) in users.iter().enumerate() {
        let id = user
            .as_object()
            .and_then(|user| shape::text(user, "id"))
            .filter(|id| !id.contains('\0'))
            .ok_or_else(|| Problem::malformed(format!("users[{position}].id is required")))?;
        if !seen.insert(id) {
            return Err(Problem::unacceptable(format!("users[{position}] names a user a second time"))
                .with("userId", id));
        }
        named.push((id, user));
    }
    Ok(named)
}

/// Each user with what is wrong with it, if anything.
fn judge<'b>(users: &[(&'b str, &'b Value)], failing: &[String]) -> CrmUsers<'b> {
    let mut judged = CrmUsers::default();
    for (id, user) in users {
        let verdict = match check_user(user) {
            Err(error) => Some(("invalid_user", error)),
            Ok(()) if failing.iter().any(|failing| failing == id) => {
                Some(("fault", "injected failure of this user".to_owned()))
            }
            Ok(()) => None,
        };
        let (code, error) = verdict.unzip();
        judged.ids.push(*id);
        judged.versions.push(user.get("version").and_then(Value::as_i64).filter(|version| *version > 0));
        judged.deleted.push(is_deleted(user));
        judged.codes.push(code);
        judged.errors.push(error);
        judged.contents.push(Json(if shape::is_storable(user) { user } else { &UNSTORABLE }));
    }
    judged
}

fn check_user(value: &Value) -> Result<(), String> {
    let Some(user) = value.as_object() else { return Err("a user must be an object".to_owned()) };
    for fields in [shape::CRM_USER, shape::CRM_USER_EXTENSIONS] {
        if let Some(error) = shape::wrong_type(user, fields) {
            return Err(error);
        }
    }
    if !is_deleted(value) {
        for name in ["email", "name"] {
            shape::text(user, name).ok_or_else(|| format!("{name} is required"))?;
        }
    }
    if shape::is_storable(value) { Ok(()) } else { Err("the character NUL cannot be stored".to_owned()) }
}

fn is_deleted(user: &Value) -> bool {
    user.get("deleted") == Some(&Value::Bool(true))
}

fn object<'b>(body: &'b Map<String, Value>, name: &str) -> Result<Option<&'b Map<String, Value>>, Problem> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(Problem::malformed(format!("{name} must be an object"))),
    }
}
