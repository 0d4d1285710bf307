use crate::{settings::RelaySettings, supervise::Interrupted};
use postbound_broker::{Broker, Link, TargetNames};
use postbound_store::{RegisteredTarget, Store, StreamLag, within};
use postbound_telemetry::Component;
use std::{collections::HashMap, time::Duration};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long one step of a round may take before it counts as hung.
pub(crate) const STEP_DEADLINE: Duration = Duration::from_secs(300);
/// How long one statement may take; the search reads every user's state.
const QUERY_TIMEOUT: Duration = Duration::from_secs(240);
/// A stream that is further behind than this brings many of the states that look left behind.
const LAG_MAX_SECONDS: f64 = 5.0;

/// Searches each target for users it should long hold a newer state of, and makes a job that sends them. It only speaks
/// up where nothing else is about to deliver them: the stream is level, the queues are empty, the breaker is closed.
pub(crate) struct ReconcileSchedule {
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) settings: RelaySettings,
    pub(crate) component: Component,
}

impl ReconcileSchedule {
    /// Runs until told to stop; ends at once where it is switched off.
    pub(crate) async fn run(self, stop: CancellationToken) {
        if let Some(every) = self.settings.reconcile_every {
            self.component.ready();
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.keep_reconciling(every) => {}
            }
        }
        self.component.remove();
    }

    /// A target that is not quiet is looked at again soon, rather than after the whole pause.
    async fn keep_reconciling(&self, every: Duration) {
        let step = (every / 15).max(Duration::from_millis(200));
        let mut due_at = HashMap::new();
        loop {
            sleep(step).await;
            self.component.busy();
            match self.round(&mut due_at, every).await {
                Ok(failed) if failed.is_empty() => self.component.ready(),
                Ok(failed) => self
                    .component
                    .not_ready(format!("cannot search for stale users: targets {}", failed.join(", "))),
                Err(error) => {
                    tracing::warn!(error = %error, "targets were not searched for stale users; trying again");
                    self.component.not_ready("cannot search targets for stale users");
                }
            }
            self.component.idle();
        }
    }

    /// Looks at each target that is due. Gives those that could not be searched: they are due again after the whole
    /// pause, and hold up no other.
    async fn round(
        &self,
        due_at: &mut HashMap<String, Instant>,
        every: Duration,
    ) -> Result<Vec<String>, Interrupted> {
        let now = Instant::now();
        let mut registered = within(QUERY_TIMEOUT, self.store.registered_targets()).await?;
        registered.retain(|target| {
            let due = due_at.get(&target.registration.name).is_none_or(|at| *at <= now);
            // One that gets every event is not sent newest states.
            due && !target.retired && target.draining.is_none() && target.registration.fold
        });
        if registered.is_empty() {
            return Ok(Vec::new());
        }
        let lags = within(QUERY_TIMEOUT, self.store.stream_lags()).await?;
        let mut failed = Vec::new();
        for target in registered {
            self.component.progress();
            let name = target.registration.name.clone();
            match self.look(&target, &lags).await {
                Ok(false) => {}
                Ok(true) => {
                    due_at.insert(name, now + every);
                }
                Err(error) => {
                    tracing::warn!(target.name = name, error = %error, "not searched for stale users; trying again later");
                    due_at.insert(name.clone(), now + every);
                    failed.push(name);
                }
            }
        }
        Ok(failed)
    }

    /// Reconciles a target if it is quiet; gives whether it is.
    async fn look(&self, target: &RegisteredTarget, lags: &[StreamLag]) -> Result<bool, Interrupted> {
        let name = &target.registration.name;
        let level = |lag: &StreamLag| lag.rows == 0 || lag.seconds < LAG_MAX_SECONDS;
        if !lags.iter().any(|lag| lag.stream == *name && level(lag))
            || !within(QUERY_TIMEOUT, self.store.may_reconcile(name)).await?
        {
            return Ok(false);
        }
        let link = self.broker.connect("postbound relay reconcile").await?;
        let empty = queues_are_empty(target, &link).await;
        link.close().await;
        if !empty? {
            return Ok(false);
        }
        self.reconcile(name).await?;
        Ok(true)
    }

    async fn reconcile(&self, target: &str) -> Result<(), Interrupted> {
        let created = self.store.create_reconcile_job(target, self.settings.reconcile_after, None);
        let Some(job) = within(QUERY_TIMEOUT, created).await? else {
            tracing::debug!(target.name = target, "nobody is stale");
            return Ok(());
        };
        let users = within(QUERY_TIMEOUT, self.store.job_item_count(job)).await?;
        tracing::warn!(
            target.name = target,
            job.id = job,
            job.items = users,
            "users were left behind with an older state; sending the newest"
        );
        Ok(())
    }
}

/// Whether nothing of a target waits in its live queues.
async fn queues_are_empty(target: &RegisteredTarget, link: &Link) -> Result<bool, Interrupted> {
    let names = TargetNames::new(target.registration.name.clone(), target.generation);
    for partition in 0..target.registration.partitions {
        let queue = link.queue_state(&names.queue(partition)).await?;
        // A missing one is the stream's to report.
        if !queue.exists || !queue.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}
