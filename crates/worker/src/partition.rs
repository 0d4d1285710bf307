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
use postbound_broker::{BrokerError, Link, PartitionConsumer};
use postbound_store::within;
use postbound_telemetry::Component;
use session::Session;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Messages of jobs taken ahead: enough to keep their lanes busy, and little to hold when live ones come.
const BACKFILL_PREFETCH: u16 = 4;
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
    Ledger(#[from] LedgerGone),
    #[error("a delivery was abandoned")]
    Abandoned,
    #[error("a message was held for {} minutes", session::HELD_MAX.as_secs() / 60)]
    HeldTooLong,
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
        tokio::select! {
            waited = self.wait_for_previous_owner(link) => waited?,
            () = self.drain.cancelled() => return Ok(()),
        }
        // Whom the last owner had in its hands is due now: it can hold no request of theirs any more.
        let context = &self.context;
        let released = context.store.release_taken(&context.name, self.partitions, self.number);
        if let Err(error) = within(RELEASE_TIMEOUT, released).await {
            tracing::warn!(error = %error, "parked users in the last owner's hands not released; they are due in a minute");
        }
        let names = &context.names;
        let live = PartitionConsumer::start(link, &names.queue(self.number), self.prefetch).await?;
        let backfill =
            PartitionConsumer::start(link, &names.backfill_queue(self.number), BACKFILL_PREFETCH).await?;
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

    /// The last owner's consumers may still hold messages older than those the queues would give us.
    async fn wait_for_previous_owner(&self, link: &Link) -> Result<(), Interrupted> {
        for queue in [self.context.names.queue(self.number), self.context.names.backfill_queue(self.number)] {
            let mut pauses = reconnect_pauses();
            loop {
                let state = link.queue_state(&queue).await?;
                if !state.exists {
                    return Err(BrokerError::Missing { what: format!("queue {queue}") }.into());
                }
                if state.consumers == 0 {
                    break;
                }
                self.component.standby(format!("waiting for the last consumer of {queue} to go"));
                let pause = pauses.next().unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1));
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }
}
