use postbound_store::Registration;
use postbound_target::Target;
use std::time::Duration;

/// What a worker needs to know, from `[worker]` of the configuration.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Time after which others take over from a worker that died. Longer than any target's timeout.
    pub lease: Duration,
    /// How often leases are renewed and balanced.
    pub heartbeat: Duration,
    /// Settlements of one ledger commit at most.
    pub ledger_batch_max: usize,
}

/// A target and how to work on it.
pub struct TargetPlan {
    /// The target as it must be registered; another registered configuration makes the worker not ready.
    pub registration: Registration,
    /// The client of the target's contract.
    pub client: Target,
    /// Time a request can take, connect to last byte.
    pub timeout: Duration,
    /// Requests in flight at most.
    pub concurrency: usize,
    /// Bytes of messages held at most, over all partitions.
    pub in_flight_bytes_max: usize,
    /// Messages taken ahead per partition at most.
    pub prefetch_messages: u16,
    /// Quick retries.
    pub retry: RetrySchedule,
    /// For targets that take several users in one request.
    pub batch: Option<BatchSettings>,
}

/// When a failed delivery is tried again.
#[derive(Debug, Clone)]
pub struct RetrySchedule {
    /// Quick tries at most.
    pub attempts: u32,
    /// Pause before the second try, the third, ...; the last one repeats.
    pub delays: Vec<Duration>,
    /// Share of a pause that is random, 0.0 to 1.0.
    pub jitter: f64,
}

/// How users are gathered into one request.
#[derive(Debug, Clone)]
pub struct BatchSettings {
    /// Users of one request at most.
    pub users_max: usize,
    /// How long a request waits for more users while the rate budget is full.
    pub linger: Duration,
    /// Requests the target allows.
    pub rate_limit: Option<RateLimit>,
}

/// So many requests in a span of time.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    /// Requests.
    pub requests: u32,
    /// The span.
    pub per: Duration,
}
