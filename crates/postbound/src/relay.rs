use crate::{args::Common, exit::Exit, roles, shutdown::run_until_stopped};
use postbound_config::Config;
use postbound_relay::{Relay, RelaySettings};
use postbound_telemetry::Health;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// `postbound relay`
pub(crate) async fn run(common: &Common) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    roles::start_logging(&config)?;
    let store = roles::awaited_store(&config, roles::RELAY).await?;
    let broker = roles::broker(&config)?;
    let (health, stop) = (Health::new(), CancellationToken::new());
    roles::serve_telemetry(&config, &health, &stop.child_token()).await?;
    let relay = Relay::new(store, broker, settings(&config), health, roles::label());
    run_until_stopped(stop.clone(), config.worker.drain_deadline, relay.run(stop.clone())).await?;
    Ok(Exit::Done)
}

fn settings(config: &Config) -> RelaySettings {
    let relay = &config.relay;
    let days = |days: u32| u16::try_from(days).unwrap_or(u16::MAX);
    RelaySettings {
        poll_min: relay.poll_min,
        poll_max: relay.poll_max,
        page_rows: relay.page_rows,
        page_bytes_max: relay.page_bytes_max,
        message_events_max: relay.message_events_max,
        message_bytes_max: relay.message_bytes_max,
        confirm_timeout: relay.confirm_timeout,
        lease: relay.lease,
        partitions_ahead_days: days(relay.partitions_ahead_days),
        retention_days: days(relay.retention_days),
        dedup_window: Duration::from_secs(u64::from(relay.dedup_window_days) * 24 * 3600),
        reconcile_every: relay.reconcile_every,
        reconcile_after: relay.reconcile_after,
        job_items_unsettled_max: relay.job_items_unsettled_max,
        job_lost_after: relay.job_lost_after,
    }
}
