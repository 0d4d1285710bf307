use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// `[worker]`: owning partitions and delivering what they hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// How long a partition stays with a worker that has stopped renewing: the time after a crash before
    /// another one takes over. Must exceed every target's timeout by more than 2 s, for no request is started
    /// that could outlive the lease. Default 15 s.
    #[serde(with = "units::duration")]
    pub lease: Duration,
    /// How often a worker renews its lease; at most a third of `lease`. Default 2 s.
    #[serde(with = "units::duration")]
    pub heartbeat: Duration,
    /// Time requests in flight have to end after a SIGTERM. Default 30 s.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
    /// Outcomes one ledger commit gathers at most. Default 512.
    pub ledger_batch_max: usize,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            heartbeat: Duration::from_secs(2),
            drain_deadline: Duration::from_secs(30),
            ledger_batch_max: 512,
        }
    }
}

impl Worker {
    /// What `lease` must have over every target's timeout: the time to settle an outcome and hand over.
    pub const LEASE_MARGIN: Duration = Duration::from_secs(2);
}
