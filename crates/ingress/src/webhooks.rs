//! Webhooks of other systems: `[ingress.sources.<name>]`, each on its own path.
//!
//! The way of one: the raw body is read, its signature verified (`verify`), the source's rate counted, and only then is
//! the body parsed (`inbound`). `take` does the rest in one transaction and is done when it is committed. What names a
//! user that nobody knows yet is kept by it, and tried again by `waiting` within `bounds`. What fails
//! verification leaves a metric and a log line, no row.

pub(crate) mod bounds;
mod describe;
mod inbound;
mod source;
mod take;
mod verify;
pub(crate) mod waiting;
mod whom;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use metrics::counter;
use postbound_http::{ApiRouter, read_body};
use postbound_telemetry::names;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Ingress;
use crate::problem::Problem;
use inbound::Inbound;
pub(crate) use source::Source;
use take::{Message, Taken, take};

/// One route per source.
pub(crate) fn router(ingress: &Arc<Ingress>) -> ApiRouter {
    ingress.sources.iter().fold(ApiRouter::new(), |all, source| {
        let door = Door { ingress: Arc::clone(ingress), source: Arc::clone(source) };
        let (path, operation) = (source.settings.path(), describe::post(&source.settings));
        let one = ApiRouter::new().post(path, receive, operation);
        all.merge(one.map(|router| router.with_state(door)))
    })
}

/// A source's route.
#[derive(Clone)]
struct Door {
    ingress: Arc<Ingress>,
    source: Arc<Source>,
}

async fn receive(State(door): State<Door>, request: Request) -> Response {
    let source = door.source.name();
    match admit(&door, request).await {
        Ok(answer) => {
            counter!(names::INGRESS_WEBHOOKS, "source" => source.to_owned(), "outcome" => answer.outcome())
                .increment(1);
            tracing::debug!(source, outcome = answer.outcome(), "ingress.webhook.taken");
            answer.into_response()
        }
        Err(problem) => {
            counter!(names::INGRESS_WEBHOOKS, "source" => source.to_owned(), "outcome" => problem.slug)
                .increment(1);
            let status = problem.status.as_u16();
            tracing::warn!(source, status, reason = %problem.detail, "ingress.webhook.refused");
            problem.into_response()
        }
    }
}

/// What a sender is told of a request that was accepted.
enum Answer {
    Taken(Taken),
    /// Verified, and of no interest here: a sender that is told otherwise would send it again.
    Ignored,
}

async fn admit(door: &Door, request: Request) -> Result<Answer, Problem> {
    let Door { ingress, source } = door;
    let (parts, body) = request.into_parts();
    let body = read_body(body, ingress.settings.body_bytes_max).await?;
    let now = OffsetDateTime::now_utc();
    let digest: [u8; 32] = Sha256::digest(&body).into();
    let id = source.verify(&parts.headers, &body, &digest, now)?;
    // After the signature: whoever forges requests does not use up the sender's share.
    source.admit()?;
    postbound_failpoint::pass("ingress.verified");

    let body: Value = serde_json::from_slice(&body)
        .map_err(|error| Problem::malformed(format!("the body is not JSON: line {}", error.line())))?;
    let change = match Inbound::read(source, &parts.headers, &body)? {
        Inbound::Change(change) => change,
        Inbound::Ignored => return Ok(Answer::Ignored),
    };
    let message = Message { id: id.text, lasting: id.lasting, digest, body: &body };
    let taken = take(ingress, source, &message, &change).await?;
    postbound_failpoint::pass("ingress.committed");
    Ok(Answer::Taken(taken))
}

impl Answer {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Taken(taken) => taken.as_str(),
            Self::Ignored => "ignored",
        }
    }
}

/// A message that was taken.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WebhookTaken {
    success: bool,
    /// What became of it: `applied`, `echo`, `older`, `deleted`, `repeated`, `ignored` or `waiting`.
    outcome: &'static str,
    /// Of `applied`: the user's new version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    /// Of `applied`: the change's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<Uuid>,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Taken(Taken::Waiting) => StatusCode::ACCEPTED,
            _ => StatusCode::OK,
        };
        let (version, event_id) = match &self {
            Self::Taken(Taken::Applied { version, event_id }) => (Some(*version), Some(*event_id)),
            _ => (None, None),
        };
        let body = WebhookTaken { success: true, outcome: self.outcome(), version, event_id };
        (status, Json(body)).into_response()
    }
}
