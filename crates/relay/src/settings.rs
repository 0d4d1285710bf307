use postbound_store::PageLimits;
use std::time::Duration;

/// What the relay needs to know, from `[relay]` of the configuration.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// Shortest pause between looks at the log, while changes come in.
    pub poll_min: Duration,
    /// Longest pause, when nothing does.
    pub poll_max: Duration,
    /// Rows of one page at most.
    pub page_rows: u32,
    /// Bytes of data of one page at most.
    pub page_bytes_max: usize,
    /// Events of one message at most.
    pub message_events_max: usize,
    /// Bytes of one message at most; a bigger event travels alone.
    pub message_bytes_max: usize,
    /// How long a message may stay unconfirmed before the connection is given up.
    pub confirm_timeout: Duration,
    /// Time after which a standby takes over from a relay that died.
    pub lease: Duration,
    /// Days for which log partitions are kept ready.
    pub partitions_ahead_days: u16,
    /// Days the log is kept after all streams have read it.
    pub retention_days: u16,
    /// How long event ids are remembered.
    pub dedup_window: Duration,
    /// How often targets are searched for stale users; None: never.
    pub reconcile_every: Option<Duration>,
    /// Age from which a user is stale rather than on the way.
    pub reconcile_after: Duration,
    /// Items of jobs sent and not settled, per target at most.
    pub job_items_unsettled_max: u32,
    /// How long items stay unsettled, with nothing of them in queues, before they are sent again.
    pub job_lost_after: Duration,
}

impl RelaySettings {
    /// How much is read at once.
    pub(crate) fn page_limits(&self) -> PageLimits {
        PageLimits { rows: i64::from(self.page_rows), data_bytes: self.page_bytes_max as i64 }
    }

    /// How long a stream with work at hand may go without a step before `/readyz` calls it stalled. RabbitMQ may take
    /// `confirm_timeout` for one, and a stream that waited longer starts over by itself.
    pub(crate) fn stream_deadline(&self) -> Duration {
        (self.confirm_timeout * 2).max(self.lease * 4)
    }
}
