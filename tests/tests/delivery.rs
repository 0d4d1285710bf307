//! The whole way, as those who rely on it are promised it: real processes, whatever breaks on the way.

mod bare_deletes;
mod batches;
mod commands;
mod folding;
mod generations;
mod oracle;
mod order;
mod outages;
mod queues;
mod refusals;
mod relays;
mod replays;
mod routing;
mod secrets;
mod shutdown;
mod stalls;
mod stream;
mod takeovers;
mod tls;
mod upgrades;
mod workers;

use postbound_tests::{Installation, Process, Role, emit_states, eventually};
use std::time::Duration;
use stream::Stream;

/// A bound for what takes moments on an idle machine, no claim.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// Users `<prefix>-1` to `<prefix>-<count>` of tenant t0 change.
pub(crate) async fn emit(installation: &Installation, prefix: &str, count: i32, action: &str) {
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", prefix), count, action).await;
}

/// Of two relays, the active one first.
async fn active_first(relays: [Process; 2]) -> [Process; 2] {
    let [one, other] = relays;
    let both = async || Some([one.readyz().await, other.readyz().await]);
    let first_is_active = eventually("one relay is active", SOON, async || {
        let [one, other] = both().await?.map(|readiness| readiness.state("relay").to_owned());
        match (one.as_str(), other.as_str()) {
            ("ready", "standby") => Some(true),
            ("standby", "ready") => Some(false),
            _ => None,
        }
    })
    .await;
    if first_is_active { [one, other] } else { [other, one] }
}
