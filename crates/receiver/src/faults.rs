//! Injected faults: `PUT /_faults` tells the receiver how to misbehave, `GET` shows the plan, `DELETE` ends it.
//!
//! Present only where [`crate::ReceiverConfig::faults`] is set. The body of `PUT` is one [`Fault`] or an array of them and
//! replaces the plan; for each authenticated request the first fault that matches it and has tries left is used.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use postbound_http::{ApiRouter, read_body, require_json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::Contract;
use crate::connection::Peer;
use crate::describe;
use crate::intake::{Delivery, Envelope};
use crate::problem::{Problem, Refusal};
use crate::server::{Receiver, process};

/// Bytes of a plan: the answers in it may be longer than any request is allowed to be.
const PLAN_BYTES_MAX: usize = 16 << 20;

/// One way to misbehave, and for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// Only requests of this contract; both when absent.
    pub contract: Option<Contract>,
    /// Only requests that name one of these users; all when empty.
    pub for_users: Vec<String>,
    /// Used for so many requests and then no more; without end when absent.
    pub times: Option<u32>,
    /// Answer this instead.
    pub respond: Option<FaultAnswer>,
    /// End the connection without an answer. Goes before `respond`.
    pub drop_connection: bool,
    /// Wait so long first: before the change, or, with `apply`, between the change and the answer. The request is
    /// processed even if its client has gone by then.
    pub delay_ms: u64,
    /// Process the request before misbehaving, so that the change is made and the sender does not learn of it.
    pub apply: bool,
    /// S3: these users of a batch fail under their own results, and the rest of it succeeds. The fault matches
    /// requests that name one of them.
    pub per_user_fail: Vec<String>,
    /// How often the fault was used; shown by `GET`, not read by `PUT`.
    #[serde(skip_deserializing)]
    pub hits: u64,
}

/// An answer given instead of the receiver's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultAnswer {
    /// HTTP status.
    pub status: u16,
    /// Header names and values.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body, as it is.
    #[serde(default)]
    pub body: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum FaultsBody {
    Many(Vec<Fault>),
    One(Box<Fault>),
}

/// The faults in force.
#[derive(Default)]
pub(crate) struct FaultPlan(Mutex<Vec<Fault>>);

impl FaultPlan {
    pub(crate) fn replace(&self, body: FaultsBody) {
        let faults = match body {
            FaultsBody::Many(faults) => faults,
            FaultsBody::One(fault) => vec![*fault],
        };
        *self.lock() = faults;
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    pub(crate) fn list(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// The fault for this request, used up by one.
    fn take(&self, delivery: &Delivery) -> Option<Fault> {
        let mut faults = self.lock();
        if faults.is_empty() {
            return None;
        }
        let users = delivery.users();
        let names =
            |list: &[String]| list.is_empty() || users.iter().any(|u| list.iter().any(|id| id == u.id));
        let fault = faults.iter_mut().find(|fault| {
            fault.times != Some(0)
                && fault.contract.is_none_or(|contract| contract == delivery.contract)
                && names(&fault.for_users)
                && names(&fault.per_user_fail)
        })?;
        fault.times = fault.times.map(|times| times - 1);
        fault.hits += 1;
        Some(fault.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// `/_faults`.
pub(crate) fn faults_router() -> ApiRouter<Receiver> {
    ApiRouter::new()
        .put("/_faults", put, describe::put_faults())
        .get("/_faults", get, describe::get_faults())
        .delete("/_faults", delete, describe::delete_faults())
}

async fn put(State(receiver): State<Receiver>, request: Request) -> Result<StatusCode, Refusal> {
    let (parts, body) = request.into_parts();
    require_json(&parts.headers)?;
    let body = read_body(body, PLAN_BYTES_MAX).await?;
    let body: FaultsBody = serde_json::from_slice(&body)
        .map_err(|error| Problem::malformed(format!("the body is no plan of faults: {error}")))?;
    if let Some(plan) = receiver.faults() {
        plan.replace(body);
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn get(State(receiver): State<Receiver>) -> Json<Vec<Fault>> {
    Json(receiver.faults().map(FaultPlan::list).unwrap_or_default())
}

async fn delete(State(receiver): State<Receiver>) -> StatusCode {
    if let Some(plan) = receiver.faults() {
        plan.clear();
    }
    StatusCode::NO_CONTENT
}

/// Processes the request, as the plan would have it.
pub(crate) async fn process_under(receiver: Receiver, delivery: Delivery, peer: Option<Peer>) -> Response {
    let Some(fault) = receiver.faults().and_then(|plan| plan.take(&delivery)) else {
        return process(&receiver, &delivery, &[]).await;
    };
    // In a task of its own: a client that goes away must not stop what it asked for.
    let task = tokio::spawn(async move { misbehave(&receiver, &delivery, peer.as_ref(), &fault).await });
    task.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn misbehave(receiver: &Receiver, delivery: &Delivery, peer: Option<&Peer>, fault: &Fault) -> Response {
    let delay = tokio::time::sleep(Duration::from_millis(fault.delay_ms));
    let speaks = !fault.drop_connection && fault.respond.is_none();
    let own = if fault.apply {
        let own = process(receiver, delivery, &fault.per_user_fail).await;
        delay.await;
        own
    } else {
        delay.await;
        if speaks {
            return process(receiver, delivery, &fault.per_user_fail).await;
        }
        log_unapplied(receiver, delivery, fault).await;
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    };
    if fault.drop_connection {
        if let Some(peer) = peer {
            peer.cut();
        }
        return own;
    }
    fault.respond.as_ref().map_or(own, answer)
}

async fn log_unapplied(receiver: &Receiver, delivery: &Delivery, fault: &Fault) {
    let status = fault.respond.as_ref().filter(|_| !fault.drop_connection).map_or(0, |answer| answer.status);
    let envelope = Envelope::lenient(&delivery.headers);
    let users = delivery.users();
    let contract = delivery.contract.as_str();
    let logged =
        receiver.storage().log(contract, &envelope, &delivery.sha256, &users, (status, "fault")).await;
    if let Err(error) = logged {
        tracing::error!(%error, "receiver.fault.not_logged");
    }
}

fn answer(answer: &FaultAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, answer.body.clone()).into_response();
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
