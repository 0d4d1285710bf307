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
use consumers::Consumers;
use postbound_broker::{BrokerError, ConsumingChannel, Link, QueueState};
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
/// How often in a row RabbitMQ must say of an empty queue that nobody consumes it: while a queue has no leader it says so,
/// too.
const UNUSED_LOOKS: u32 = 3;
const UNUSED_PAUSE: Duration = Duration::from_millis(100);
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
    #[error("the consumers were not started while the lease held")]
    StartedTooLate,
    #[error("{queue} has another consumer")]
    Shared { queue: String },
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
        let begun = async {
            self.wait_for_previous_owner(link).await?;
            let lease_until = self.context.fence.pass(START_WITHIN).await;
            let started = timeout_at(lease_until, self.start_consumers(link, lease_until)).await;
            started.map_err(|_| Interrupted::StartedTooLate)?
        };
        let consumers = tokio::select! {
            begun = begun => begun?,
            () = self.drain.cancelled() => return Ok(()),
        };
        // Whom the last owner had in its hands is due now: it can hold no request of theirs any more.
        let context = &self.context;
        let released = context.store.release_taken(&context.name, self.partitions, self.number);
        if let Err(error) = within(RELEASE_TIMEOUT, released).await {
            tracing::warn!(error = %error, "parked users in the last owner's hands not released; they are due in a minute");
        }
        self.component.ready();
        let mut session = Session::new(self, consumers);
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
    ///
    /// Two consumers at once would share out the queue, and what one of them gives back comes after what the other got. So a
    /// worker that stood still on the way starts none beside the new owner's.
    async fn start_consumers(&self, link: &Link, lease_until: Instant) -> Result<Consumers, Interrupted> {
        let TargetContext { name, names, store, .. } = &*self.context;
        let queues = [names.queue(self.number), names.backfill_queue(self.number)];
        // Once more: the lease may have been waited for.
        let [state, _] = self.with_consumers(link, &queues, 0).await?;
        let (lease, wanted) = (self.context.lease(self.number), self.prefetch);
        let prefetch = store.partition_prefetch(name, lease, wanted, state.is_empty()).await?;
        let prefetch = prefetch.ok_or(Interrupted::StartedTooLate)?;
        let [queue, backfill_queue] = &queues;
        if prefetch > wanted {
            tracing::info!(
                queue,
                prefetch,
                wanted,
                "as many messages are taken ahead as before, until a worker begins with an empty queue"
            );
        }
        let live = ConsumingChannel::open(link, prefetch).await?;
        let backfill = ConsumingChannel::open(link, BACKFILL_PREFETCH).await?;
        if Instant::now() >= lease_until {
            return Err(Interrupted::StartedTooLate);
        }
        let live = live.consume(queue).await?;
        let consumers = Consumers { live, backfill: backfill.consume(backfill_queue).await? };
        // What RabbitMQ said before may have been no queue's word; a consumer it counts is there.
        if let Err(why) = self.with_consumers(link, &queues, 1).await {
            consumers.close().await;
            return Err(why);
        }
        Ok(consumers)
    }

    /// The states of both queues, neither of which has more consumers than that.
    async fn with_consumers(
        &self,
        link: &Link,
        queues: &[String; 2],
        consumers_max: u32,
    ) -> Result<[QueueState; 2], Interrupted> {
        let [live, backfill] = queues;
        let states = [link.queue_state(live).await?, link.queue_state(backfill).await?];
        match states.iter().find(|state| state.consumers > consumers_max) {
            Some(state) => Err(Interrupted::Shared { queue: state.name.clone() }),
            None => Ok(states),
        }
    }

    /// The last owner's consumers may still hold messages older than those the queues would give us.
    async fn wait_for_previous_owner(&self, link: &Link) -> Result<(), Interrupted> {
        let names = &self.context.names;
        for queue in [names.queue(self.number), names.backfill_queue(self.number)] {
            let mut unused = 0;
            for pause in reconnect_pauses() {
                let state = link.queue_state(&queue).await?;
                if !state.exists {
                    return Err(BrokerError::Missing { what: format!("queue {queue}") }.into());
                }
                unused = if state.is_unused() { unused + 1 } else { 0 };
                // What is in it, RabbitMQ knows from the queue alone.
                if unused == UNUSED_LOOKS || unused > 0 && state.messages > 0 {
                    break;
                }
                if unused > 0 {
                    tokio::time::sleep(UNUSED_PAUSE).await;
                    continue;
                }
                self.component.standby(match state.answered {
                    true => format!("waiting for the last consumer of {queue} to go"),
                    false => format!("waiting for RabbitMQ to say in time who consumes {queue}"),
                });
                tokio::time::sleep(pause.min(Duration::from_secs(1))).await;
            }
        }
        Ok(())
    }
}
