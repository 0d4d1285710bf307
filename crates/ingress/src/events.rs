//! `POST /v1/events`: the outbox over HTTP, for producers that cannot reach Postgres.
//!
//! A change is written once per `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07), in the transaction that
//! remembers the key: a caller that got no answer sends the same request again. Whoever prefers to wait (RFC 7240,
//! `Prefer: wait=3`) is answered when all targets have the change, with the ids they gave the user.

mod body;
mod describe;
mod key;
mod standing;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use metrics::counter;
use postbound_config::IngressScope;
use postbound_http::{ApiRouter, read_body, require_json, single};
use postbound_telemetry::names;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Ingress;
use crate::problem::Problem;
use body::EventBody;
pub(crate) use body::check_user;
use standing::Standing;
use write::{Written, write};

pub(crate) fn router(ingress: Arc<Ingress>) -> ApiRouter {
    ApiRouter::new().post("/v1/events", receive, describe::post()).map(|router| router.with_state(ingress))
}

async fn receive(State(ingress): State<Arc<Ingress>>, request: Request) -> Response {
    let (response, outcome) = match accept(&ingress, request).await {
        Ok(answer) => {
            let outcome = if answer.written.replayed { "replayed" } else { "written" };
            (answer.into_response(), outcome)
        }
        Err(problem) => {
            let status = problem.status.as_u16();
            tracing::info!(status, problem = problem.slug, "ingress.event.refused");
            let slug = problem.slug;
            (problem.into_response(), slug)
        }
    };
    counter!(names::INGRESS_EVENTS, "outcome" => outcome).increment(1);
    response
}

async fn accept(ingress: &Ingress, request: Request) -> Result<Answer, Problem> {
    let (parts, body) = request.into_parts();
    let caller = ingress.tokens.authorize(&parts.headers, IngressScope::Events)?;
    let key = key::of_request(&parts.headers)?;
    require_json(&parts.headers)?;
    let body = read_body(body, ingress.settings.body_bytes_max).await?;
    let digest: [u8; 32] = Sha256::digest(&body).into();
    let event = EventBody::read(&body)?;
    caller.check_tenant(event.tenant())?;
    let traceparent = single(&parts.headers, "traceparent").ok().flatten();
    let wait = wait_asked(&parts.headers).zip(ingress.settings.events.wait_max);
    let wait = wait.map(|(asked, most)| asked.min(most));

    let written = write(ingress, (caller.name, &key, &digest), &event, traceparent).await?;
    postbound_failpoint::pass("ingress.event_committed");
    let standing = match wait {
        Some(patience) => Some(standing::until_synced(ingress, &written, patience).await?),
        None => None,
    };
    Ok(Answer { written, standing, wait })
}

/// What a caller is told of a change that is written.
struct Answer {
    written: Written,
    /// Where the caller waited: how far the targets are.
    standing: Option<Standing>,
    wait: Option<Duration>,
}

/// A change that is written.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EventTaken {
    event_id: Uuid,
    /// The user's new version.
    version: i64,
    tenant_id: String,
    user_id: String,
    status: Progress,
    /// Where the caller waited: the user's ids, by target and system; the target's own id is called `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<BTreeMap<String, BTreeMap<String, String>>>,
    /// Where the caller waited: targets that want the change and have not got it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<Vec<String>>,
}

/// How far a change has got.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Progress {
    /// All targets that want it have it, as far as the caller waited.
    Synced,
    Pending,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let Self { written, standing, wait } = self;
        let synced = standing.as_ref().is_some_and(|standing| standing.pending.is_empty());
        let location = HeaderValue::from_str(&written.status_path());
        let (links, pending) = standing.map(|standing| (standing.links, standing.pending)).unzip();
        let body = EventTaken {
            event_id: written.event_id,
            version: written.version,
            tenant_id: written.tenant_id,
            user_id: written.user_id,
            status: if synced { Progress::Synced } else { Progress::Pending },
            links,
            pending,
        };
        let status = if synced { StatusCode::OK } else { StatusCode::ACCEPTED };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if let Ok(location) = location {
            headers.insert(header::LOCATION, location);
        }
        if let Some(applied) = wait.and_then(|wait| format!("wait={}", wait.as_secs()).parse().ok()) {
            headers.insert("preference-applied", applied);
        }
        if written.replayed {
            headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

/// The seconds of `Prefer: wait=3`; a preference that cannot be read is none (RFC 7240, section 2).
fn wait_asked(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut waits = preferences.flat_map(|value| value.split(',')).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let named = name.trim().eq_ignore_ascii_case("wait");
        let seconds: u32 = value.trim().trim_matches('"').parse().ok()?;
        named.then(|| Duration::from_secs(seconds.into()))
    });
    waits.next().filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_that_cannot_be_read_is_none() {
        let check = |header: &str, expected: Option<u64>| {
            let headers: HeaderMap =
                [(header::HeaderName::from_static("prefer"), header.parse().unwrap())].into_iter().collect();
            assert_eq!(wait_asked(&headers), expected.map(Duration::from_secs), "{header}");
        };
        check("wait=3", Some(3));
        check("respond-async, Wait = 10; x=1", Some(10));
        check("wait=\"3\"", Some(3));
        for header in ["", "wait", "wait=soon", "wait=-1", "wait=0", "return=minimal"] {
            check(header, None);
        }
    }
}
