use crate::settings::RelaySettings;
use postbound_store::{LogPartition, Maintained, Store, StoreError};
use postbound_telemetry::names;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a partition's detaching waits for transactions that still see it; the next round goes on.
const DETACH_PATIENCE: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(600);

/// Keeps the log's partitions: made ahead, dropped behind, never in a producer's way.
pub(crate) async fn keep_maintained(store: Store, settings: RelaySettings, stop: CancellationToken) {
    loop {
        match maintain(&store, &settings).await {
            Ok(done) => report(&done),
            Err(error) => {
                tracing::error!(error = %error, "maintenance of the change log failed; trying again");
            }
        }
        if let Ok(days) = store.log_partition_days_ahead().await {
            metrics::gauge!(names::LOG_PARTITION_DAYS_AHEAD).set(f64::from(days));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn maintain(store: &Store, settings: &RelaySettings) -> Result<Maintained, StoreError> {
    let mut done = Maintained {
        created: store.create_log_partitions(settings.partitions_ahead_days).await?,
        ..Default::default()
    };
    for table in store.detached_log_partitions().await? {
        store.drop_detached_log_partition(&table).await?;
        done.dropped.push(table);
    }
    for partition in store.log_partitions().await? {
        if partition.detach_pending || is_past_retention(&partition, settings) {
            if !store.is_log_partition_read(&partition).await? {
                done.kept.push(partition.table);
            } else if store.drop_log_partition(&partition, DETACH_PATIENCE).await? {
                done.dropped.push(partition.table);
            } else {
                // Its detaching is pending, and no other can begin before that is done.
                break;
            }
        }
    }
    done.event_keys_pruned = store.prune_event_keys(settings.dedup_window).await?;
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
            "partitions past retention are kept: a stream has not read them; see postbound status"
        );
    }
}
