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
}
