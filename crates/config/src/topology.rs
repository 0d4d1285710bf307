use serde::{Deserialize, Serialize};

use crate::units;

/// `[topology]`: the queues `postbound topology apply` declares.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topology {
    /// Partition queues per target, one number for the whole installation, 1 to 256. Default 16.
    pub partitions: u16,
    /// Messages one partition queue holds at most; above it the broker refuses, and that target's stream
    /// waits. Default 100000.
    pub queue_messages_max: u64,
    /// Bytes one partition queue holds at most. Default 1 GiB.
    #[serde(with = "units::bytes")]
    pub queue_bytes_max: u64,
    /// Deliveries of one message before the broker dead-letters it. Large on purpose: each lost connection
    /// counts one for every message in prefetch, and without a limit RabbitMQ 3.10 requeues to the back and
    /// 4.x stops at 20. Default 1000000.
    pub delivery_limit: u32,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            partitions: 16,
            queue_messages_max: 100_000,
            queue_bytes_max: 1 << 30,
            delivery_limit: 1_000_000,
        }
    }
}
