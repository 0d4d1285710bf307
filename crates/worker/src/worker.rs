mod served;

use crate::{
    breaker::BreakerBoard,
    context::Shared,
    fence::Fence,
    held_fields::HeldFields,
    identity::heard_of,
    ledger::Ledger,
    pace::Pace,
    settings::{TargetPlan, WorkerSettings},
};
use postbound_broker::Broker;
use postbound_store::{Store, StoreError, WorkerId, within};
use postbound_telemetry::{Component, Health};
use served::{PartitionEnded, Served, why_not_served};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// How long after its start a worker looks often whether RabbitMQ has answered.
const FIRST_LINK: Duration = Duration::from_secs(5);

/// A worker process: it owns partitions by lease and works on them.
pub struct Worker {
    store: Store,
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
            broker,
            fence: Fence::closed(),
            breakers: BreakerBoard::start(store.clone()),
            pace: Pace::default(),
        };
        let plans = plans.into_iter().map(|plan| (plan.registration.name.clone(), plan)).collect();
        Self {
            store,
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
                    self.served.values().for_each(Served::drain);
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
        self.leave_outlived_partitions();
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
            // As after having stood still: whoever finds all of them its own now may have lost some for a while.
            self.leave_outlived_partitions();
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
        self.leave_outlived_partitions();
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

    /// Where the leases have run out, others may own the partitions. No request is under way, the fence saw to that.
    fn leave_outlived_partitions(&mut self) {
        if Instant::now() < self.lease_until {
            return;
        }
        for served in self.served.values_mut() {
            if !served.running.is_empty() {
                tracing::warn!(target.name = %served.context.name, partitions = served.running.len(), "leases ran out; the partitions are begun anew once they are leased again");
            }
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
                self.served.insert(name, Served::new(&registered, plan, &self.shared, &self.health));
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
                served.drain();
                continue;
            }
            let change = self.store.balance_partitions(self.id, name, served.generation).await?;
            served.follow(&change, self.settings.lease, &self.health, &mut self.tasks);
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
