//! What front ends and other systems ask for: is this user in sync, try it again, and whose is this id.
//!
//! Bearer tokens with the scope `status`, each for its tenants; browsers come by CORS from the configured origins. The
//! answers name states, versions and ids, never a user's data nor a target's own words.

mod describe;
mod links;
mod retry;
mod sync;

use crate::{Ingress, problem::Problem};
use axum::{
    extract::{Path, rejection::PathRejection},
    http::{HeaderValue, Method, header},
    response::{IntoResponse, Response},
};
use postbound_config::IngressStatus;
use postbound_http::ApiRouter;
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tower_http::cors::{Any, CorsLayer};

/// How long a browser may remember that it may come.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);

/// `/v1/users/{tenant}/{user}/sync`, its `/retry`, and `/v1/links`.
pub(crate) fn router(state: Arc<Ingress>) -> ApiRouter {
    let cors = cors(&state.settings.status);
    ApiRouter::new()
        .get("/v1/users/{tenant}/{user}/sync", sync::show, describe::show())
        .post("/v1/users/{tenant}/{user}/sync/retry", retry::run, describe::retry())
        .get("/v1/links", links::find, describe::links())
        .map(|router| router.with_state(state))
        .map(|router| match cors {
            // Set before the layer, so that it sees what browsers ask before they come.
            Some(cors) => {
                router.method_not_allowed_fallback(async || Problem::method_not_allowed()).layer(cors)
            }
            None => router,
        })
}

/// None: no origin is configured, so that no browser's page of another origin gets an answer.
fn cors(settings: &IngressStatus) -> Option<CorsLayer> {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE);
    let origins = &settings.cors_origins;
    if origins.is_empty() {
        return None;
    }
    if origins.iter().any(|origin| origin == "*") {
        return Some(layer.allow_origin(Any));
    }
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    Some(layer.allow_origin(origins))
}

/// An answer that is true only now.
fn fresh(answer: impl Serialize) -> Response {
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    ([no_store], axum::Json(answer)).into_response()
}

/// Tenant and user as the path names them.
type NamedUser = Result<Path<(String, String)>, PathRejection>;

fn named_user(named: NamedUser) -> Result<(String, String), Problem> {
    named
        .map(|Path(user)| user)
        .map_err(|_| Problem::malformed("the path must name tenant and user in UTF-8"))
}

fn unknown_user() -> Problem {
    Problem::not_found("nobody has written this user")
}
