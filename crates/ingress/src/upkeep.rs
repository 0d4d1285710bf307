//! What runs beside the requests: changes that wait are tried again, and dropped when they are too old; what is no longer
//! needed to tell repetitions is removed; and Postgres is asked for a sign of life.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use postbound_telemetry::{Component, names};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::Ingress;
use crate::webhooks::{bounds, waiting};

/// How often what waits is looked at.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How often Postgres is asked for a sign of life, for `/readyz`, and what waits is counted.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Time Postgres has for it.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How often old ids and answers are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Rows removed in one statement.
const PRUNE_BATCH: i64 = 10_000;
/// Time for one turn of it; what a turn leaves is there at the next.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);
/// Without a turn for so long the process is not ready.
const STALL_AFTER: Duration = Duration::from_secs(60);

/// Runs until `stop` is cancelled.
pub(crate) async fn keep_up(ingress: Arc<Ingress>, health: Component, stop: CancellationToken) {
    let [mut retry, mut ping, mut prune] = [RETRY_EVERY, PING_EVERY, PRUNE_EVERY].map(|every| {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    let health = health.deadline(STALL_AFTER);
    health.busy();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ping.tick() => watch(&ingress, &health).await,
            _ = retry.tick() => match turn(waiting::retry_due(&ingress)).await {
                Some(Ok(0)) => {}
                Some(Ok(applied)) => tracing::info!(applied, "ingress.waiting.applied"),
                Some(Err(error)) => tracing::warn!(kind = kind(&error), "ingress.waiting.not_tried"),
                None => tracing::warn!(kind = "timeout", "ingress.waiting.not_tried"),
            },
            _ = prune.tick() => match turn(prune_old(&ingress)).await {
                Some(Ok(rows)) => tracing::debug!(rows, "ingress.pruned"),
                Some(Err(error)) => tracing::warn!(kind = kind(&error), "ingress.not_pruned"),
                None => tracing::warn!(kind = "timeout", "ingress.not_pruned"),
            },
        }
        health.progress();
    }
}

async fn turn<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(TURN_TIMEOUT, work).await.ok()
}

/// Not ready while Postgres cannot be used: a load balancer sends requests elsewhere.
async fn watch(ingress: &Ingress, health: &Component) {
    match tokio::time::timeout(PING_TIMEOUT, bounds::count(ingress)).await {
        Ok(Ok(waiting)) => {
            gauge!(names::INGRESS_WAITING).set(waiting as f64);
            health.ready();
        }
        Ok(Err(error)) => health.not_ready(format!("Postgres cannot be used ({})", kind(&error))),
        Err(_) => health.not_ready("Postgres does not answer"),
    }
}

async fn prune_old(ingress: &Ingress) -> Result<u64, sqlx::Error> {
    bounds::drop_old(ingress).await?;
    let days = i32::try_from(ingress.settings.dedup_window_days).unwrap_or(i32::MAX);
    let statements = [
        "-- inbound_prune_messages
        delete from postbound.inbound_message where (source, message_id) in (
            select m.source, m.message_id from postbound.inbound_message as m
            where m.received_at < clock_timestamp() - make_interval(days => $1) limit $2)",
        "-- inbound_prune_answers
        delete from postbound.inbound_answer where (caller, key) in (
            select a.caller, a.key from postbound.inbound_answer as a
            where a.answered_at < clock_timestamp() - make_interval(days => $1) limit $2)",
    ];
    let mut rows = 0;
    for statement in statements {
        loop {
            let gone = sqlx::query(statement).bind(days).bind(PRUNE_BATCH).execute(&ingress.pool).await?;
            rows += gone.rows_affected();
            if gone.rows_affected() < PRUNE_BATCH.unsigned_abs() {
                break;
            }
        }
    }
    Ok(rows)
}

/// A word for the log: the error's own may quote content.
fn kind(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.code().unwrap_or_default().into_owned(),
        sqlx::Error::PoolTimedOut => "no connection in time".to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        _ => "other".to_owned(),
    }
}
