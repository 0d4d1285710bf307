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
    /// When failed deliveries are tried again, and given up.
    pub retry: RetrySchedule,
    /// Whether the target itself refuses older versions. Where it does not, a request of unknown outcome that a newer
    /// success has overtaken leaves a doubt: the newest state is sent once more (not where every event is delivered).
    pub guards_versions: bool,
    /// How long after such a success.
    pub doubt_after: Duration,
    /// When the target as a whole is held back.
    pub breaker: BreakerSettings,
    /// Requests the target allows, of all workers together.
    pub rate_limit: Option<RateLimit>,
    /// Share of the rate limit and of `concurrency` that backfill leaves to live traffic, 0.0 to below 1.0.
    pub live_share: f64,
    /// For targets that take several users in one request.
    pub batch: Option<BatchSettings>,
}

impl TargetPlan {
    /// Whether a request that is executed late may undo what came after it: not where the target refuses older versions,
    /// nor where each event is one of its own.
    pub(crate) fn has_doubts(&self) -> bool {
        !self.guards_versions && self.registration.fold
    }
}

/// When the target, and no user, is to blame for failures.
#[derive(Debug, Clone)]
pub struct BreakerSettings {
    /// Share of the users within `window` whose deliveries must fail, above 0.0, at most 1.0.
    pub failing_share: f64,
    /// Users' deliveries within `window` below which their share says nothing.
    pub calls_min: u32,
    /// The span of time that is looked at, in whole seconds.
    pub window: Duration,
    /// First pause before a probe; each further one is twice as long. The target's own wish takes its place.
    pub pause_min: Duration,
    /// Longest pause before a probe.
    pub pause_max: Duration,
    /// Open, or paused by an operator, for so long, users are parked instead of waiting.
    pub fold_after: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failing_share: 0.5,
            calls_min: 20,
            window: Duration::from_secs(10),
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(30),
            fold_after: Duration::from_secs(60),
        }
    }
}

/// When a failed delivery is tried again, and when it is given up.
#[derive(Debug, Clone)]
pub struct RetrySchedule {
    /// Quick tries at most.
    pub attempts: u32,
    /// Pause before the second quick try, the third, ...; the last one repeats.
    pub delays: Vec<Duration>,
    /// Share of a quick pause that is random, 0.0 to 1.0.
    pub jitter: f64,
    /// Pauses between tries of a parked user; the last one repeats.
    pub schedule: Vec<Duration>,
    /// Share of those that is random, 0.0 to 1.0.
    pub schedule_jitter: f64,
    /// Time after its first failure at which a delivery is given up, less the time the target was closed to all.
    pub horizon: Duration,
    /// Tries of a delivery that fails without a hint whether another is of use.
    pub bounded_attempts: u32,
    /// How often a refusal must repeat, other users succeeding in between, for a delivery to be given up.
    pub permanent_attempts: u32,
}

/// How users are gathered into one request.
#[derive(Debug, Clone)]
pub struct BatchSettings {
    /// Users of one request at most.
    pub users_max: usize,
    /// How long a request waits for more users while the rate budget is full.
    pub linger: Duration,
}

/// So many requests in a span of time.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    /// Requests.
    pub requests: u32,
    /// The span.
    pub per: Duration,
}
