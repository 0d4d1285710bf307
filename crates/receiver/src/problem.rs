//! Refusals as RFC 9457 problem details.
//!
//! Every problem also bears `success: false` and `error`, and `timestamp`, which is the shape of errors in the
//! contracts' documents; a client that knows only those finds what it looks for.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One refusal. `slug` is the last segment of `type`, under which senders tell problems apart.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    slug: &'static str,
    title: &'static str,
    pub(crate) detail: String,
    members: Map<String, Value>,
    pub(crate) retry_after: Option<Duration>,
}

impl Problem {
    fn new(status: StatusCode, slug: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, slug, title, detail: detail.into(), members: Map::new(), retry_after: None }
    }

    /// 400: the request is not of the contract's form.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed-request", "The request is malformed", detail)
    }

    /// 401: the key or the signature is missing or wrong.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "The sender is not authenticated", detail)
    }

    /// 413: the body is longer than accepted.
    pub(crate) fn too_large(bytes_max: usize) -> Self {
        let detail = format!("the body is longer than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large", detail)
            .with("bytesMax", bytes_max)
    }

    /// 415: the body is not declared as JSON.
    pub(crate) fn not_json() -> Self {
        let detail = "content-type must be application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", "The body is not declared as JSON", detail)
    }

    /// 422: the form is right, what it says is not acceptable.
    pub(crate) fn unacceptable(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-content",
            "The content is not acceptable",
            detail,
        )
    }

    /// 409: a newer version of the user is held.
    pub(crate) fn stale_version(held: Option<i64>) -> Self {
        let detail = "a newer version of this user is held; nothing was changed";
        Self::new(StatusCode::CONFLICT, "stale-version", "The version is stale", detail)
            .with("heldVersion", held)
    }

    /// 409: another request with the same idempotency key is being processed.
    pub(crate) fn key_in_progress() -> Self {
        let detail = "a request with this idempotency key is being processed; send it again later";
        Self::new(
            StatusCode::CONFLICT,
            "idempotency-key-in-progress",
            "The idempotency key is in use",
            detail,
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 422: the idempotency key was used with another body.
    pub(crate) fn key_conflict() -> Self {
        let detail = "this idempotency key was used with another body";
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "The idempotency key was reused",
            detail,
        )
    }

    /// 429: the client must wait.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let detail = "too many sync requests, please try again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests", detail)
            .retry_after(wait)
    }

    /// What a database error means to the sender: bad content is 422, a database that is away or slow 503, else 500.
    pub(crate) fn database(error: &sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default();
        tracing::error!(error.code = %code, error.kind = %kind_of(error), "receiver.database.failed");
        match error {
            sqlx::Error::Database(_) if code.starts_with("22") || code.starts_with("23") => {
                Self::unacceptable(format!("the content cannot be stored (SQLSTATE {code})"))
            }
            sqlx::Error::Database(_) if !is_passing(&code) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Internal error",
                "the request could not be processed",
            ),
            _ => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "Unavailable",
                "please try again later",
            )
            .retry_after(Duration::from_secs(1)),
        }
    }

    /// Adds an extension member.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// An extension member added by [`Problem::with`].
    pub(crate) fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The document itself.
    fn body(&self) -> Value {
        let mut body = json!({
            "type": format!("/problems/{}", self.slug),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "success": false,
            "error": self.detail,
            "timestamp": OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.members.clone());
        }
        body
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        set_retry_after(&mut response, self.retry_after);
        response
    }
}

/// Sets `Retry-After` in whole seconds, rounded up so that a client never comes too early.
pub(crate) fn set_retry_after(response: &mut Response, wait: Option<Duration>) {
    if let Some(wait) = wait {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// SQLSTATEs that a later try may not meet: lost connections, deadlocks, timeouts, shutdowns, exhausted resources.
fn is_passing(code: &str) -> bool {
    ["08", "40", "53", "55", "57"].iter().any(|class| code.starts_with(class))
}

/// A word for the log; the error's own text may quote content.
fn kind_of(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Database(_) => "database",
        sqlx::Error::PoolTimedOut => "pool_timed_out",
        sqlx::Error::PoolClosed => "pool_closed",
        sqlx::Error::Io(_) => "io",
        _ => "other",
    }
}
