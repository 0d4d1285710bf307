use crate::{
    batch::Batcher, dead_letters::DeadLetters, fence::Fence, gate::Gate, ledger::Ledger, rate::RateBudget,
    settings::TargetPlan, tenants::Tenants,
};
use metrics::{Counter, Gauge, Histogram};
use postbound_broker::{Broker, TargetNames};
use postbound_store::Store;
use postbound_target::{Delivery, Failure, FailureClass, Outcome, TenantInfo};
use postbound_telemetry::names;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::{sync::Semaphore, time::Instant};

/// Everything the deliveries of one target share, over all partitions of this worker.
pub(crate) struct TargetContext {
    pub(crate) name: Arc<str>,
    pub(crate) names: TargetNames,
    pub(crate) plan: TargetPlan,
    pub(crate) store: Store,
    pub(crate) ledger: Ledger,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) fence: Fence,
    pub(crate) rate: RateBudget,
    /// Bytes of messages held, in KiB.
    pub(crate) kibibytes: Arc<Semaphore>,
    pub(crate) batcher: Option<Batcher>,
    pub(crate) counters: DeliveryCounters,
    tenants: Tenants,
    gate: Gate,
    requests: Semaphore,
    successes: AtomicU64,
}

/// Metrics of one target's deliveries, looked up once.
pub(crate) struct DeliveryCounters {
    pub(crate) delivered: Counter,
    pub(crate) superseded: Counter,
    pub(crate) dead: Counter,
    pub(crate) retries: Counter,
    pub(crate) commit_to_delivery: Histogram,
    in_flight: Gauge,
}

/// Counts a request in flight, until it ends or is dropped.
struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    fn enter(gauge: &'a Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// What a worker's targets have in common.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) ledger: Ledger,
    pub(crate) broker: Broker,
    pub(crate) fence: Fence,
}

impl TargetContext {
    pub(crate) fn new(plan: TargetPlan, generation: i32, shared: &Shared) -> Arc<Self> {
        let name: Arc<str> = plan.registration.name.as_str().into();
        let rate = RateBudget::new(plan.batch.as_ref().and_then(|batch| batch.rate_limit));
        Arc::new_cyclic(|context| Self {
            names: TargetNames::new(&*name, generation),
            store: shared.store.clone(),
            ledger: shared.ledger.clone(),
            // One per target: a dead-letter queue that is missing holds up no other target's letters.
            dead_letters: DeadLetters::start(shared.broker.clone()),
            fence: shared.fence.clone(),
            kibibytes: Arc::new(Semaphore::new(plan.in_flight_bytes_max.div_ceil(1024))),
            batcher: plan.batch.clone().map(|settings| Batcher::start(settings, context.clone())),
            counters: DeliveryCounters::of(&name),
            tenants: Tenants::new(shared.store.clone()),
            gate: Gate::default(),
            requests: Semaphore::new(plan.concurrency),
            successes: AtomicU64::new(0),
            rate,
            plan,
            name,
        })
    }

    /// Sends one request, when target, lease and limits allow it. `start` is asked at the last moment: false, and
    /// nothing is sent.
    pub(crate) async fn send(
        &self,
        deliveries: &[Delivery],
        start: impl FnOnce() -> bool,
    ) -> Option<Vec<Outcome>> {
        let timeout = self.plan.timeout;
        let tenant = self.tenant(&deliveries.first()?.key.tenant).await;
        let _permit = self.requests.acquire().await.ok()?;
        self.rate.take().await;
        loop {
            self.gate.pass(timeout).await;
            self.fence.pass(timeout).await;
            // Others may have closed it while this one waited for the lease.
            if self.gate.lets_pass() {
                break;
            }
        }
        if !start() {
            return None;
        }
        let _in_flight = InFlight::enter(&self.counters.in_flight);
        let started = Instant::now();
        let outcomes = self.plan.client.deliver(deliveries, &tenant).await;
        self.judge(&outcomes, started);
        Some(outcomes)
    }

    /// What the outcomes say of the target as a whole.
    fn judge(&self, outcomes: &[Outcome], started: Instant) {
        let failure = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Failed(failure) => Some(failure),
            _ => None,
        });
        let status = match failure {
            Some(Failure { status: Some(status), .. }) => status.to_string(),
            Some(failure) => failure.reason.to_owned(),
            None => "ok".to_owned(),
        };
        let seconds = started.elapsed().as_secs_f64();
        metrics::histogram!(names::ATTEMPT_DURATION, "target" => self.name.to_string(), "status" => status)
            .record(seconds);
        if let Some(failure) = failure.filter(|failure| failure.class == FailureClass::WholeTarget) {
            if let Some(pause) = self.gate.failed(failure.retry_after) {
                tracing::warn!(
                    target.name = %self.name, reason = failure.reason, http.status = failure.status,
                    pause_ms = pause.as_millis() as u64, detail = %failure.detail, "target fails as a whole; pausing it"
                );
            }
            return;
        }
        if failure.is_none_or(|_| outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Failed(_)))) {
            self.successes.fetch_add(1, Ordering::Relaxed);
        }
        // No answer says nothing of whether the target is back.
        let answered = failure.is_none_or(|failure| failure.status.is_some());
        if answered && self.gate.succeeded() {
            tracing::info!(target.name = %self.name, "target answers again");
        }
    }

    /// Grows with every request of which at least one user succeeded.
    pub(crate) fn successes(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    async fn tenant(&self, id: &str) -> TenantInfo {
        self.tenants.get(id).await.unwrap_or_else(|error| {
            // Its name is decoration; the delivery is not held up for it.
            tracing::warn!(error = %error, "tenant not read; sending its id alone");
            TenantInfo::unknown(id)
        })
    }
}

impl DeliveryCounters {
    fn of(target: &str) -> Self {
        let deliveries = |outcome: &'static str| metrics::counter!(names::DELIVERIES, "target" => target.to_owned(), "outcome" => outcome);
        Self {
            delivered: deliveries(names::outcome::DELIVERED),
            superseded: deliveries(names::outcome::SUPERSEDED),
            dead: deliveries(names::outcome::DEAD),
            retries: metrics::counter!(names::RETRIES, "target" => target.to_owned()),
            commit_to_delivery: metrics::histogram!(names::COMMIT_TO_DELIVERY, "target" => target.to_owned()),
            in_flight: metrics::gauge!(names::IN_FLIGHT, "target" => target.to_owned()),
        }
    }
}
