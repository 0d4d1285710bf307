use crate::{flight::Refusal, slot::Slot};
use postbound_broker::TargetNames;
use postbound_telemetry::Component;

/// What `/readyz` says of a target's stream.
pub(crate) struct StreamHealth {
    component: Component,
    names: TargetNames,
}

impl StreamHealth {
    pub(crate) fn new(component: Component, names: TargetNames) -> Self {
        Self { component, names }
    }

    /// The session has begun.
    pub(crate) fn started(&self) {
        self.component.ready();
        self.component.busy();
    }

    /// Whether there is work at hand, by which a stream that does nothing is told from one that hangs.
    pub(crate) fn has_work(&self, work: bool) {
        if work {
            self.component.busy();
        } else {
            self.component.idle();
        }
    }

    /// A question goes to Postgres, which is work also for a stream that had none.
    pub(crate) fn asks(&self) {
        self.component.busy();
    }

    /// A page was read, a message confirmed, the cursor written, a question answered.
    pub(crate) fn progress(&self) {
        self.component.progress();
    }

    /// The stream's state, from those of all its slots: one that is well says nothing of another. What is held up by
    /// RabbitMQ is said to be so, and is no stall.
    pub(crate) fn say(&self, slots: &[Slot], blocked: bool) {
        let refused = |why| slots.iter().position(|slot| slot.refusal() == Some(why));
        let queue = |partition: usize| self.names.queue(partition as u16);
        if let Some(partition) = refused(Refusal::Unroutable) {
            let queue = queue(partition);
            self.component
                .not_ready(format!("queue {queue} is missing; create it with: postbound topology apply"));
        } else if blocked {
            self.component.standby("RabbitMQ has blocked publishing (memory or disk alarm)");
        } else if let Some(partition) = refused(Refusal::Full) {
            self.component.standby(format!("queue {} is full; waiting for its workers", queue(partition)));
        } else {
            self.component.ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::{MessageLimits, Ready};
    use postbound_telemetry::{Health, State};
    use std::time::Duration;
    use time::OffsetDateTime;
    use tokio::time::{Instant, advance};

    /// A slot whose message RabbitMQ has not settled, or has refused for this reason.
    fn slot(refusal: Option<Refusal>) -> Slot {
        let mut slot = Slot::new();
        slot.push(Ready { log_id: 1, logged_at: OffsetDateTime::UNIX_EPOCH, rendered: Vec::new() });
        slot.take_due(Instant::now(), MessageLimits { events: 1, bytes: 1 });
        if let Some(why) = refusal {
            slot.refused(Instant::now(), why);
        }
        slot
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_stream_that_could_go_on_is_stalled_when_it_does_not() {
        let health = Health::new();
        let component = health.component("relay.crm").deadline(Duration::from_secs(60));
        let stream = StreamHealth::new(component, TargetNames::new("crm".to_owned(), 1));
        stream.started();
        for (refusal, blocked, work, expected) in [
            (None, false, false, State::Ready),
            (None, false, true, State::Stalled),
            (None, true, true, State::Standby),
            (Some(Refusal::Full), false, true, State::Standby),
            (Some(Refusal::Unroutable), true, true, State::NotReady),
        ] {
            stream.has_work(work);
            stream.say(&[slot(refusal)], blocked);
            advance(Duration::from_secs(61)).await;
            let state = health.report().components["relay.crm"].state;
            assert_eq!(state, expected, "{refusal:?}, blocked: {blocked}, work: {work}");
        }
        stream.has_work(true);
        stream.say(&[slot(None)], false);
        advance(Duration::from_secs(59)).await;
        assert_eq!(health.report().components["relay.crm"].state, State::Ready, "time held up is no stall");
        advance(Duration::from_secs(2)).await;
        assert_eq!(health.report().components["relay.crm"].state, State::Stalled);
        stream.progress();
        assert_eq!(health.report().components["relay.crm"].state, State::Ready);
    }
}
