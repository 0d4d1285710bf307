//! Refusals as RFC 9457 problem details.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use postbound_client::EmitError;
use serde_json::{Map, Value, json};

/// One refusal. `slug` is the last segment of `type`, under which callers tell problems apart.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) slug: &'static str,
    title: &'static str,
    pub(crate) detail: String,
    members: Map<String, Value>,
    retry_after: Option<Duration>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        slug: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self { status, slug, title, detail: detail.into(), members: Map::new(), retry_after: None }
    }

    /// 400: the request is not of the form asked for.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed-request", "The request is malformed", detail)
    }

    /// 401: the caller is not known.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "The caller is not authenticated", detail)
    }

    /// 403: the caller is known and may not do this.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The caller may not do this", detail)
    }

    /// 404: there is no such thing.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 405: the route takes other methods, which `Allow` names.
    pub(crate) fn method_not_allowed() -> Self {
        let detail = "the route does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    /// 409: what is asked for cannot be done in the state there is.
    pub(crate) fn conflict(slug: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, slug, "The state does not allow it", detail)
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

    /// 429: the caller must wait.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let detail = "too many requests; come again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests", detail)
            .retry_after(wait)
    }

    /// 500: a fault of ours that the same request would meet again.
    pub(crate) fn internal() -> Self {
        let detail = "the request could not be processed";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    /// 503: the same request may succeed later.
    pub(crate) fn unavailable() -> Self {
        let detail = "please try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable", detail)
            .retry_after(Duration::from_secs(1))
    }

    /// Adds an extension member.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Tells the caller how long to wait.
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The document itself.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "type": format!("/problems/{}", self.slug),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.members.clone());
        }
        body
    }
}

/// What a database error means to the caller: bad content is 422, a database that is away or slow 503, else 500. The
/// error's own text may quote content, so only its code is logged.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned();
        tracing::error!(error.code = %code, error.kind = %kind_of(&error), "ingress.database.failed");
        match &error {
            sqlx::Error::Database(_) if code.starts_with("22") => {
                Self::unacceptable(format!("the content cannot be stored (SQLSTATE {code})"))
            }
            sqlx::Error::Database(_) if !is_passing(&code) => Self::internal(),
            _ => Self::unavailable(),
        }
    }
}

impl From<postbound_store::StoreError> for Problem {
    fn from(error: postbound_store::StoreError) -> Self {
        if let postbound_store::StoreError::Database(error) = error {
            return error.into();
        }
        let passing = error.is_transient();
        tracing::error!(transient = passing, "ingress.store.failed");
        if passing { Self::unavailable() } else { Self::internal() }
    }
}

impl From<EmitError> for Problem {
    fn from(error: EmitError) -> Self {
        match error {
            EmitError::UserDeleted(refusal) => Self::conflict("user-deleted", refusal.to_string()),
            EmitError::EventIdReused(refusal) => Self::conflict("event-id-reused", refusal.to_string()),
            EmitError::Deadlock(_) | EmitError::Serialization(_) => Self::unavailable(),
            EmitError::Database(error) => error.into(),
            refused => match refused.refusal() {
                Some(refusal) => Self::unacceptable(refusal.to_string()),
                None => Self::internal(),
            },
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            // Rounded up, so that nobody comes too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// SQLSTATEs that a later try may not meet: lost connections, deadlocks, timeouts, shutdowns, exhausted resources.
fn is_passing(code: &str) -> bool {
    ["08", "25P03", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
}

/// A word for the log.
fn kind_of(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Database(_) => "database",
        sqlx::Error::PoolTimedOut => "pool_timed_out",
        sqlx::Error::PoolClosed => "pool_closed",
        sqlx::Error::Io(_) => "io",
        _ => "other",
    }
}
