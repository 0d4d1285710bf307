use std::sync::OnceLock;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::names;

/// Seconds of things that take milliseconds: requests, commits.
const SHORT_SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds of things that last through an outage.
const LONG_SECONDS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0];
/// Items gathered in one go.
const COUNTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// The process's metrics, installed behind the `metrics` macros.
///
/// Samples of histograms are kept until they are rendered or [`Metrics::upkeep`] runs, which
/// [`serve`](crate::serve) sees to. A process that serves no metrics does not install them: then recording one
/// does nothing.
#[derive(Debug, Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs them for the whole process; every later call gives the same ones, for several roles may run in
    /// one process.
    ///
    /// # Errors
    /// When something else has installed a recorder of its own.
    pub fn install() -> Result<Self, MetricsError> {
        static INSTALLED: OnceLock<Result<Metrics, MetricsError>> = OnceLock::new();
        INSTALLED.get_or_init(Self::install_first).clone()
    }

    fn install_first() -> Result<Self, MetricsError> {
        let recorder = builder().map_err(|error| MetricsError::Buckets(error.to_string()))?.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Taken)?;
        describe();
        Ok(Self(handle))
    }

    /// All of them, in the Prometheus text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds the samples of histograms gathered so far, so that they do not pile up unread.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Metrics cannot be installed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetricsError {
    /// Another recorder is installed.
    #[error("another metrics recorder is installed in this process")]
    Taken,
    /// The buckets of a histogram are not valid.
    #[error("a histogram has no valid buckets: {0}")]
    Buckets(String),
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let buckets: [(&str, &[f64]); 4] = [
        (names::ATTEMPT_DURATION, &SHORT_SECONDS),
        (names::LEDGER_COMMIT, &SHORT_SECONDS),
        (names::COMMIT_TO_DELIVERY, &LONG_SECONDS),
        (names::LEDGER_BATCH_SIZE, &COUNTS),
    ];
    buckets.into_iter().try_fold(PrometheusBuilder::new(), |builder, (name, values)| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), values)
    })
}

fn describe() {
    describe_gauge!(names::READY, Unit::Count, "1 while the process is ready");
    describe_counter!(names::RELAY_PUBLISHED, Unit::Count, "events published and confirmed by the broker");
    describe_gauge!(names::RELAY_UNCONFIRMED, Unit::Count, "messages published and not yet confirmed");
    describe_counter!(names::RELAY_RETURNED, Unit::Count, "messages returned because no queue took them");
    describe_counter!(names::RELAY_NACKED, Unit::Count, "messages the broker refused");
    describe_gauge!(names::RELAY_LEADER, Unit::Count, "1 in the active relay, 0 in one that stands by");
    describe_gauge!(names::BROKER_BLOCKED, Unit::Count, "1 while the broker blocks publishing by an alarm");
    describe_gauge!(names::OUTBOX_LAG_ROWS, Unit::Count, "changes the target's cursor has not passed");
    describe_gauge!(names::OUTBOX_LAG_SECONDS, Unit::Seconds, "age of the oldest change not passed");
    describe_gauge!(names::LOG_PARTITION_DAYS_AHEAD, Unit::Count, "days ahead the log has partitions for");
    describe_counter!(names::DELIVERIES, Unit::Count, "events settled, by outcome");
    describe_counter!(names::RETRIES, Unit::Count, "attempts beyond the first");
    describe_histogram!(names::ATTEMPT_DURATION, Unit::Seconds, "time one request took");
    describe_histogram!(names::COMMIT_TO_DELIVERY, Unit::Seconds, "time from commit to settled delivery");
    describe_gauge!(
        names::OLDEST_UNDELIVERED_SECONDS,
        Unit::Seconds,
        "age of the oldest live change held and not settled"
    );
    describe_gauge!(names::IN_FLIGHT, Unit::Count, "requests being sent");
    describe_gauge!(names::PARTITIONS_OWNED, Unit::Count, "partitions this worker owns");
    describe_gauge!(names::PARTITIONS_TOTAL, Unit::Count, "partitions of the installation");
    describe_counter!(names::NOTICES, Unit::Count, "attempts to tell a notice, by outcome");
    describe_gauge!(names::NOTICES_WAITING, Unit::Count, "notices still to be told");
    describe_gauge!(
        names::NOTICES_OLDEST_SECONDS,
        Unit::Seconds,
        "age of the oldest notice still to be told"
    );
    describe_gauge!(names::NOTICES_GIVEN_UP, Unit::Count, "notices that were given up");
    describe_counter!(names::INGRESS_WEBHOOKS, Unit::Count, "webhooks that came in, by outcome");
    describe_gauge!(names::INGRESS_WAITING, Unit::Count, "inbound changes that wait for an identity link");
    describe_counter!(names::INGRESS_EVENTS, Unit::Count, "requests to POST /v1/events, by outcome");
    describe_histogram!(names::LEDGER_COMMIT, Unit::Seconds, "time one commit of the ledger took");
    describe_histogram!(names::LEDGER_BATCH_SIZE, Unit::Count, "outcomes one commit of the ledger gathered");
}
