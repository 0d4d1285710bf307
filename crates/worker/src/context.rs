use crate::{
    backlog::Backlog,
    batch::Batcher,
    breaker::{BreakerBoard, Breakers, CLAIM_TIMEOUT, Passage},
    dead_letters::DeadLetters,
    feeder::Feeder,
    fence::Fence,
    held_fields::HeldFields,
    identity::HeardOf,
    ledger::Ledger,
    pace::{LiveDelay, Pace},
    rate::{RateBudget, RateToken},
    settings::TargetPlan,
    tenants::Tenants,
};
use metrics::{Counter, Gauge, Histogram};
use postbound_broker::{Broker, TargetNames};
use postbound_event::UserKey;
use postbound_store::{Generation, Lease, Store, WorkerId};
use postbound_target::{Delivery, Failure, Notice, Outcome, TenantInfo};
use postbound_telemetry::names;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};

/// How long the probe of a job's request may wait for its turn.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Everything the deliveries of one target share, over all partitions of this worker.
pub(crate) struct TargetContext {
    pub(crate) name: Arc<str>,
    pub(crate) names: TargetNames,
    pub(crate) plan: Arc<TargetPlan>,
    pub(crate) store: Store,
    pub(crate) heard_of: HeardOf,
    pub(crate) ledger: Ledger,
    pub(crate) held_fields: HeldFields,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) fence: Fence,
    pub(crate) rate: RateBudget,
    pub(crate) breakers: Breakers,
    pub(crate) feeder: Feeder,
    /// Bytes of messages held, in KiB.
    pub(crate) kibibytes: Arc<Semaphore>,
    /// The same of messages of jobs, which take none of the others' room.
    pub(crate) backfill_kibibytes: Arc<Semaphore>,
    pub(crate) batcher: Option<Batcher>,
    pub(crate) counters: DeliveryCounters,
    pub(crate) backlog: Backlog,
    /// What live changes feel of jobs.
    pub(crate) live_delay: LiveDelay,
    worker: WorkerId,
    generation: Generation,
    pace: Pace,
    tenants: Tenants,
    requests: Semaphore,
    /// What of them backfill may take.
    backfill_requests: Arc<Semaphore>,
    /// Microseconds since the epoch; 0: never.
    last_success_at: AtomicI64,
    /// The same of all other workers.
    others_last_success_at: AtomicI64,
}

/// What became of a request.
pub(crate) enum Sent {
    /// One outcome for each delivery, in their order.
    Outcomes {
        /// They are.
        outcomes: Vec<Outcome>,
        /// Whether the request was the probe of a target that fails: its failure is nobody's own.
        probe: bool,
    },
    /// `start` had it stopped.
    NotStarted,
    /// The target is closed to the tenant for a while: nothing was sent, park the users.
    Held,
}

/// What a request needs besides the target's breaker; given back when it ends.
struct Turn<'a> {
    _of_all: Option<SemaphorePermit<'a>>,
    of_backfill: Option<OwnedSemaphorePermit>,
    token: RateToken,
}

/// Metrics of one target's deliveries, looked up once.
pub(crate) struct DeliveryCounters {
    pub(crate) delivered: Counter,
    pub(crate) superseded: Counter,
    pub(crate) dead: Counter,
    pub(crate) skipped: Counter,
    pub(crate) retries: Counter,
    pub(crate) commit_to_delivery: Histogram,
    in_flight: Gauge,
    /// Of attempts that did not fail; the others' are looked up by their status.
    ok_duration: Histogram,
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
    pub(crate) worker: WorkerId,
    pub(crate) store: Store,
    pub(crate) heard_of: HeardOf,
    pub(crate) ledger: Ledger,
    pub(crate) held_fields: HeldFields,
    pub(crate) broker: Broker,
    pub(crate) fence: Fence,
    pub(crate) breakers: BreakerBoard,
    pub(crate) pace: Pace,
}

impl TargetContext {
    pub(crate) fn new(plan: TargetPlan, generation: Generation, shared: &Shared) -> Arc<Self> {
        let (name, store) = (plan.registration.name.as_str(), &shared.store);
        let rate = RateBudget::start(name, plan.rate_limit, plan.live_share, store);
        let board = shared.breakers.clone();
        let breakers = Breakers::start(name.into(), plan.breaker.clone(), store.clone(), board);
        Self::of_generation(Arc::new(plan), rate, breakers, generation, shared)
    }

    /// The same target with another generation of queues. Rate budget and breakers go on: the target has not forgotten.
    pub(crate) fn successor(&self, generation: Generation, shared: &Shared) -> Arc<Self> {
        let (rate, breakers) = (self.rate.clone(), self.breakers.clone());
        Self::of_generation(Arc::clone(&self.plan), rate, breakers, generation, shared)
    }

