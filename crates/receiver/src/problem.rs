//! Refusals: RFC 9457 problem details that also bear `success: false`, `error` and `timestamp`, which is the shape of
//! errors in the contracts' documents; a client that knows only those finds what it looks for.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
pub(crate) use postbound_http::Problem;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A problem as it is answered.
#[derive(Debug)]
pub(crate) struct Refusal(Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let error = problem.detail.clone();
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        problem.with("success", false).with("error", error).with("timestamp", now).into_response()
    }
}

/// 409: a newer version of the user is held.
pub(crate) fn stale_version(held: Option<i64>) -> Problem {
    let detail = "a newer version of this user is held; nothing was changed";
    Problem::new(StatusCode::CONFLICT, "stale-version", "The version is stale", detail)
        .with("heldVersion", held)
}

/// 409: another request with the same idempotency key is being processed.
pub(crate) fn key_in_progress() -> Problem {
    let title = "The idempotency key is in use";
    let detail = "a request with this idempotency key is being processed; send it again later";
    Problem::new(StatusCode::CONFLICT, "idempotency-key-in-progress", title, detail)
        .retry_after(Duration::from_secs(1))
}

/// 422: the idempotency key was used with another body.
pub(crate) fn key_conflict() -> Problem {
    let title = "The idempotency key was reused";
    let detail = "this idempotency key was used with another body";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", title, detail)
}

/// 429, in the words of the CRM's document.
pub(crate) fn rate_limited(wait: Duration) -> Problem {
    let mut problem = Problem::rate_limited(wait);
    "too many sync requests, please try again later".clone_into(&mut problem.detail);
    problem
}

/// What a database error means to the sender: content that breaks a constraint is 422, the rest as everywhere.
pub(crate) fn database(error: sqlx::Error) -> Problem {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    let problem = Problem::from(error);
    if code.starts_with("23") {
        return Problem::unacceptable(format!("the content cannot be stored (SQLSTATE {code})"));
    }
    problem
}
