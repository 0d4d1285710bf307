use crate::{
    archiver::keep_archiving,
    breaker::BreakerBoard,
    context::{Shared, TargetContext},
    fence::Fence,
    generation::Draining,
    held_fields::HeldFields,
    identity::heard_of,
    ledger::Ledger,
    links::keep_connected,
    notices::keep_telling,
    pace::Pace,
    partition::{LinkWatch, Partition},
    settings::{TargetPlan, WorkerSettings},
};
use postbound_broker::Broker;
use postbound_store::{Generation, RegisteredTarget, Registration, Store, StoreError, WorkerId, within};
use postbound_telemetry::{Component, Health, names};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// How long after its start a worker looks often whether RabbitMQ has answered.
const FIRST_LINK: Duration = Duration::from_secs(5);

/// A worker process: it owns partitions by lease and works on them.
pub struct Worker {
    store: Store,
    broker: Broker,
    settings: WorkerSettings,
    health: Health,
    id: WorkerId,
    label: String,
    shared: Shared,
    plans: HashMap<String, TargetPlan>,
    served: BTreeMap<String, Served>,
    tasks: JoinSet<PartitionEnded>,
    /// Until when the leases hold.
    lease_until: Instant,
    /// Targets that are configured and not served, with why; each reason is told once.
    missed: BTreeMap<String, String>,
}

/// A target this worker works for.
struct Served {
    context: Arc<TargetContext>,
    links: LinkWatch,
    component: Component,
    /// What it leases.
    generation: Generation,
    prefetch: u16,
    /// Whether that is a past generation, and the relay publishes to the next one.
    relay_has_left: watch::Sender<bool>,
    running: BTreeMap<u16, Running>,
    /// Its generation is empty: it goes on to the current one when nothing runs any more.
    moving_on: bool,
    /// Why it is not served any more: registered otherwise since, or retired.
    outdated: Option<String>,
    /// When there last was a connection to RabbitMQ.
    linked_at: Option<Instant>,
}

/// How a partition's task ended.
struct PartitionEnded {
    target: String,
    generation: i32,
    number: u16,
    /// Its generation is past, and nothing is left in its queues.
    is_empty: bool,
}

struct Running {
    drain: CancellationToken,
    abort: AbortHandle,
    component: Component,
}

impl Running {
    /// Ends it at once: the lease is lost, and with the consumer gone its new owner can begin.
    fn abort(&self) {
        self.abort.abort();
        self.component.clone().remove();
    }
}

impl Worker {
    /// A worker that calls itself `label` (host:pid) to people.
    pub fn new(
        store: Store,
        broker: Broker,
        settings: WorkerSettings,
        plans: Vec<TargetPlan>,
        health: Health,
        label: String,
    ) -> Self {
        let id = WorkerId::new_v4();
        let shared = Shared {
            worker: id,
            store: store.clone(),
            heard_of: heard_of(store.clone(), settings.ledger_batch_max),
            ledger: Ledger::start(store.clone(), settings.ledger_batch_max),
            held_fields: HeldFields::start(store.clone(), settings.ledger_batch_max),
            broker: broker.clone(),
            fence: Fence::closed(),
            breakers: BreakerBoard::start(store.clone()),
            pace: Pace::default(),
        };
        let plans = plans.into_iter().map(|plan| (plan.registration.name.clone(), plan)).collect();
        Self {
            store,
            broker,
            settings,
            health,
            id,
            label,
            shared,
            plans,
            served: BTreeMap::new(),
            tasks: JoinSet::new(),
            lease_until: Instant::now(),
            missed: BTreeMap::new(),
        }
    }