    fn of_generation(
        plan: Arc<TargetPlan>,
        rate: RateBudget,
        breakers: Breakers,
        generation: Generation,
        shared: &Shared,
    ) -> Arc<Self> {
        let name: Arc<str> = plan.registration.name.as_str().into();
        let made = Arc::new_cyclic(|context| Self {
            names: TargetNames::new(&*name, generation.number),
            store: shared.store.clone(),
            heard_of: shared.heard_of.clone(),
            ledger: shared.ledger.clone(),
            held_fields: shared.held_fields.clone(),
            // One per target: a dead-letter queue that is missing holds up no other target's letters.
            dead_letters: DeadLetters::start(shared.broker.clone()),
            fence: shared.fence.clone(),
            kibibytes: Arc::new(Semaphore::new(kibibytes_max(&plan, false))),
            backfill_kibibytes: Arc::new(Semaphore::new(kibibytes_max(&plan, true))),
            feeder: Feeder::default(),
            batcher: plan.batch.clone().map(|settings| Batcher::start(settings, context.clone())),
            counters: DeliveryCounters::of(&name),
            backlog: Backlog::of(&name),
            live_delay: LiveDelay::new(shared.pace.clone()),
            pace: shared.pace.clone(),
            tenants: Tenants::new(shared.store.clone()),
            requests: Semaphore::new(plan.concurrency),
            backfill_requests: Arc::new(Semaphore::new(backfill_requests(plan.concurrency, plan.live_share))),
            last_success_at: AtomicI64::new(0),
            others_last_success_at: AtomicI64::new(0),
            worker: shared.worker,
            generation,
            rate,
            breakers,
            plan,
            name,
        });
        made.feeder.start(Arc::downgrade(&made));
        made
    }

    /// The lease under which what becomes of a user's deliveries is written; None: the target refuses older versions
    /// itself, and a late write does no harm.
    pub(crate) fn lease_of(&self, key: &UserKey) -> Option<Lease> {
        let partition = || key.partition(self.generation.partitions);
        (!self.plan.guards_versions).then(|| self.lease(partition()))
    }

    /// The lease of a partition.
    pub(crate) fn lease(&self, partition: u16) -> Lease {
        Lease { worker: self.worker, generation: self.generation.number, partition }
    }

    /// KiB of messages held at most, of live ones or of those of jobs.
    pub(crate) fn kibibytes_max(&self, backfill: bool) -> usize {
        kibibytes_max(&self.plan, backfill)
    }

    /// Whether the largest message of a job the relay makes would find room.
    pub(crate) fn has_room_for_backfill(&self) -> bool {
        self.backfill_kibibytes.available_permits() >= self.kibibytes_max(true).min(256)
    }

