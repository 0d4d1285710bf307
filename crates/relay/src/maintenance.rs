use crate::settings::RelaySettings;
use postbound_store::{Dropping, LogPartition, Maintained, Store, StoreError};
use postbound_telemetry::{Component, names};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a partition's detaching waits for transactions that still see it; the next round goes on.
const DETACH_PATIENCE: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(600);
/// How long one step of a round may take before it counts as hung.
pub(crate) const STEP_DEADLINE: Duration = Duration::from_secs(300);

/// Keeps the log's partitions: made ahead, dropped behind, never in a producer's way.
pub(crate) async fn keep_maintained(
    store: Store,
    settings: RelaySettings,
    component: Component,
    stop: CancellationToken,
) {
    component.ready();
    loop {
        component.busy();
        tokio::select! {
            // What a round has begun and not ended, the next one ends.
            () = stop.cancelled() => break,
            () = round(&store, &settings, &component) => component.idle(),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    component.remove();
}

async fn round(store: &Store, settings: &RelaySettings, component: &Component) {
    match maintain(store, settings, component).await {
        Ok(done) => report(&done),
        Err(error) => {
            tracing::error!(error = %error, "maintenance of the change log failed; trying again");
        }
    }
    component.progress();
    if let Ok(days) = store.log_partition_days_ahead().await {
        metrics::gauge!(names::LOG_PARTITION_DAYS_AHEAD).set(f64::from(days));
    }
}

async fn maintain(
    store: &Store,
    settings: &RelaySettings,
    component: &Component,
) -> Result<Maintained, StoreError> {
    let mut done = Maintained {
        created: store.create_log_partitions(settings.partitions_ahead_days).await?,
        ..Default::default()
    };
    component.progress();
    // Another cluster's cursors do not say what was read.
    if store.database_witness().await?.is_of_another_cluster() {
        return Ok(done);
    }
    for table in store.detached_log_partitions().await? {
        match store.drop_detached_log_partition(&table).await? {
            Dropping::Dropped => done.dropped.push(table),
            Dropping::Pending => {}
            Dropping::StillNeeded => done.kept.push(table),
        }
        component.progress();
    }
    for partition in store.log_partitions().await? {
        if !(partition.detach_pending || is_past_retention(&partition, settings)) {
            continue;
        }
        let dropping = store.drop_log_partition(&partition, DETACH_PATIENCE).await?;
        component.progress();
        match dropping {
            Dropping::Dropped => done.dropped.push(partition.table),
            Dropping::StillNeeded => done.kept.push(partition.table),
            // No other detaching can begin before this one is done.
            Dropping::Pending => break,
        }
    }
    done.event_keys_pruned = store.prune_event_keys(settings.dedup_window).await?;
    component.progress();
    store.sweep_dead_workers().await?;
    Ok(done)
}

fn is_past_retention(partition: &LogPartition, settings: &RelaySettings) -> bool {
    partition.days_from_today < -i32::from(settings.retention_days)
}

fn report(done: &Maintained) {
    if done.created > 0 || !done.dropped.is_empty() {
        tracing::info!(log.partitions_created = done.created, log.partitions_dropped = ?done.dropped, "change log maintained");
    }
    if !done.kept.is_empty() {
        tracing::error!(
            log.partitions_kept = ?done.kept,
            "partitions past retention are kept: a stream has not read them, or a transaction is open on them; see postbound status"
        );
    }
}