    /// Runs until told to stop, then drains: nothing new is started, what is under way is settled, leases are
    /// released. The caller bounds the time by dropping the future.
    pub async fn run(mut self, stop: CancellationToken) {
        let component = self.health.component("worker").deadline(self.settings.lease * 2);
        component.busy();
        let mut beat = tokio::time::interval(self.settings.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        let started = Instant::now();
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    Box::pin(self.beat(&component, draining)).await;
                    // The first connection is a matter of moments.
                    if self.served.values().any(|served| served.linked_at.is_none()) && started.elapsed() < FIRST_LINK {
                        beat.reset_after(FIRST_LINK / 50);
                    }
                }
                Some(ended) = self.tasks.join_next() => {
                    if let Some(ended) = ended.map_or_else(|error| self.panicked(&error), Some) {
                        Box::pin(self.ended(ended)).await;
                    }
                }
                () = stop.cancelled(), if !draining => {
                    draining = true;
                    tracing::info!(partitions = self.tasks.len(), "draining");
                    component.standby("draining");
                    for running in self.served.values().flat_map(|served| served.running.values()) {
                        running.drain.cancel();
                    }
                }
            }
            if draining && self.tasks.is_empty() {
                break;
            }
        }
        if let Err(error) = self.store.sign_off(self.id).await {
            tracing::warn!(error = %error, "leases were not released; they run out by themselves");
        }
    }

    /// Renews the leases, balances them, and starts and stops partitions accordingly.
    async fn beat(&mut self, component: &Component, draining: bool) {
        let (asked_at, lease) = (Instant::now(), self.settings.lease);
        let round = async {
            if !draining {
                self.follow_registry().await?;
            }
            let lease = self.settings.lease;
            self.served.values_mut().for_each(Served::look_at_link);
            let works = |served: &Served| !draining && served.outdated.is_none() && served.is_linked(lease);
            let serving = self.served.iter().filter(|(_, served)| works(served));
            let targets: Vec<String> = serving.map(|(name, _)| name.clone()).collect();
            self.store.heartbeat(self.id, &self.label, &targets, lease).await?;
            self.share_successes().await?;
            if !draining {
                self.balance().await?;
            }
            Ok::<_, StoreError>(())
        };
        // A round that hangs must not keep the next one from being tried in time.
        match tokio::time::timeout(lease, round).await {
            Ok(Ok(())) => {
                self.lease_until = asked_at + lease;
                self.shared.fence.extend(self.lease_until);
                component.progress();
                if !draining {
                    self.say_readiness(component);
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "leases not renewed; nothing is sent past their end");
                component.not_ready("leases not renewed: Postgres cannot be used");
            }
            Err(_) => component.not_ready("leases not renewed: Postgres does not answer"),
        }
        if Instant::now() >= self.lease_until {
            self.leave_partitions();
        }
    }

    /// That a target takes others' states, from whichever worker, tells a refused user from a failing target.
    async fn share_successes(&self) -> Result<(), StoreError> {
        let asked_at = OffsetDateTime::now_utc();
        let age = |served: &Served| Duration::try_from(asked_at - served.context.own_last_success_at()?).ok();
        let own: Vec<(String, Duration)> =
            self.served.iter().filter_map(|(name, served)| Some((name.clone(), age(served)?))).collect();
        for (name, age) in self.store.share_successes(self.id, &own).await? {
            if let Some(served) = self.served.get(&name) {
                served.context.others_succeeded(asked_at - age);
            }
        }
        Ok(())
    }

    /// The leases have run out: others may own the partitions. No request is under way, the fence saw to that.
    fn leave_partitions(&mut self) {
        for served in self.served.values_mut() {
            for running in std::mem::take(&mut served.running).into_values() {
                running.abort();
            }
        }
    }

    /// Takes up targets as soon as they are registered as configured here.
    async fn follow_registry(&mut self) -> Result<(), StoreError> {
        let mut missed = BTreeMap::new();
        for registered in self.store.registered_targets().await? {
            let name = registered.registration.name.clone();
            if let Some(served) = self.served.get_mut(&name) {
                served.check_registration(&registered);
                served.move_on(&registered, &self.shared, &self.health);
            }
            let Some(plan) = self.plans.get(&name) else { continue };
            if let Some(why) = why_not_served(&plan.registration, &registered) {
                missed.insert(name, why);
            } else if let Some(plan) = self.plans.remove(&name) {
                self.serve(&registered, plan);
            }
        }
        for name in self.plans.keys() {
            let why = missed.entry(name.clone()).or_insert_with(|| "it is not registered".to_owned());
            if self.missed.get(name) != Some(why) {
                tracing::warn!(target.name = %name, why = %why, "target is not served; run: postbound topology apply");
            }
        }
        self.missed = missed;
        Ok(())
    }

    fn serve(&mut self, registered: &RegisteredTarget, plan: TargetPlan) {
        let name = registered.registration.name.clone();
        // The number of partitions is the registered one, whatever the configuration here says.
        let generation = registered.leasable();
        let served = Served {
            prefetch: prefetch(&plan, generation.partitions),
            context: TargetContext::new(plan, generation, &self.shared),
            links: keep_connected(self.broker.clone(), format!("postbound worker {name}")),
            component: self.health.component(&format!("worker.{name}")),
            generation,
            relay_has_left: watch::Sender::new(false),
            running: BTreeMap::new(),
            moving_on: false,
            outdated: None,
            linked_at: None,
        };
        served.report_generation();
        served.start_archiving(&self.health);
        if served.context.plan.registration.subscribes() {
            tokio::spawn(keep_telling(Arc::downgrade(&served.context)));
        }
        self.served.insert(name, served);
    }

    async fn balance(&mut self) -> Result<(), StoreError> {
        for (name, served) in &mut self.served {
            if served.outdated.is_some() || served.moving_on {
                continue;
            }
            if !served.is_linked(self.settings.lease) {
                // Whoever has a connection is to have the partitions.
                served
                    .component
                    .not_ready("no connection to RabbitMQ; its partitions are left to other workers");
                served.running.values().for_each(|running| running.drain.cancel());
                continue;
            }
            let change = self.store.balance_partitions(self.id, name, served.generation).await?;
            // Lost while Postgres was away: another worker has it, and waits for our consumer to go.
            served.running.retain(|partition, running| {
                let owned = change.owned.contains(partition);
                if !owned {
                    running.abort();
                }
                // Only a bug ends a task that was not told to drain; it starts over rather than being missed.
                owned && (running.drain.is_cancelled() || !running.abort.is_finished())
            });
            for partition in &change.owned {
                if !served.running.contains_key(partition) {
                    let running =
                        served.start(*partition, self.settings.lease, &self.health, &mut self.tasks);
                    served.running.insert(*partition, running);
                }
            }
            let draining = served.running.values().filter(|running| running.drain.is_cancelled()).count();
            let surplus = change.surplus.saturating_sub(draining);
            for running in
                served.running.values().rev().filter(|running| !running.drain.is_cancelled()).take(surplus)
            {
                running.drain.cancel();
            }
            served.report(name, change.workers);
        }
        Ok(())
    }

    /// A partition's task that ended without a word: only a bug makes it. None: it was aborted, and is not missed.
    fn panicked(&self, error: &JoinError) -> Option<PartitionEnded> {
        self.served.iter().find_map(|(target, served)| {
            let mut running = served.running.iter();
            let (number, running) = running.find(|(_, running)| running.abort.id() == error.id())?;
            tracing::error!(target.name = %target, partition = number, "the partition's task panicked; its lease is given back");
            running.component.clone().remove();
            let (generation, is_empty) = (served.generation.number, false);
            Some(PartitionEnded { target: target.clone(), generation, number: *number, is_empty })
        })
    }

    /// A partition's task ended: drained, or by a bug. Its lease is free for others.
    async fn ended(&mut self, ended: PartitionEnded) {
        let PartitionEnded { target, generation, number, is_empty } = ended;
        let Some(served) = self.served.get_mut(&target) else { return };
        // Not one that has begun since in its place.
        let running = served.running.get(&number).filter(|_| served.generation.number == generation);
        if !running.is_some_and(|running| running.abort.is_finished()) {
            return;
        }
        served.running.remove(&number);
        let (store, id) = (&self.store, self.id);
        let released = async {
            if !is_empty {
                return store.release_partition(id, &target, generation, number).await;
            }
            if store.retire_partition(id, &target, generation, number).await? {
                tracing::info!(target.name = %target, generation, "all partitions drained; going on to the next generation");
            }
            Ok(())
        };
        if let Err(error) = within(self.settings.heartbeat, released).await {
            tracing::warn!(error = %error, target.name = %target, partition = number, "partition not released; it is taken up again");
        }
    }

    fn say_readiness(&self, component: &Component) {
        let outdated = |(name, served): (&String, &Served)| Some((name.clone(), served.outdated.clone()?));
        if let Some((name, why)) = self.served.iter().find_map(outdated) {
            return component.not_ready(format!(
                "target {name} is not served any more: {why}; restart with its new configuration"
            ));
        }
        match self.missed.first_key_value() {
            Some((name, why)) => component
                .not_ready(format!("target {name} is not served: {why}; run: postbound topology apply")),
            None => component.ready(),
        }
    }
}

