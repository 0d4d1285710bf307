use crate::{
    archiver::keep_archiving,
    context::{Shared, TargetContext},
    generation::Draining,
    links::{LinkWatch, keep_connected},
    notices::keep_telling,
    partition::Partition,
    settings::TargetPlan,
};
use postbound_store::{Generation, LeaseChange, RegisteredTarget, Registration};
use postbound_telemetry::{Component, Health, names};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// A target this worker works for.
pub(super) struct Served {
    pub(super) context: Arc<TargetContext>,
    links: LinkWatch,
    pub(super) component: Component,
    /// What it leases.
    pub(super) generation: Generation,
    prefetch: u16,
    /// Whether that is a past generation, and the relay publishes to the next one.
    relay_has_left: watch::Sender<bool>,
    pub(super) running: BTreeMap<u16, Running>,
    /// Its generation is empty: it goes on to the current one when nothing runs any more.
    pub(super) moving_on: bool,
    /// Why it is not served any more: registered otherwise since, or retired.
    pub(super) outdated: Option<String>,
    /// When there last was a connection to RabbitMQ.
    pub(super) linked_at: Option<Instant>,
}

/// How a partition's task ended.
pub(super) struct PartitionEnded {
    pub(super) target: String,
    pub(super) generation: i32,
    pub(super) number: u16,
    /// Its generation is past, and nothing is left in its queues.
    pub(super) is_empty: bool,
}

/// A partition that is worked on.
pub(super) struct Running {
    pub(super) drain: CancellationToken,
    pub(super) abort: AbortHandle,
    pub(super) component: Component,
}

impl Running {
    /// Ends it at once: the lease is lost, and with the consumer gone its new owner can begin.
    pub(super) fn abort(&self) {
        self.abort.abort();
        self.component.clone().remove();
    }
}

impl Served {
    /// Takes up a target that is registered as `plan` has it.
    pub(super) fn new(
        registered: &RegisteredTarget,
        plan: TargetPlan,
        shared: &Shared,
        health: &Health,
    ) -> Self {
        let name = &registered.registration.name;
        // The number of partitions is the registered one, whatever the configuration here says.
        let generation = registered.leasable();
        let served = Self {
            prefetch: prefetch(&plan, generation.partitions),
            context: TargetContext::new(plan, generation, shared),
            links: keep_connected(shared.broker.clone(), format!("postbound worker {name}")),
            component: health.component(&format!("worker.{name}")),
            generation,
            relay_has_left: watch::Sender::new(false),
            running: BTreeMap::new(),
            moving_on: false,
            outdated: None,
            linked_at: None,
        };
        served.report_generation();
        served.start_archiving(health);
        if served.context.plan.registration.subscribes() {
            tokio::spawn(keep_telling(Arc::downgrade(&served.context)));
        }
        served
    }

    pub(super) fn look_at_link(&mut self) {
        if self.links.borrow().as_ref().is_some_and(|link| link.is_up()) {
            self.linked_at = Some(Instant::now());
        }
    }

    /// Has all its partitions finish what is under way.
    pub(super) fn drain(&self) {
        self.running.values().for_each(|running| running.drain.cancel());
    }

    /// Whether there is a connection to RabbitMQ, or was one a lease's time ago: a short loss moves no partition.
    pub(super) fn is_linked(&self, lease: Duration) -> bool {
        self.linked_at.is_some_and(|at| at.elapsed() < lease)
    }

    /// A target that was registered otherwise, or retired, since this worker took it up is drained: its settings here
    /// are no longer those in force.
    pub(super) fn check_registration(&mut self, registered: &RegisteredTarget) {
        let Some(why) = why_not_served(&self.context.plan.registration, registered) else { return };
        if self.outdated.is_some() {
            return;
        }
        tracing::warn!(target.name = %self.context.name, why = %why, "target is not served any more; restart with its new configuration");
        self.component.not_ready(format!("{why}; restart with its new configuration"));
        self.outdated = Some(why);
        self.drain();
    }

    /// Follows the generation workers may lease: what runs in another one is drained first.
    pub(super) fn move_on(&mut self, registered: &RegisteredTarget, shared: &Shared, health: &Health) {
        let relay_has_left = registered.draining == Some(self.generation) && registered.relay_moved_on;
        self.relay_has_left.send_replace(relay_has_left);
        let leasable = registered.leasable();
        if self.outdated.is_some() || leasable == self.generation {
            return;
        }
        self.moving_on = true;
        self.drain();
        if self.running.is_empty() {
            self.context = self.context.successor(leasable, shared);
            self.prefetch = prefetch(&self.context.plan, leasable.partitions);
            self.generation = leasable;
            self.moving_on = false;
            self.report_generation();
            self.start_archiving(health);
        }
    }

    /// Starts, stops and drains partitions as the leases have changed.
    pub(super) fn follow(
        &mut self,
        change: &LeaseChange,
        lease: Duration,
        health: &Health,
        tasks: &mut JoinSet<PartitionEnded>,
    ) {
        // Lost while Postgres was away: another worker has it, and waits for our consumer to go.
        self.running.retain(|partition, running| {
            let owned = change.owned.contains(partition);
            if !owned {
                running.abort();
            }
            // Only a bug ends a task that was not told to drain; it starts over rather than being missed.
            owned && (running.drain.is_cancelled() || !running.abort.is_finished())
        });
        for partition in &change.owned {
            if !self.running.contains_key(partition) {
                let running = self.start(*partition, lease, health, tasks);
                self.running.insert(*partition, running);
            }
        }
        let draining = self.running.values().filter(|running| running.drain.is_cancelled()).count();
        let surplus = change.surplus.saturating_sub(draining);
        let goes_on = self.running.values().rev().filter(|running| !running.drain.is_cancelled());
        goes_on.take(surplus).for_each(|running| running.drain.cancel());
        self.report(change.workers);
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

    fn report(&self, workers: usize) {
        metrics::gauge!(names::PARTITIONS_OWNED, "target" => self.context.name.to_string())
            .set(self.running.len() as f64);
        if self.running.is_empty() {
            let (partitions, why) = (self.generation.partitions, "this one is spare");
            self.component.standby(format!("no partition left: {workers} workers share {partitions}; {why}"));
        } else {
            self.component.ready();
        }
    }
}

/// Why a worker with these settings may not serve a target that is registered so; None: it may.
pub(super) fn why_not_served(own: &Registration, registered: &RegisteredTarget) -> Option<String> {
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
