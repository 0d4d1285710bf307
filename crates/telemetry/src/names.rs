//! Every metric, under the name it is recorded by; the one place to look for what there is.
//!
//! Record with the `metrics` macros: `counter!(names::RELAY_PUBLISHED, "target" => name).increment(n)`. Labels
//! are bounded sets: a target's name, an outcome, a status class, never a user.

/// Gauge: 1 while `/readyz` of the process answers 200.
pub const READY: &str = "postbound_ready";

/// Counter `target`: events published and confirmed by the broker.
pub const RELAY_PUBLISHED: &str = "postbound_relay_published_total";
/// Gauge `target`: messages published and not yet confirmed.
pub const RELAY_UNCONFIRMED: &str = "postbound_relay_unconfirmed";
/// Counter `target`: messages the broker returned, for no queue took them.
pub const RELAY_RETURNED: &str = "postbound_relay_returned_total";
/// Counter `target`: messages the broker refused (a full queue, mostly).
pub const RELAY_NACKED: &str = "postbound_relay_nacked_total";
/// Gauge: 1 in the relay that is active, 0 in one that stands by.
pub const RELAY_LEADER: &str = "postbound_relay_leader";
/// Gauge: 1 while the broker blocks publishing by an alarm.
pub const BROKER_BLOCKED: &str = "postbound_broker_blocked";

/// Gauge `target`: changes in the log the target's cursor has not passed.
pub const OUTBOX_LAG_ROWS: &str = "postbound_outbox_lag_rows";
/// Gauge `target`: age in seconds of the oldest change the target's cursor has not passed.
pub const OUTBOX_LAG_SECONDS: &str = "postbound_outbox_lag_seconds";
/// Gauge: days ahead for which the log has partitions; producers fail when it reaches 0.
pub const LOG_PARTITION_DAYS_AHEAD: &str = "postbound_log_partition_days_ahead";

/// Counter `target`, `outcome` (one of [`outcome`]): events settled.
pub const DELIVERIES: &str = "postbound_deliveries_total";
/// Counter `target`: attempts beyond the first.
pub const RETRIES: &str = "postbound_retries_total";
/// Histogram `target`, `status` (an HTTP status, `timeout`, `connect`, ...): seconds one request took.
pub const ATTEMPT_DURATION: &str = "postbound_attempt_duration_seconds";
/// Histogram `target`: seconds from the producer's commit to the settled delivery.
pub const COMMIT_TO_DELIVERY: &str = "postbound_commit_to_delivery_seconds";
/// Gauge `target`: age in seconds of the oldest live change this worker holds and has not settled; queues keep their order,
/// so nothing waits longer in the queues of its partitions. Set every 5 s.
pub const OLDEST_UNDELIVERED_SECONDS: &str = "postbound_oldest_undelivered_seconds";
/// Gauge `target`: requests being sent right now.
pub const IN_FLIGHT: &str = "postbound_in_flight";
/// Gauge `target`, `scope` (`target`: 1 while the whole target is held back; `tenants`: how many are): open breakers.
pub const BREAKER_OPEN: &str = "postbound_breaker_open";
/// Counter `target`, `cause` (`whole_target`, `failing_share`): breakers opened by this worker.
pub const BREAKER_OPENINGS: &str = "postbound_breaker_openings_total";
/// Gauge `target`: partitions this worker owns.
pub const PARTITIONS_OWNED: &str = "postbound_partitions_owned";
/// Gauge: partitions of the installation.
pub const PARTITIONS_TOTAL: &str = "postbound_partitions_total";
/// Histogram: seconds one commit of the ledger took.
pub const LEDGER_COMMIT: &str = "postbound_ledger_commit_seconds";
/// Histogram: outcomes one commit of the ledger gathered.
pub const LEDGER_BATCH_SIZE: &str = "postbound_ledger_batch_size";

/// Counter `target`, `outcome` (`taken`, `failed`, `given_up`): attempts to tell a notice.
pub const NOTICES: &str = "postbound_notices_total";
/// Gauge `target`: notices still to be told, of all workers.
pub const NOTICES_WAITING: &str = "postbound_notices_waiting";
/// Gauge `target`: age in seconds of the oldest of them.
pub const NOTICES_OLDEST_SECONDS: &str = "postbound_notices_oldest_seconds";
/// Gauge `target`: notices that were given up and can be told again (`postbound notices`).
pub const NOTICES_GIVEN_UP: &str = "postbound_notices_given_up";

/// Counter `source`, `outcome` (`applied`, `echo`, `older`, `deleted`, `waiting`, `repeated`, `ignored`, or the problem's
/// type, such as `unauthorized`): webhooks that came in.
pub const INGRESS_WEBHOOKS: &str = "postbound_ingress_webhooks_total";
/// Gauge: inbound changes that wait for an identity link.
pub const INGRESS_WAITING: &str = "postbound_ingress_waiting";
/// Counter `outcome` (`written`, `replayed`, or the problem's type): requests to `POST /v1/events`.
pub const INGRESS_EVENTS: &str = "postbound_ingress_events_total";

/// Values of the `outcome` label of [`DELIVERIES`].
pub mod outcome {
    /// The target took it.
    pub const DELIVERED: &str = "delivered";
    /// A newer state is there already; nothing was sent.
    pub const SUPERSEDED: &str = "superseded";
    /// It ended in the dead-letter queue.
    pub const DEAD: &str = "dead";
    /// The target does not want it: no URL, or its own echo.
    pub const SKIPPED: &str = "skipped";
}