impl Served {
    fn look_at_link(&mut self) {
        if self.links.borrow().as_ref().is_some_and(|link| link.is_up()) {
            self.linked_at = Some(Instant::now());
        }
    }

    /// Whether there is a connection to RabbitMQ, or was one a lease's time ago: a short loss moves no partition.
    fn is_linked(&self, lease: Duration) -> bool {
        self.linked_at.is_some_and(|at| at.elapsed() < lease)
    }

    /// A target that was registered otherwise, or retired, since this worker took it up is drained: its settings here
    /// are no longer those in force.
    fn check_registration(&mut self, registered: &RegisteredTarget) {
        let Some(why) = why_not_served(&self.context.plan.registration, registered) else { return };
        if self.outdated.is_some() {
            return;
        }
        tracing::warn!(target.name = %self.context.name, why = %why, "target is not served any more; restart with its new configuration");
        self.component.not_ready(format!("{why}; restart with its new configuration"));
        self.outdated = Some(why);
        for running in self.running.values() {
            running.drain.cancel();
        }
    }

    /// Follows the generation workers may lease: what runs in another one is drained first.
    fn move_on(&mut self, registered: &RegisteredTarget, shared: &Shared, health: &Health) {
        let relay_has_left = registered.draining == Some(self.generation) && registered.relay_moved_on;
        self.relay_has_left.send_replace(relay_has_left);
        let leasable = registered.leasable();
        if self.outdated.is_some() || leasable == self.generation {
            return;
        }
        self.moving_on = true;
        for running in self.running.values() {
            running.drain.cancel();
        }
        if self.running.is_empty() {
            self.context = self.context.successor(leasable, shared);
            self.prefetch = prefetch(&self.context.plan, leasable.partitions);
            self.generation = leasable;
            self.moving_on = false;
            self.report_generation();
            self.start_archiving(health);
        }
    }