    /// Whether no message is held.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.kibibytes.available_permits() >= self.kibibytes_max(false)
            && self.backfill_kibibytes.available_permits() >= self.kibibytes_max(true)
    }

    /// Sends one request, when target, lease and limits allow it. `start` is asked at the last moment: false, and
    /// nothing is sent.
    pub(crate) async fn send(
        &self,
        deliveries: &[Delivery],
        backfill: bool,
        start: impl FnOnce() -> bool,
    ) -> Sent {
        let Some(first) = deliveries.first() else { return Sent::NotStarted };
        let (timeout, id) = (self.plan.timeout, first.key.tenant.as_str());
        let tenant = self.tenant(id).await;
        loop {
            // Whoever waits here holds nothing that other tenants' requests need.
            let mut passage = self.breakers.pass(id).await;
            if matches!(passage, Passage::Held) {
                return Sent::Held;
            }
            // A probe that waits for the share of jobs would keep live requests from being it; and whoever waits for long
            // waits in Postgres, where no message is held for it.
            let is_probe = matches!(passage, Passage::Probe(_));
            let patience = if is_probe && backfill { PROBE_PATIENCE } else { self.plan.breaker.fold_after };
            let turn = tokio::select! {
                turn = self.turn(backfill, &passage) => turn,
                () = self.breakers.shut(id, &passage) => continue,
                () = sleep(patience) => return Sent::Held,
            };
            if !self.breakers.admit(id, &mut passage, timeout).await || !turn.token.is_valid() {
                continue;
            }
            if !start() {
                return Sent::NotStarted;
            }
            let Turn { of_backfill, token, _of_all } = turn;
            token.spend();
            let _in_flight = InFlight::enter(&self.counters.in_flight);
            let started = Instant::now();
            postbound_failpoint::pass(if is_probe { "worker.probe_claimed" } else { "worker.sending" });
            // Boxed, as there are many more that wait here than requests.
            let outcomes = Box::pin(self.plan.client.deliver(deliveries, &tenant)).await;
            postbound_failpoint::pass("worker.sent");
            self.record(&outcomes, started);
            self.breakers.judge(deliveries, &outcomes, passage);
            self.rest(of_backfill, started);
            return Sent::Outcomes { outcomes, probe: is_probe };
        }
    }

    /// Tells the target what is no user's state, behind live changes. None: it is closed, and was told nothing.
    pub(crate) async fn notify(&self, notice: &Notice) -> Option<Result<(), Failure>> {
        let passage = self.breakers.pass("").await;
        // A probe is for users' states: breakers judge by those alone.
        if matches!(passage, Passage::Held | Passage::Probe(_)) {
            return None;
        }
        let Turn { token, of_backfill: _of_backfill, _of_all } = loop {
            let turn = self.turn(true, &passage).await;
            if turn.token.is_valid() {
                break turn;
            }
        };
        token.spend();
        let _in_flight = InFlight::enter(&self.counters.in_flight);
        Some(self.plan.client.notify(notice).await)
    }

    /// Waits for a place among the requests, for the rate limit, and for a lease that holds long enough.
    async fn turn(&self, backfill: bool, passage: &Passage) -> Turn<'_> {
        // They are never closed.
        let of_backfill = match backfill {
            true => Arc::clone(&self.backfill_requests).acquire_owned().await.ok(),
            false => None,
        };
        let of_all = self.requests.acquire().await.ok();
        let token = self.rate.take(backfill).await;
        // A probe has to be claimed before it goes out, for the tenant and for the target.
        let claiming = if matches!(passage, Passage::Probe(_)) { 2 * CLAIM_TIMEOUT } else { Duration::ZERO };
        self.fence.pass(self.plan.timeout + claiming).await;
        Turn { _of_all: of_all, of_backfill, token }
    }

    /// Keeps the place of a job's request empty for as long as live traffic needs.
    fn rest(&self, place: Option<OwnedSemaphorePermit>, started: Instant) {
        let Some(place) = place else { return };
        let rest = self.pace.rest(started.elapsed(), Instant::now());
        if !rest.is_zero() {
            tokio::spawn(async move {
                sleep(rest).await;
                drop(place);
            });
        }
    }

    fn record(&self, outcomes: &[Outcome], started: Instant) {
        let failure = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Failed(failure) => Some(failure),
            _ => None,
        });
        let duration = match failure {
            None => self.counters.ok_duration.clone(),
            Some(Failure { status: Some(status), .. }) => attempt_duration(&self.name, status.to_string()),
            Some(failure) => attempt_duration(&self.name, failure.reason.to_owned()),
        };
        duration.record(started.elapsed().as_secs_f64());
        if outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Failed(_))) {
            self.last_success_at.fetch_max(micros(OffsetDateTime::now_utc()), Ordering::Relaxed);
        }
    }

    /// When the target last took somebody's state; from other workers as of their last heartbeat.
    pub(crate) fn last_success_at(&self) -> Option<OffsetDateTime> {
        self.own_last_success_at().max(at_micros(&self.others_last_success_at))
    }

    /// When it last did from this worker.
    pub(crate) fn own_last_success_at(&self) -> Option<OffsetDateTime> {
        at_micros(&self.last_success_at)
    }

    /// It last did from another worker at that time.
    pub(crate) fn others_succeeded(&self, at: OffsetDateTime) {
        self.others_last_success_at.fetch_max(micros(at), Ordering::Relaxed);
    }

    async fn tenant(&self, id: &str) -> TenantInfo {
        self.tenants.get(id).await.unwrap_or_else(|error| {
            // Its name is decoration; the delivery is not held up for it.
            tracing::warn!(error = %error, "tenant not read; sending its id alone");
            TenantInfo::unknown(id)
        })
    }
}

fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(0)
}

fn at_micros(micros: &AtomicI64) -> Option<OffsetDateTime> {
    let micros = micros.load(Ordering::Relaxed);
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()?;
    (micros > 0).then_some(at)
}

/// Jobs get a quarter of what live messages may take.
fn kibibytes_max(plan: &TargetPlan, backfill: bool) -> usize {
    let all = plan.in_flight_bytes_max.div_ceil(1024).max(1);
    if backfill { (all / 4).max(1) } else { all }
}

impl DeliveryCounters {
    fn of(target: &str) -> Self {
        let deliveries = |outcome: &'static str| metrics::counter!(names::DELIVERIES, "target" => target.to_owned(), "outcome" => outcome);
        Self {
            delivered: deliveries(names::outcome::DELIVERED),
            superseded: deliveries(names::outcome::SUPERSEDED),
            dead: deliveries(names::outcome::DEAD),
            skipped: deliveries(names::outcome::SKIPPED),
            retries: metrics::counter!(names::RETRIES, "target" => target.to_owned()),
            commit_to_delivery: metrics::histogram!(names::COMMIT_TO_DELIVERY, "target" => target.to_owned()),
            in_flight: metrics::gauge!(names::IN_FLIGHT, "target" => target.to_owned()),
            ok_duration: attempt_duration(target, "ok".to_owned()),
        }
    }
}

fn attempt_duration(target: &str, status: String) -> Histogram {
    metrics::histogram!(names::ATTEMPT_DURATION, "target" => target.to_owned(), "status" => status)
}

/// Requests of backfill at the same time at most.
fn backfill_requests(concurrency: usize, live_share: f64) -> usize {
    let share = concurrency as f64 * (1.0 - live_share.clamp(0.0, 1.0));
    (share.ceil() as usize).clamp(1, concurrency.max(1))
}
