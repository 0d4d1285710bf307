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
/// How often in a row RabbitMQ must say of an empty queue that nobody consumes it, and how long between: it says so, too,
/// while the queue elects a leader. By the time a partition is leased that is over; after a lost connection it may go on.
const FIRST_LOOKS: (u32, Duration) = (3, Duration::from_millis(100));
const LATER_LOOKS: (u32, Duration) = (7, Duration::from_millis(500));
/// How long between looks for a consumer that was started.
const OWN_LOOK_EVERY: Duration = Duration::from_millis(100);
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
        let mut looks = FIRST_LOOKS;
        loop {
            let link = tokio::select! {
                Some(link) = next_link(&mut self.links) => link,
                () = drain.cancelled() => break,
            };
            let started = Instant::now();
            match self.session(&link, looks).await {
                Ok(()) => break,
                // What a drain gives up is the next owner's.
                Err(Interrupted::Abandoned) if drain.is_cancelled() => break,
                Err(why) => {
                    let queue = self.context.names.queue(self.number);
                    tracing::warn!(queue, error = %why, "partition interrupted; starting over");
                    self.component.not_ready(format!("{queue}: {why}"));
                }
            }
            looks = LATER_LOOKS;
            tokio::select! {
                () = drain.cancelled() => break,
                () = tokio::time::sleep(pauses.after(started.elapsed())) => {}
            }
        }
        postbound_failpoint::pass("worker.drained");
        self.component.remove();
    }

    async fn session(&self, link: &Link, looks: (u32, Duration)) -> Result<(), Interrupted> {
        let begun = async {
            let is_empty = self.wait_for_previous_owner(link, looks).await?;
            let lease_until = self.context.fence.pass(START_WITHIN).await;
            let started = timeout_at(lease_until, self.start_consumers(link, is_empty, lease_until)).await;
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
    async fn start_consumers(
        &self,
        link: &Link,
        is_empty: bool,
        lease_until: Instant,
    ) -> Result<Consumers, Interrupted> {
        let TargetContext { name, store, .. } = &*self.context;
        // Once more: the lease may have been waited for.
        let [live_state, backfill_state] = self.look(link).await?;
        if let Some(used) = [&live_state, &backfill_state].into_iter().find(|state| !state.is_unused()) {
            return Err(Interrupted::Shared { queue: used.name.clone() });
        }
        let (lease, wanted) = (self.context.lease(self.number), self.prefetch);
        let is_empty = is_empty && live_state.is_empty();
        let prefetch = store.partition_prefetch(name, lease, wanted, is_empty).await?;
        let prefetch = prefetch.ok_or(Interrupted::StartedTooLate)?;
        if prefetch > wanted {
            tracing::info!(
                queue = live_state.name,
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
        let live = live.consume(&live_state.name).await?;
        let backfill = backfill.consume(&backfill_state.name).await?;
        let consumers = Consumers { live, backfill };
        if let Err(why) = self.until_alone(link).await {
            consumers.close().await;
            return Err(why);
        }
        Ok(consumers)
    }

    /// What RabbitMQ said before may not have been the queue's word. Once it counts this consumer, it is.
    async fn until_alone(&self, link: &Link) -> Result<(), Interrupted> {
        loop {
            let [live, _] = self.look(link).await?;
            match live.consumers {
                0 => tokio::time::sleep(OWN_LOOK_EVERY).await,
                1 => return Ok(()),
                _ => {
                    let queue = live.name;
                    tracing::error!(
                        queue,
                        "two consumers shared a queue for a moment: a user's changes may have lost their order"
                    );
                    return Err(Interrupted::Shared { queue });
                }
            }
        }
    }

    /// The states of the live and of the backfill queue.
    async fn look(&self, link: &Link) -> Result<[QueueState; 2], Interrupted> {
        let names = &self.context.names;
        let states = [
            link.queue_state(&names.queue(self.number)).await?,
            link.queue_state(&names.backfill_queue(self.number)).await?,
        ];
        match states.iter().find(|state| !state.exists) {
            Some(missing) => Err(BrokerError::Missing { what: format!("queue {}", missing.name) }.into()),
            None => Ok(states),
        }
    }

    /// The last owner's consumers may still hold messages older than those the queues would give us. Gives whether the live
    /// queue is empty.
    async fn wait_for_previous_owner(
        &self,
        link: &Link,
        (looks, pause): (u32, Duration),
    ) -> Result<bool, Interrupted> {
        let mut unused = 0;
        for waiting in reconnect_pauses() {
            let states = self.look(link).await?;
            if let Some(used) = states.iter().find(|state| !state.is_unused()) {
                let queue = &used.name;
                self.component.standby(match used.answered {
                    true => format!("waiting for the last consumer of {queue} to go"),
                    false => format!("waiting for RabbitMQ to say in time who consumes {queue}"),
                });
                unused = 0;
                tokio::time::sleep(waiting.min(Duration::from_secs(1))).await;
                continue;
            }
            let [live, _] = states;
            // Of messages RabbitMQ knows from the queue alone. What jobs send has no order.
            if live.messages > 0 {
                return Ok(false);
            }
            unused += 1;
            if unused == looks {
                return Ok(true);
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the pauses have no end")
    }
}
