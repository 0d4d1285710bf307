//! How much may wait for its users, and for how long.

use metrics::counter;
use postbound_telemetry::names;

use crate::Ingress;

/// Changes kept per source, beside what comes in between two counts. More are refused, and come again from their sender.
pub(super) const WAITING_MAX: i64 = 100_000;
/// Changes dropped in one statement.
const DROPPED_MAX: i64 = 1000;

/// Counts what waits, of each source and in all.
pub(crate) async fn count(ingress: &Ingress) -> Result<i64, sqlx::Error> {
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "-- inbound_waiting_counts
        select source, count(*) from postbound.inbound_waiting group by source",
    )
    .fetch_all(&ingress.pool)
    .await?;
    for source in &ingress.sources {
        let counted = counts.iter().find(|(name, _)| name == source.name());
        source.set_waiting(counted.map_or(0, |(_, count)| *count));
    }
    Ok(counts.iter().map(|(_, count)| count).sum())
}

/// Drops what has waited for too long: nobody may ever be known by its id, as an erased user, and it holds personal data.
pub(crate) async fn drop_old(ingress: &Ingress) -> Result<(), sqlx::Error> {
    let days = i32::try_from(ingress.settings.waiting_days).unwrap_or(i32::MAX);
    loop {
        let dropped: Vec<(String, i64)> = sqlx::query_as(
            "-- inbound_drop_old
            with dropped as (
                delete from postbound.inbound_waiting where waiting_id in (
                    select w.waiting_id from postbound.inbound_waiting as w
                    where w.received_at < clock_timestamp() - make_interval(days => $1) order by w.waiting_id limit $2)
                returning source)
            select source, count(*) from dropped group by source",
        )
        .bind(days)
        .bind(DROPPED_MAX)
        .fetch_all(&ingress.pool)
        .await?;
        for (source, count) in &dropped {
            tracing::warn!(source, count, days, "ingress.waiting.dropped");
            counter!(names::INGRESS_WEBHOOKS, "source" => source.clone(), "outcome" => "dropped")
                .increment(count.unsigned_abs());
        }
        if dropped.iter().map(|(_, count)| count).sum::<i64>() < DROPPED_MAX {
            return Ok(());
        }
    }
}
