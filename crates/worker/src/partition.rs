mod consumers;
mod entering;
mod intake;
mod session;
mod work;

use crate::{
    context::TargetContext,
    ledger::LedgerGone,
    links::{LinkWatch, next_link},
    retry::{RestartPauses, reconnect_pauses},
};
use postbound_broker::{BrokerError, Link, PartitionConsumer, QueueState};
use postbound_store::{StoreError, within};
use postbound_telemetry::Component;
use session::Session;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Messages of jobs taken ahead: enough to keep their lanes busy, and little to hold when live ones come.
const BACKFILL_PREFETCH: u16 = 4;
/// How long the lease must still hold for consumers to be started under it.
const START_WITHIN: Duration = Duration::from_secs(1);
/// How long the statement for parked users of the last owner may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Works on one partition of one target while the worker owns it.
pub(crate) struct Partition {
    pub(crate) context: Arc<TargetContext>,
    pub(crate) number: u16,
    /// P.
    pub(crate) partitions: u16,
    pub(crate) links: LinkWatch,
    pub(crate) prefetch: u16,
    pub(crate) component: Component,
    /// Finish what is under way, start nothing more.
    pub(crate) drain: CancellationToken,
}

/// Why a partition's session ended without being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerGone),
    #[error("a delivery was abandoned")]
    Abandoned,
    #[error("a message was held for {} minutes", session::HELD_MAX.as_secs() / 60)]
    HeldTooLong,
    #[error("RabbitMQ did not start the consumers while the lease held")]
    StartedTooLate,
}

impl Partition {
    /// Runs until drained.
    pub(crate) async fn run(mut self) {
        let mut pauses = RestartPauses::new();
        let drain = self.drain.clone();
        loop {
            let link = tokio::select! {
                Some(link) = next_link(&mut self.links) => link,
                () = drain.cancelled() => break,
            };
            let started = Instant::now();
            match self.session(&link).await {
                Ok(()) => break,
                // What a drain gives up is the next owner's.
                Err(Interrupted::Abandoned) if drain.is_cancelled() => break,
                Err(why) => {
                    let queue = self.context.names.queue(self.number);
                    tracing::warn!(queue, error = %why, "partition interrupted; starting over");
                    self.component.not_ready(format!("{queue}: {why}"));
                }
            }
            tokio::select! {
                () = drain.cancelled() => break,
                () = tokio::time::sleep(pauses.after(started.elapsed())) => {}
            }
        }
        postbound_failpoint::pass("worker.drained");
        self.component.remove();
    }

    async fn session(&self, link: &Link) -> Result<(), Interrupted> {
        let queue_is_empty = tokio::select! {
            waited = self.wait_for_previous_owner(link) => waited?,
            () = self.drain.cancelled() => return Ok(()),
        };
        // Two consumers at once would share out the queue, and what one of them gives back comes after what the other got: so
        // one that has stood still must not begin beside the new owner's.
        let context = &self.context;
        let lease_until = tokio::select! {
            lease_until = context.fence.pass(START_WITHIN) => lease_until,
            () = self.drain.cancelled() => return Ok(()),
        };
        // Whom the last owner had in its hands is due now: it can hold no request of theirs any more.
        let released = context.store.release_taken(&context.name, self.partitions, self.number);
        if let Err(error) = within(RELEASE_TIMEOUT, released).await {
            tracing::warn!(error = %error, "parked users in the last owner's hands not released; they are due in a minute");
        }
        let started = timeout_at(lease_until, self.start_consumers(link, queue_is_empty)).await;
        let (live, backfill) = started.map_err(|_| Interrupted::StartedTooLate)??;
        self.component.ready();
        let mut session = Session::new(self, live, backfill);
        let ended = session.run().await;
        // Requests under way are awaited, their outcomes written: dropped, they would be in doubt.
        session.stop.cancel();
        session.finish().await;
        self.component.idle();
        session.close().await;
        ended
    }

    /// Starts to consume, as many messages ahead as an earlier owner may have given back: they come in their order only to
    /// who takes all of them.
    async fn start_consumers(
        &self,
        link: &Link,
        queue_is_empty: bool,
    ) -> Result<(PartitionConsumer, PartitionConsumer), Interrupted> {
        let TargetContext { name, names, store, .. } = &*self.context;
        let (generation, wanted) = (self.context.generation(), self.prefetch);
        let prefetch =
            store.partition_prefetch(name, generation, self.number, wanted, queue_is_empty).await?;
        let queue = names.queue(self.number);
        if prefetch > wanted {
            tracing::info!(
                queue,
                prefetch,
                wanted,
                "as many messages are taken ahead as before, until the queue was empty at a start"
            );
        }
        let live = PartitionConsumer::start(link, &queue, prefetch).await?;
        let backfill = names.backfill_queue(self.number);
        Ok((live, PartitionConsumer::start(link, &backfill, BACKFILL_PREFETCH).await?))
    }

    /// The last owner's consumers may still hold messages older than those the queues would give us. Gives whether the live
    /// queue is empty.
    async fn wait_for_previous_owner(&self, link: &Link) -> Result<bool, Interrupted> {
        let names = &self.context.names;
        let live = self.until_unused(link, &names.queue(self.number)).await?;
        self.until_unused(link, &names.backfill_queue(self.number)).await?;
        Ok(live.is_empty())
    }

    async fn until_unused(&self, link: &Link, queue: &str) -> Result<QueueState, Interrupted> {
        for pause in reconnect_pauses() {
            let state = link.queue_state(queue).await?;
            if !state.exists {
                return Err(BrokerError::Missing { what: format!("queue {queue}") }.into());
            }
            if state.is_unused() {
                return Ok(state);
            }
            self.component.standby(match state.answered {
                true => format!("waiting for the last consumer of {queue} to go"),
                false => format!("waiting for RabbitMQ to say in time who consumes {queue}"),
            });
            tokio::time::sleep(pause.min(Duration::from_secs(1))).await;
        }
        unreachable!("the pauses have no end")
    }
}
