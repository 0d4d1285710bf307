//! Clerk's Backend API: the profile of one user.

use std::time::Duration;

use postbound_config::{IngressDirectory, SecretSource};
use reqwest::{Client, StatusCode, Url};
use serde_json::Value;

use super::clerk::ClerkUser;
use crate::IngressError;

/// Longest answer read.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// The API, with its secret key.
pub(crate) struct ClerkApi {
    http: Client,
    base: Url,
    secret: SecretSource,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClerkApiError {
    /// Clerk does not know the user.
    #[error("clerk knows no such user")]
    Unknown,
    /// Clerk, or the way to it, does not work at the moment.
    #[error("clerk's API does not answer as it should: {0}")]
    Unavailable(String),
}

impl ClerkApi {
    /// None where no secret key is configured.
    pub(crate) fn new(settings: &IngressDirectory, http: &Client) -> Result<Option<Self>, IngressError> {
        let Some(secret) = settings.clerk_secret_key() else { return Ok(None) };
        let setting = |name: &str| format!("directory.{name}");
        secret
            .current()
            .map_err(|error| IngressError::Secret { key: setting("clerk_secret_key_file"), error })?;
        let base = Url::parse(&settings.clerk_api_url).map_err(|error| IngressError::Setting {
            key: setting("clerk_api_url"),
            problem: error.to_string(),
        })?;
        Ok(Some(Self { http: http.clone(), base, secret }))
    }

    /// `GET /v1/users/{id}`.
    pub(crate) async fn user(&self, id: &str) -> Result<ClerkUser, ClerkApiError> {
        let unavailable = |why: &dyn ToString| ClerkApiError::Unavailable(why.to_string());
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut path) => drop(path.pop_if_empty().extend(["v1", "users", id])),
            Err(()) => return Err(unavailable(&"the URL has no path")),
        }
        let secret = self.secret.current().map_err(|error| unavailable(&error))?;
        let request = self.http.get(url).bearer_auth(secret.expose());
        let answer = request.send().await.map_err(|error| unavailable(&error.without_url()))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(ClerkApiError::Unknown),
            status => return Err(unavailable(&format!("status {status}"))),
        }
        let body = read(answer, ANSWER_BYTES_MAX).await.map_err(|why| unavailable(&why))?;
        let body: Value =
            serde_json::from_slice(&body).map_err(|_| unavailable(&"the answer is not JSON"))?;
        let user = ClerkUser::read(&body).map_err(|error| unavailable(&error))?;
        if user.id == id { Ok(user) } else { Err(unavailable(&"it answered with another user")) }
    }
}

/// A client for requests to Clerk.
pub(crate) fn http_client(timeout: Duration) -> Result<Client, IngressError> {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .timeout(timeout)
        .user_agent("postbound")
        .build()
        .map_err(|error| IngressError::Setting {
            key: "directory".to_owned(),
            problem: format!("no HTTP client can be made: {error}"),
        })
}

/// The whole body, if it is no longer than `bytes_max`.
pub(crate) async fn read(mut answer: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
        if body.len() + chunk.len() > bytes_max {
            return Err(format!("the answer is longer than {bytes_max} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
