use crate::{context::TargetContext, links::LinkWatch};
use postbound_broker::{Link, QueueState};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

/// How often the queues of a partition that is to become empty are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often they are looked at after the partition has ended, until they show no consumer.
const LAST_LOOKS: usize = 20;
const LAST_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time for all of them; the partition is taken up again afterwards.
const LAST_LOOKS_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for one look: RabbitMQ may have blocked the connection.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Finds out when a partition of a past generation is empty for good: the relay publishes to the current generation,
/// and both of its queues hold nothing, not even for a consumer.
pub(crate) struct Draining {
    pub(crate) context: Arc<TargetContext>,
    pub(crate) number: u16,
    pub(crate) links: LinkWatch,
    /// Whether this is a past generation, and the relay publishes to the next one.
    pub(crate) relay_has_left: watch::Receiver<bool>,
}

impl Draining {
    /// Ends the partition's work when nothing seems to be left; runs until then.
    pub(crate) async fn end_when_idle(&self, drain: &CancellationToken) {
        let mut relay_has_left = self.relay_has_left.clone();
        if relay_has_left.wait_for(|has_left| *has_left).await.is_err() {
            // The worker ends.
            return std::future::pending().await;
        }
        loop {
            // What was handed out does not show in the queue: a partition is not ended while something is held here.
            if self.context.holds_nothing() && self.seen(QueueState::is_empty).await {
                drain.cancel();
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether it is empty for good, after its work has ended. What was not settled then is in its queue again once that
    /// shows no consumer.
    pub(crate) async fn is_empty(&self) -> bool {
        let relay_has_left = *self.relay_has_left.borrow();
        relay_has_left && tokio::time::timeout(LAST_LOOKS_TIMEOUT, self.last_looks()).await == Ok(true)
    }

    async fn last_looks(&self) -> bool {
        for _ in 0..LAST_LOOKS {
            if self.seen(QueueState::is_unused).await {
                break;
            }
            sleep(LAST_LOOK_EVERY).await;
        }
        // Twice: RabbitMQ shows a queue as empty and unused while it cannot ask it.
        for _ in 0..2 {
            sleep(LAST_LOOK_EVERY).await;
            let seems_empty = self.seen(|queue| queue.is_unused() && queue.is_empty()).await;
            if !seems_empty || !self.nothing_ready().await {
                return false;
            }
        }
        true
    }

    /// Whether both queues are there, and as they should be. One that cannot be asked is not.
    async fn seen(&self, wanted: impl Fn(&QueueState) -> bool) -> bool {
        let Some(link) = self.link() else { return false };
        for queue in self.queues() {
            match tokio::time::timeout(LOOK_TIMEOUT, link.queue_state(&queue)).await {
                Ok(Ok(state)) if state.exists && wanted(&state) => {}
                _ => return false,
            }
        }
        true
    }

    async fn nothing_ready(&self) -> bool {
        let Some(link) = self.link() else { return false };
        for queue in self.queues() {
            let answer = tokio::time::timeout(LOOK_TIMEOUT, link.has_ready_message(&queue)).await;
            if !matches!(answer, Ok(Ok(false))) {
                return false;
            }
        }
        true
    }

    fn queues(&self) -> [String; 2] {
        [self.context.names.queue(self.number), self.context.names.backfill_queue(self.number)]
    }

    fn link(&self) -> Option<Arc<Link>> {
        self.links.borrow().clone().filter(|link| link.is_up())
    }
}
