use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// `[relay]`: reading the change log and publishing it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Pause between two looks at the log while changes keep coming. Default 5 ms.
    #[serde(with = "units::duration")]
    pub poll_min: Duration,
    /// Longest pause between two looks at an idle log. Default 250 ms.
    #[serde(with = "units::duration")]
    pub poll_max: Duration,
    /// Rows of the log read at once, per target. Default 2000.
    pub page_rows: u32,
    /// Bytes of the log held in memory at once, per target. Default 8 MiB.
    #[serde(with = "units::bytes")]
    pub page_bytes_max: usize,
    /// Events one message carries at most. Default 100.
    pub message_events_max: usize,
    /// Bytes one message carries at most; a bigger event travels alone. Default 256 KiB.
    #[serde(with = "units::bytes")]
    pub message_bytes_max: usize,
    /// Time the broker has to confirm a message before it is published again. Default 30 s.
    #[serde(with = "units::duration")]
    pub confirm_timeout: Duration,
    /// Lease of the active relay: how long after its crash another one takes over. Default 5 s.
    #[serde(with = "units::duration")]
    pub lease: Duration,
    /// Daily partitions of the log made ahead of time, in days. Default 14.
    pub partitions_ahead_days: u32,
    /// History of the log kept, in days; a partition some cursor has not passed is kept longer. Default 7.
    pub retention_days: u32,
    /// How long an event id given by a producer is remembered, in days. Default 7.
    pub dedup_window_days: u32,
    /// How often each target is searched for users it should hold a newer state of; None (`"off"`): never. Default 15 min.
    #[serde(with = "units::duration_or_off")]
    pub reconcile_every: Option<Duration>,
    /// Age from which such a state counts as left behind rather than on its way. Default 15 min.
    #[serde(with = "units::duration")]
    pub reconcile_after: Duration,
    /// Items of jobs (replays, resyncs, ...) sent and not settled, per target at most. Default 2000.
    pub job_items_unsettled_max: u32,
    /// How long items stay unsettled, with nothing of them in queues, before they are sent again. Default 60 s.
    #[serde(with = "units::duration")]
    pub job_lost_after: Duration,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            poll_min: Duration::from_millis(5),
            poll_max: Duration::from_millis(250),
            page_rows: 2000,
            page_bytes_max: 8 << 20,
            message_events_max: 100,
            message_bytes_max: 256 << 10,
            confirm_timeout: Duration::from_secs(30),
            lease: Duration::from_secs(5),
            partitions_ahead_days: 14,
            retention_days: 7,
            dedup_window_days: 7,
            reconcile_every: Some(Duration::from_secs(15 * 60)),
            reconcile_after: Duration::from_secs(15 * 60),
            job_items_unsettled_max: 2000,
            job_lost_after: Duration::from_secs(60),
        }
    }
}
