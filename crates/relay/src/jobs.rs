use crate::{
    guard::Guard,
    job_stream::{Ended, JobContext, run_jobs},
    settings::RelaySettings,
    supervise::{HALTED, Interrupted, RestartPauses},
};
use postbound_broker::Broker;
use postbound_store::{Store, StoreError, within};
use postbound_telemetry::Health;
use std::{collections::HashMap, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often it is asked for new jobs.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long one statement may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a loop here may go without a turn; each step of one is bounded well below.
const DEADLINE: Duration = Duration::from_secs(120);

const PRUNE_EVERY: Duration = Duration::from_secs(3600);
const JOBS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
const OUTAGES_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Runs the jobs that operators, and the scheduled reconcile, have written: one task per target that has some, so that
/// those of one target never wait for another's. It keeps nothing in memory: another relay goes on where the items stand.
pub(crate) struct JobRunner {
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) settings: RelaySettings,
    pub(crate) health: Health,
    pub(crate) lease_token: i64,
    pub(crate) guard: Guard,
}

impl JobRunner {
    /// Runs until told to stop; all its tasks have ended then.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let component = self.health.component("relay.jobs").deadline(DEADLINE);
        component.busy();
        let tasks = TaskTracker::new();
        let mut running = HashMap::new();
        let mut prune_at = Instant::now();
        while !stop.is_cancelled() {
            component.progress();
            match within(QUERY_TIMEOUT, self.store.targets_with_jobs()).await {
                Ok(targets) => {
                    component.ready();
                    self.start(targets, &mut running, &tasks, &stop);
                }
                Err(error) => {
                    tracing::warn!(error = %error, "cannot read the jobs");
                    component.not_ready("cannot read the jobs");
                }
            }
            if prune_at <= Instant::now() && !self.prune_part().await {
                prune_at = Instant::now() + PRUNE_EVERY;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
        tasks.close();
        tasks.wait().await;
        component.remove();
    }

    fn start(
        &self,
        targets: Vec<String>,
        running: &mut HashMap<String, JoinHandle<()>>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        running.retain(|_, task| !task.is_finished());
        for target in targets {
            if running.contains_key(&target) {
                continue;
            }
            let context = JobContext {
                store: self.store.clone(),
                broker: self.broker.clone(),
                settings: self.settings.clone(),
                lease_token: self.lease_token,
                guard: self.guard.clone(),
                component: self.health.component(&format!("relay.jobs.{target}")).deadline(DEADLINE),
                target: target.clone(),
            };
            running.insert(target, tasks.spawn(keep_running(context, stop.clone())));
        }
    }

    /// Throws away a part of the finished jobs and outages that are old; a small one, since new jobs wait for it. Gives
    /// whether there may be more.
    async fn prune_part(&self) -> bool {
        let (store, token) = (&self.store, self.lease_token);
        let pruned = async {
            match within(QUERY_TIMEOUT, store.prune_jobs(JOBS_KEPT, token)).await? {
                0 => within(QUERY_TIMEOUT, store.prune_outages(OUTAGES_KEPT, token)).await,
                jobs => Ok(jobs),
            }
        };
        pruned.await.map_or_else(
            |error: StoreError| {
                tracing::warn!(error = %error, "old jobs and outages were not pruned; trying again in an hour");
                false
            },
            |rows| rows > 0,
        )
    }
}

/// Runs a target's jobs over lost connections, until none is left or told to stop.
async fn keep_running(mut context: JobContext, stop: CancellationToken) {
    let mut pauses = RestartPauses::new();
    context.component.busy();
    while !stop.is_cancelled() {
        let started = Instant::now();
        match run_jobs(&mut context, &stop).await {
            Ok(Ended::Idle) => break,
            Ok(Ended::Anew) => pauses = RestartPauses::new(),
            Err(Interrupted::Halted(_)) => {
                context.component.idle();
                context.component.not_ready(HALTED);
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = context.guard.resumed() => context.component.busy(),
                }
            }
            Err(why) => {
                tracing::warn!(target.name = %context.target, error = %why, "jobs interrupted; starting over");
                context.component.not_ready(why.to_string());
            }
        }
        context.component.progress();
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(pauses.after(started.elapsed())) => {}
        }
    }
    context.component.remove();
}
