use std::io;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Health, Metrics, names};

/// How often samples of histograms are folded when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Time open connections have to end after the stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Serves `/healthz`, `/readyz` and `/metrics` until `stop` is cancelled.
///
/// # Errors
/// When connections can no longer be accepted.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> io::Result<()> {
    let app = router(health, metrics.clone());
    let server = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = server.into_future() => served,
        () = keep_up(&metrics) => Ok(()),
        () = grace_over(&stop) => Ok(()),
    }
}

/// The routes alone, for a role that serves others beside them.
pub fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(health.clone()))
        .route("/metrics", get(render).with_state((health, metrics)))
}

async fn readyz(State(health): State<Health>) -> Response {
    let report = health.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(report)).into_response()
}

async fn render(State((health, metrics)): State<(Health, Metrics)>) -> Response {
    metrics::gauge!(names::READY).set(f64::from(u8::from(health.report().ready)));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

async fn keep_up(metrics: &Metrics) {
    let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tick.tick().await;
        metrics.upkeep();
    }
}

/// A client that holds its connection open does not hold up the end of the process.
async fn grace_over(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(STOP_GRACE).await;
}
