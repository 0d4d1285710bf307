use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use postbound_http::{ApiInfo, ApiRouter, ConnectionLimits, Operation, Problem};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Health, HealthReport, Metrics, names};

/// How often samples of histograms are folded when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Serves `/healthz`, `/readyz`, `/metrics` and `/openapi.json`, which describes them, until `stop` is cancelled.
pub async fn serve(listener: TcpListener, health: Health, metrics: Metrics, stop: CancellationToken) {
    let app = router(health, metrics.clone());
    tokio::select! {
        () = postbound_http::serve(listener, app, ConnectionLimits::default(), stop) => {}
        () = keep_up(&metrics) => {}
    }
}

/// The routes alone, for a role that serves others beside them.
pub fn router(health: Health, metrics: Metrics) -> Router {
    let info = ApiInfo {
        title: "Postbound telemetry",
        description: "What a process of Postbound tells about itself. Whoever reaches the port may ask.",
        security_schemes: json!({}),
    };
    ApiRouter::new()
        .get("/healthz", healthz, describe_healthz())
        .get("/readyz", readyz, describe_readyz())
        .get("/metrics", render, describe_metrics())
        .map(|router| router.with_state((health, metrics)))
        .publish(&info)
        .fallback(async || Problem::not_found("there is no such route"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
}

async fn healthz() -> &'static str {
    "ok\n"
}

fn describe_healthz() -> Operation {
    operation("getLiveness", "Whether the process lives").answers_text(StatusCode::OK, "it does")
}

async fn readyz(State((health, _)): State<(Health, Metrics)>) -> Response {
    let report = health.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(report)).into_response()
}

fn describe_readyz() -> Operation {
    operation("getReadiness", "Whether each part works, or rightly stands by")
        .answers::<HealthReport>(StatusCode::OK, "all parts do")
        .answers::<HealthReport>(StatusCode::SERVICE_UNAVAILABLE, "some part does not, and says why")
}

async fn render(State((health, metrics)): State<(Health, Metrics)>) -> Response {
    metrics::gauge!(names::READY).set(f64::from(u8::from(health.report().ready)));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

fn describe_metrics() -> Operation {
    operation("getMetrics", "All metrics of the process")
        .answers_text(StatusCode::OK, "Prometheus' text format, version 0.0.4")
}

fn operation(id: &str, summary: &str) -> Operation {
    Operation::new(id, summary).tag("operation")
}

async fn keep_up(metrics: &Metrics) {
    let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tick.tick().await;
        metrics.upkeep();
    }
}
