use crate::{
    context::{Shared, TargetContext},
    fence::Fence,
    ledger::Ledger,
    links::keep_connected,
    partition::{LinkWatch, Partition},
    settings::{TargetPlan, WorkerSettings},
};
use postbound_broker::Broker;
use postbound_store::{RegisteredTarget, Store, StoreError, WorkerId, within};
use postbound_telemetry::{Component, Health, names};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

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
    tasks: JoinSet<(String, u16)>,
    /// Until when the leases hold.
    lease_until: Instant,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All that was under way is settled, all leases are released.
    Drained,
}

/// A target this worker works for.
struct Served {
    context: Arc<TargetContext>,
    links: LinkWatch,
    component: Component,
    partitions: u16,
    prefetch: u16,
    generation: i32,
    running: BTreeMap<u16, Running>,
    /// Registered otherwise since: it is not served any more.
    outdated: bool,
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
        let shared = Shared {
            store: store.clone(),
            ledger: Ledger::start(store.clone(), settings.ledger_batch_max),
            broker: broker.clone(),
            fence: Fence::closed(),
        };
        let plans = plans.into_iter().map(|plan| (plan.registration.name.clone(), plan)).collect();
        Self {
            store,
            broker,
            settings,
            health,
            id: WorkerId::new_v4(),
            label,
            shared,
            plans,
            served: BTreeMap::new(),
            tasks: JoinSet::new(),
            lease_until: Instant::now(),
        }
    }

    /// Runs until told to stop, then drains: nothing new is started, what is under way is settled, leases are
    /// released. The caller bounds the time by dropping the future.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let component = self.health.component("worker");
        let mut beat = tokio::time::interval(self.settings.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        loop {
            tokio::select! {
                _ = beat.tick() => self.beat(&component, draining).await,
                Some(ended) = self.tasks.join_next() => self.ended(ended.ok()).await,
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
        Ended::Drained
    }

    /// Renews the leases, balances them, and starts and stops partitions accordingly.
    async fn beat(&mut self, component: &Component, draining: bool) {
        let (asked_at, lease) = (Instant::now(), self.settings.lease);
        let round = async {
            if !draining {
                self.follow_registry().await?;
            }
            let serving = self.served.iter().filter(|(_, served)| !draining && !served.outdated);
            let targets: Vec<String> = serving.map(|(name, _)| name.clone()).collect();
            self.store.heartbeat(self.id, &self.label, &targets, lease).await?;
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
        for registered in self.store.registered_targets().await? {
            let name = registered.registration.name.clone();
            if let Some(served) = self.served.get_mut(&name) {
                served.check_registration(&registered);
            }
            let Some(plan) = self.plans.get(&name) else { continue };
            if registered.retired || registered.registration.config_hash != plan.registration.config_hash {
                continue;
            }
            if let Some(plan) = self.plans.remove(&name) {
                self.serve(&registered, plan);
            }
        }
        for name in self.plans.keys() {
            tracing::warn!(target.name = %name, "target is not registered as configured here; run: postbound topology apply");
        }
        Ok(())
    }

    fn serve(&mut self, registered: &RegisteredTarget, plan: TargetPlan) {
        let name = registered.registration.name.clone();
        let partitions = registered.registration.partitions;
        // Unseen messages wait in memory too: as many as the byte limit has room for, shared by the partitions.
        let room = plan.in_flight_bytes_max / usize::from(partitions.max(1)) / (256 * 1024);
        let prefetch = plan.prefetch_messages.min(u16::try_from(room).unwrap_or(u16::MAX)).max(1);
        let served = Served {
            context: TargetContext::new(plan, registered.generation, &self.shared),
            links: keep_connected(self.broker.clone(), format!("postbound worker {name}")),
            component: self.health.component(&format!("worker.{name}")),
            partitions,
            prefetch,
            generation: registered.generation,
            running: BTreeMap::new(),
            outdated: false,
        };
        metrics::gauge!(names::PARTITIONS_TOTAL, "target" => name.clone()).set(f64::from(partitions));
        self.served.insert(name, served);
    }

    async fn balance(&mut self) -> Result<(), StoreError> {
        for (name, served) in &mut self.served {
            if served.outdated {
                continue;
            }
            let change = self.store.balance_partitions(self.id, name, served.partitions).await?;
            served.context.rate.share_among(change.workers);
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
                    let running = served.start(name, *partition, &self.health, &mut self.tasks);
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

    /// A partition's task ended: drained, so its lease is free for others.
    async fn ended(&mut self, ended: Option<(String, u16)>) {
        let Some((name, partition)) = ended else { return };
        let Some(served) = self.served.get_mut(&name) else { return };
        // Not one that has begun since in its place.
        if !served.running.get(&partition).is_some_and(|running| running.abort.is_finished()) {
            return;
        }
        served.running.remove(&partition);
        let released = self.store.release_partition(self.id, &name, partition);
        if let Err(error) = within(self.settings.heartbeat, released).await {
            tracing::warn!(error = %error, target.name = %name, partition, "partition not released; it is taken up again");
        }
    }

    fn say_readiness(&self, component: &Component) {
        if let Some((name, _)) = self.served.iter().find(|(_, served)| served.outdated) {
            let why = "is registered otherwise, or retired; restart with its new configuration";
            return component.not_ready(format!("target {name} {why}"));
        }
        match self.plans.keys().next() {
            Some(name) => component.not_ready(format!(
                "target {name} is not registered as configured here; run: postbound topology apply"
            )),
            None => component.ready(),
        }
    }
}

impl Served {
    /// A target that was registered otherwise, or retired, since this worker took it up is drained: its settings here
    /// are no longer those in force.
    fn check_registration(&mut self, registered: &RegisteredTarget) {
        let same = !registered.retired
            && registered.generation == self.generation
            && registered.registration.config_hash == self.context.plan.registration.config_hash;
        if same || self.outdated {
            return;
        }
        self.outdated = true;
        self.component
            .not_ready("the target is registered otherwise, or retired; restart with its new configuration");
        for running in self.running.values() {
            running.drain.cancel();
        }
    }

    fn start(&self, name: &str, number: u16, health: &Health, tasks: &mut JoinSet<(String, u16)>) -> Running {
        let drain = CancellationToken::new();
        let component = health.component(&format!("worker.{name}.{number}"));
        let partition = Partition {
            context: Arc::clone(&self.context),
            number,
            links: self.links.clone(),
            prefetch: self.prefetch,
            component: component.clone(),
            drain: drain.clone(),
        };
        let name = name.to_owned();
        let abort = tasks.spawn(async move {
            partition.run().await;
            (name, number)
        });
        Running { drain, abort, component }
    }

    fn report(&self, name: &str, workers: usize) {
        metrics::gauge!(names::PARTITIONS_OWNED, "target" => name.to_owned()).set(self.running.len() as f64);
        if self.running.is_empty() {
            let (partitions, why) = (self.partitions, "this one is spare");
            self.component.standby(format!("no partition left: {workers} workers share {partitions}; {why}"));
        } else {
            self.component.ready();
        }
    }
}