    fn start(
        &self,
        number: u16,
        lease: Duration,
        health: &Health,
        tasks: &mut JoinSet<PartitionEnded>,
    ) -> Running {
        let name = &*self.context.name;
        let drain = CancellationToken::new();
        let plan = &self.context.plan;
        // Nothing is held longer than a request may wait for its turn and take, and the ledger for it.
        let stalled_after = plan.timeout + plan.breaker.fold_after + lease;
        let component = health.component(&format!("worker.{name}.{number}")).deadline(stalled_after);
        let partition = Partition {
            context: Arc::clone(&self.context),
            number,
            partitions: self.generation.partitions,
            links: self.links.clone(),
            prefetch: self.prefetch,
            component: component.clone(),
            drain: drain.clone(),
        };
        let draining = Draining {
            context: Arc::clone(&self.context),
            number,
            links: self.links.clone(),
            relay_has_left: self.relay_has_left.subscribe(),
        };
        let (target, generation, told) = (name.to_owned(), self.generation.number, drain.clone());
        let abort = tasks.spawn(async move {
            let is_empty = run_until_empty(partition, &draining, &told).await;
            PartitionEnded { target, generation, number, is_empty }
        });
        Running { drain, abort, component }
    }

    /// Ends with the context.
    fn start_archiving(&self, health: &Health) {
        let component = health.component(&format!("worker.{}.dead_letters", self.context.name));
        tokio::spawn(keep_archiving(Arc::downgrade(&self.context), self.links.clone(), component));
    }

    fn report_generation(&self) {
        metrics::gauge!(names::PARTITIONS_TOTAL, "target" => self.context.name.to_string())
            .set(f64::from(self.generation.partitions));
    }

    fn report(&self, name: &str, workers: usize) {
        metrics::gauge!(names::PARTITIONS_OWNED, "target" => name.to_owned()).set(self.running.len() as f64);
        if self.running.is_empty() {
            let (partitions, why) = (self.generation.partitions, "this one is spare");
            self.component.standby(format!("no partition left: {workers} workers share {partitions}; {why}"));
        } else {
            self.component.ready();
        }
    }
}

/// Why a worker with these settings may not serve a target that is registered so; None: it may.
fn why_not_served(own: &Registration, registered: &RegisteredTarget) -> Option<String> {
    if registered.retired {
        return Some("it is retired".to_owned());
    }
    let difference = own.difference(&registered.registration)?;
    Some(format!("it is registered with other settings: {difference}"))
}

/// Works on a partition until it is drained, or empty for good: then true.
async fn run_until_empty(partition: Partition, draining: &Draining, drain: &CancellationToken) -> bool {
    let mut running = std::pin::pin!(partition.run());
    tokio::select! {
        () = &mut running => return false,
        () = draining.end_when_idle(drain) => {}
    }
    running.await;
    draining.is_empty().await
}

/// Messages taken ahead per partition. Unseen ones wait in memory too: as many as the byte limit has room for, shared by
/// the partitions.
fn prefetch(plan: &TargetPlan, partitions: u16) -> u16 {
    let room = plan.in_flight_bytes_max / usize::from(partitions.max(1)) / (256 * 1024);
    plan.prefetch_messages.min(u16::try_from(room).unwrap_or(u16::MAX)).max(1)
}
