//! Refusals as RFC 9457 problem details.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// One refusal.
#[derive(Debug)]
pub struct Problem {
    /// The answer's status.
    pub status: StatusCode,
    /// The last segment of `type`, under which callers tell problems apart.
    pub slug: &'static str,
    title: &'static str,
    /// What is wrong with this request, for its sender to read.
    pub detail: String,
    members: Map<String, Value>,
    /// How long the caller is to wait, for `Retry-After`.
    pub wait: Option<Duration>,
    challenge: &'static str,
}

impl Problem {
    /// A problem of a kind of its own.
    pub fn new(
        status: StatusCode,
        slug: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let (detail, members) = (detail.into(), Map::new());
        Self { status, slug, title, detail, members, wait: None, challenge: "Bearer" }
    }

    /// 400: the request is not of the form asked for.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed-request", "The request is malformed", detail)
    }

    /// 401: the caller is not known. A bearer token is asked for, unless [`Problem::challenge`] says otherwise.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "The caller is not authenticated", detail)
    }

    /// 403: the caller is known and may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The caller may not do this", detail)
    }

    /// 404: there is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 405: the route takes other methods, which `Allow` names.
    pub fn method_not_allowed() -> Self {
        let detail = "the route does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    /// 409: what is asked for cannot be done in the state there is.
    pub fn conflict(slug: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, slug, "The state does not allow it", detail)
    }

    /// 413: the body is longer than accepted.
    pub fn too_large(bytes_max: usize) -> Self {
        let detail = format!("the body is longer than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large", detail)
            .with("bytesMax", bytes_max)
    }

    /// 415: the body is not declared as JSON.
    pub fn not_json() -> Self {
        let detail = "content-type must be application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", "The body is not declared as JSON", detail)
    }

    /// 422: the form is right, what it says is not acceptable.
    pub fn unacceptable(detail: impl Into<String>) -> Self {
        let title = "The content is not acceptable";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-content", title, detail)
    }

    /// 429: the caller must wait.
    pub fn rate_limited(wait: Duration) -> Self {
        let detail = "too many requests; come again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests", detail)
            .retry_after(wait)
    }

    /// 500: a fault of ours that the same request would meet again.
    pub fn internal() -> Self {
        let detail = "the request could not be processed";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    /// 503: the same request may succeed later.
    pub fn unavailable() -> Self {
        let detail = "please try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable", detail)
            .retry_after(Duration::from_secs(1))
    }

    /// Adds an extension member.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// An extension member added by [`Problem::with`].
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// Tells the caller how long to wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Names the scheme a 401 asks for in `WWW-Authenticate`, which RFC 9110 demands of every one.
    #[must_use]
    pub fn challenge(mut self, scheme: &'static str) -> Self {
        self.challenge = scheme;
        self
    }

    /// The document itself.
    pub fn body(&self) -> Value {
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
        tracing::error!(error.code = %code, error.kind = %kind_of(&error), "http.database.failed");
        match &error {
            sqlx::Error::Database(_) if is_of_content(&code) => {
                Self::unacceptable(format!("the content cannot be stored (SQLSTATE {code})"))
            }
            sqlx::Error::Database(_) if !is_passing(&code) => Self::internal(),
            _ => Self::unavailable(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(self.challenge));
        }
        set_retry_after(&mut response, self.wait);
        response
    }
}

/// Sets `Retry-After` in whole seconds, rounded up so that nobody comes too early.
pub fn set_retry_after(response: &mut Response, wait: Option<Duration>) {
    if let Some(wait) = wait {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// SQLSTATEs of what a request said: data that no column holds, and text that is too long for an index.
fn is_of_content(code: &str) -> bool {
    code.starts_with("22") || code == "54000"
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

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(problem: Problem, name: header::HeaderName) -> Option<String> {
        let response = problem.into_response();
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn whoever_is_not_authenticated_is_told_by_what() {
        let asked = |problem| header_of(problem, header::WWW_AUTHENTICATE);
        assert_eq!(asked(Problem::unauthorized("who?")).as_deref(), Some("Bearer"));
        assert_eq!(asked(Problem::unauthorized("who?").challenge("ApiKey")).as_deref(), Some("ApiKey"));
        assert_eq!(asked(Problem::forbidden("no")), None);
    }

    #[test]
    fn nobody_is_told_to_come_too_early() {
        let told = |wait| header_of(Problem::rate_limited(wait), header::RETRY_AFTER);
        assert_eq!(told(Duration::from_millis(1001)).as_deref(), Some("2"));
        assert_eq!(told(Duration::from_secs(2)).as_deref(), Some("2"));
    }

    #[test]
    fn an_error_of_the_database_is_told_by_what_it_means() {
        let check = |code: &str, of_content: bool, passing: bool| {
            assert_eq!((is_of_content(code), is_passing(code)), (of_content, passing), "{code}");
        };
        check("22P05", true, false);
        check("54000", true, false);
        check("40P01", false, true);
        check("25P03", false, true);
        check("58030", false, true);
        check("23505", false, false);
        check("42601", false, false);
    }
}
