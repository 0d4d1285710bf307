//! The life of the process, and what every request passes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use postbound_http::{ApiRouter, ConnectionLimits};
use postbound_telemetry::Component;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Ingress;
use crate::openapi;
use crate::problem::Problem;
use crate::upkeep::keep_up;

/// Time for an answer on its way out at the stop.
const DRAIN_SLACK: Duration = Duration::from_secs(1);

/// Serves until `stop` is cancelled, then finishes the requests it has.
pub async fn serve(listener: TcpListener, ingress: Arc<Ingress>, health: Component, stop: CancellationToken) {
    let keeping_up = tokio::spawn(keep_up(Arc::clone(&ingress), health, stop.clone()));
    // What is answered late is answered by the gate.
    let drain = ingress.settings.request_timeout + DRAIN_SLACK;
    let limits = ConnectionLimits { drain, ..ConnectionLimits::default() };
    postbound_http::serve(listener, router(&ingress), limits, stop).await;
    if let Err(error) = keeping_up.await {
        tracing::error!(%error, "ingress.upkeep.died");
    }
    ingress.pool.close().await;
}

/// All routes, and `GET /openapi.json` that tells them.
pub fn router(ingress: &Arc<Ingress>) -> Router {
    let gate = Arc::new(Gate {
        room: Semaphore::new(ingress.settings.concurrency.min(Semaphore::MAX_PERMITS)),
        timeout: ingress.settings.request_timeout,
    });
    // Each part is merged here, its router made from the shared state.
    ApiRouter::new()
        .merge(crate::webhooks::router(ingress))
        .merge(crate::events::router(Arc::clone(ingress)))
        .merge(crate::status::router(Arc::clone(ingress)))
        .merge(crate::directory::router(Arc::clone(ingress)))
        .publish(&openapi::info(ingress))
        .fallback(async || Problem::not_found("there is no such route"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn_with_state(gate, pass_gate))
}

/// Bounds what is worked on at once, and for how long.
struct Gate {
    room: Semaphore,
    timeout: Duration,
}

async fn pass_gate(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = gate.room.try_acquire() else {
        return Problem::unavailable().into_response();
    };
    match tokio::time::timeout(gate.timeout, next.run(request)).await {
        Ok(response) => response,
        // Whether it was committed is not known; whoever repeats it is told what became of it.
        Err(_) => Problem::unavailable().into_response(),
    }
}
