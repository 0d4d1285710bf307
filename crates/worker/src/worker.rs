use crate::{
    context::{Shared, TargetContext},
    dead_letters::DeadLetters,
    fence::Fence,
    ledger::Ledger,
    links::keep_connected,
    partition::{LinkWatch, Partition},
    settings::{TargetPlan, WorkerSettings},
};
use postbound_broker::Broker;
use postbound_store::{RegisteredTarget, Store, StoreError, WorkerId};
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
    running: BTreeMap<u16, Running>,
}

struct Running {
    drain: CancellationToken,
    abort: AbortHandle,
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
            dead_letters: DeadLetters::start(broker.clone()),
            fence: Fence::closed(),
        };
        let plans = plans.into_iter().map(|plan| (plan.registration.name.clone(), plan)).collect();
        let (served, tasks) = (BTreeMap::new(), JoinSet::new());
        Self { store, broker, settings, health, id: WorkerId::new_v4(), label, shared, plans, served, tasks }
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
            let targets: Vec<String> =
                if draining { Vec::new() } else { self.served.keys().cloned().collect() };
            self.store.heartbeat(self.id, &self.label, &targets, lease).await?;
            if !draining {
                self.balance().await?;
            }
            Ok::<_, StoreError>(())
        };
        // A round that hangs must not keep the next one from being tried in time.
        match tokio::time::timeout(lease, round).await {
            Ok(Ok(())) => {
                self.shared.fence.extend(asked_at + lease);
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
    }

    /// Takes up targets as soon as they are registered as configured here.
    async fn follow_registry(&mut self) -> Result<(), StoreError> {
        for registered in self.store.registered_targets().await? {
            let name = registered.registration.name.clone();
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
            running: BTreeMap::new(),
        };
        metrics::gauge!(names::PARTITIONS_TOTAL, "target" => name.clone()).set(f64::from(partitions));
        self.served.insert(name, served);
    }

    async fn balance(&mut self) -> Result<(), StoreError> {
        for (name, served) in &mut self.served {
            let change = self.store.balance_partitions(self.id, name, served.partitions).await?;
            served.context.rate.share_among(change.workers);
            // Lost while Postgres was away: another worker has it, and waits for our consumer to go.
            served.running.retain(|partition, running| {
                let owned = change.owned.contains(partition);
                if !owned {
                    running.abort.abort();
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
        if served.running.remove(&partition).is_some()
            && let Err(error) = self.store.release_partition(self.id, &name, partition).await
        {
            tracing::warn!(error = %error, target.name = %name, partition, "partition not released; it is taken up again");
        }
    }

    fn say_readiness(&self, component: &Component) {
        match self.plans.keys().next() {
            Some(name) => component.not_ready(format!(
                "target {name} is not registered as configured here; run: postbound topology apply"
            )),
            None => component.ready(),
        }
    }
}

impl Served {
    fn start(&self, name: &str, number: u16, health: &Health, tasks: &mut JoinSet<(String, u16)>) -> Running {
        let drain = CancellationToken::new();
        let partition = Partition {
            context: Arc::clone(&self.context),
            number,
            links: self.links.clone(),
            prefetch: self.prefetch,
            component: health.component(&format!("worker.{name}.{number}")),
            drain: drain.clone(),
        };
        let name = name.to_owned();
        let abort = tasks.spawn(async move {
            partition.run().await;
            (name, number)
        });
        Running { drain, abort }
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
