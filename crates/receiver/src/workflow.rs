//! The registration workflow of the backend: what contract S0 demands of a trigger, and what it is answered.
//!
//! The workflow's behaviors run in the database, by priority, in one transaction with the key and the log
//! (`migrations/0006_workflow.sql`); one that fails is logged, and the next one runs. Without idempotency keys a
//! trigger that is repeated finds the contact and the user it made; nobody gets a second welcome.

use axum::response::Response;
use postbound_http::require_json;
use serde_json::Value;

use crate::backend::{DEFAULT_TENANT, answer_with};
use crate::config::Mode;
use crate::intake::{Delivery, Envelope};
use crate::problem::{Problem, database};
use crate::server::Receiver;
use crate::shape;
use crate::storage::WorkflowRun;

/// The workflow there is.
const USER_REGISTRATION: &str = "user_registration";

/// Handles one trigger. An `Err` was not logged by the database.
pub(crate) async fn trigger(receiver: &Receiver, delivery: &Delivery) -> Result<Response, Problem> {
    let envelope = match receiver.config().mode {
        Mode::Guarded => {
            require_json(&delivery.headers)?;
            Envelope::strict(&delivery.headers)?
        }
        Mode::Guardless => Envelope { key: None, ..Envelope::lenient(&delivery.headers) },
    };
    let json = delivery.json()?;
    let user_id = check(json)?;
    let run = WorkflowRun {
        tenant_id: envelope.tenant.as_deref().unwrap_or(DEFAULT_TENANT),
        workflow: USER_REGISTRATION,
        user_id,
        version: envelope.version,
        key: envelope.key.as_deref(),
        event_id: envelope.event_id.as_deref(),
        body_sha256: &delivery.sha256,
        content: json,
        mail: receiver.sends_mail(),
    };
    let answer = receiver.storage().run_workflow(&run).await.map_err(database)?;
    tracing::info!(
        contract = "s0", tenant.id = run.tenant_id, user.id = user_id, outcome = %answer.outcome,
        "receiver.workflow.ran"
    );
    receiver.wake_mailer();
    Ok(answer_with(&answer.outcome, answer.response, None))
}

/// The user's id at the sender, once the body is found to be in order.
fn check(json: &Value) -> Result<&str, Problem> {
    let body = json.as_object().ok_or_else(|| Problem::malformed("the body must be a JSON object"))?;
    let trigger = shape::text(body, "trigger").ok_or_else(|| Problem::malformed("trigger is required"))?;
    if trigger != USER_REGISTRATION {
        return Err(Problem::unacceptable(format!("no workflow is triggered by {trigger:?}")));
    }
    let input = body.get("inputData").and_then(Value::as_object);
    let input = input.ok_or_else(|| Problem::malformed("inputData must be an object"))?;
    let part = |name: &str| {
        let part = input.get(name).and_then(Value::as_object);
        part.ok_or_else(|| Problem::unacceptable(format!("inputData.{name} is required")))
    };
    let (customer, metadata) = (part("customerData")?, part("metadata")?);
    for (object, fields) in [(customer, shape::CUSTOMER_DATA), (metadata, shape::WORKFLOW_METADATA)] {
        if let Some(error) = shape::wrong_type(object, fields) {
            return Err(Problem::malformed(error));
        }
    }
    if shape::text(customer, "email").is_none() {
        return Err(Problem::unacceptable("inputData.customerData.email is required"));
    }
    if !shape::is_storable(json) {
        return Err(Problem::unacceptable("the character NUL cannot be stored"));
    }
    shape::text(metadata, "convexUserId")
        .ok_or_else(|| Problem::unacceptable("inputData.metadata.convexUserId is required"))
}
