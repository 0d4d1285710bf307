use metrics::{Counter, Gauge};
use postbound_telemetry::names;

/// One stream's metrics, looked up once: the loop that sets them turns for every message.
pub(crate) struct StreamGauges {
    pub(crate) published: Counter,
    pub(crate) nacked: Counter,
    pub(crate) returned: Counter,
    pub(crate) unconfirmed: Gauge,
    pub(crate) lag_rows: Gauge,
    pub(crate) lag_seconds: Gauge,
    pub(crate) blocked: Gauge,
}

impl StreamGauges {
    pub(crate) fn of(target: &str) -> Self {
        let label = || target.to_owned();
        Self {
            published: metrics::counter!(names::RELAY_PUBLISHED, "target" => label()),
            nacked: metrics::counter!(names::RELAY_NACKED, "target" => label()),
            returned: metrics::counter!(names::RELAY_RETURNED, "target" => label()),
            unconfirmed: metrics::gauge!(names::RELAY_UNCONFIRMED, "target" => label()),
            lag_rows: metrics::gauge!(names::OUTBOX_LAG_ROWS, "target" => label()),
            lag_seconds: metrics::gauge!(names::OUTBOX_LAG_SECONDS, "target" => label()),
            blocked: metrics::gauge!(names::BROKER_BLOCKED, "target" => label()),
        }
    }
}

impl Drop for StreamGauges {
    /// A standby does not report the lag it had while it was active.
    fn drop(&mut self) {
        for gauge in [&self.unconfirmed, &self.lag_rows, &self.lag_seconds, &self.blocked] {
            gauge.set(0.0);
        }
    }
}
