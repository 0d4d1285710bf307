//! Who calls the directory: a service by its bearer token, or a user by Clerk's session token.

use axum::http::{HeaderMap, header};
use postbound_config::{IngressDirectory, IngressScope};

use super::clerk_api::{ClerkApi, http_client};
use super::session_token::{Claims, SessionTokens, TokenError};
use crate::IngressError;
use crate::auth::{Caller, Tokens, bearer};
use crate::problem::Problem;

/// The cookie Clerk keeps the session token in, for requests of the same origin.
const SESSION_COOKIE: &str = "__session";

/// What checks session tokens, and who is asked for profiles they lack.
pub(crate) struct DirectoryAccess {
    tokens: Option<SessionTokens>,
    pub(crate) clerk: Option<ClerkApi>,
}

/// Who calls.
pub(crate) enum Who<'a> {
    /// A service: any user of its tenants.
    Service(Caller<'a>),
    /// A user: only what is theirs.
    User(Claims),
}

impl DirectoryAccess {
    /// Opens every file once, so that a missing one is told at the start. Fetches nothing.
    pub(crate) fn new(settings: &IngressDirectory) -> Result<Self, IngressError> {
        if !settings.enabled || settings.clerk_issuer.is_none() {
            return Ok(Self { tokens: None, clerk: None });
        }
        let http = http_client(settings.clerk_timeout)?;
        Ok(Self { tokens: SessionTokens::new(settings, &http)?, clerk: ClerkApi::new(settings, &http)? })
    }

    /// Who calls: else 401, or 503 while Clerk's keys cannot be had.
    pub(crate) async fn identify<'a>(
        &self,
        services: &'a Tokens,
        headers: &HeaderMap,
    ) -> Result<Who<'a>, Problem> {
        let Some(sessions) = &self.tokens else {
            return services.authorize(headers, IngressScope::Directory).map(Who::Service);
        };
        let token = match bearer(headers) {
            Some(token) if is_jwt(token) => token,
            Some(_) => return services.authorize(headers, IngressScope::Directory).map(Who::Service),
            None => {
                let token = session_cookie(headers)
                    .ok_or_else(|| Problem::unauthorized("a bearer token or session cookie is required"))?;
                check_origin(sessions, headers)?;
                token
            }
        };
        let claims = sessions.verify(token).await.map_err(|error| match error {
            TokenError::Unavailable => Problem::unavailable(),
            error => Problem::unauthorized(error.to_string()),
        })?;
        Ok(Who::User(claims))
    }
}

fn is_jwt(token: &str) -> bool {
    token.starts_with("eyJ") && token.split('.').count() == 3
}

fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == SESSION_COOKIE).map(|(_, value)| value).next()
}

/// A browser sends the cookie for whoever asks it to, and says who that is.
fn check_origin(sessions: &SessionTokens, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    if origin.to_str().is_ok_and(|origin| sessions.is_authorized(origin)) {
        return Ok(());
    }
    Err(Problem::forbidden("the request comes from another site"))
}
