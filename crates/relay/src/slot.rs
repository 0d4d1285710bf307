use crate::flight::{Flight, Refusal};
use postbound_event::BatchBuilder;
use std::{collections::VecDeque, sync::Arc};
use time::OffsetDateTime;
use tokio::time::Instant;

/// An event that waits to be published, rendered.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) log_id: i64,
    pub(crate) logged_at: OffsetDateTime,
    pub(crate) rendered: Vec<u8>,
}

/// A batch of events on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) body: Arc<[u8]>,
    pub(crate) events: usize,
    first_log_id: i64,
    first_logged_at: OffsetDateTime,
}

/// One partition of one target: at most one message under way, the rest gathers behind it.
#[derive(Debug)]
pub(crate) struct Slot {
    pending: VecDeque<Ready>,
    flight: Flight<Outgoing>,
}

/// How much one message may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageLimits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

impl Slot {
    pub(crate) fn new() -> Self {
        Self { pending: VecDeque::new(), flight: Flight::new() }
    }

    pub(crate) fn push(&mut self, ready: Ready) {
        self.pending.push_back(ready);
    }

    /// Nothing waits and nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.flight.message().is_none()
    }

    /// The message to publish now, if any: a due retry, else a batch of what waits. It counts as published.
    pub(crate) fn take_due(&mut self, now: Instant, limits: MessageLimits) -> Option<&Outgoing> {
        let Self { pending, flight } = self;
        flight.take_due(now, || gather(pending, limits))
    }

    /// The message is in its queue. Gives how many events it held.
    pub(crate) fn confirmed(&mut self) -> usize {
        self.flight.confirmed().map_or(0, |message| message.events)
    }

    /// See [`Flight::refused`].
    pub(crate) fn refused(&mut self, now: Instant, why: Refusal) {
        self.flight.refused(now, why);
    }

    /// See [`Flight::refusal`].
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.flight.refusal()
    }

    /// See [`Flight::retry_at`].
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.flight.retry_at()
    }

    /// See [`Flight::unconfirmed_since`].
    pub(crate) fn unconfirmed_since(&self) -> Option<Instant> {
        self.flight.unconfirmed_since()
    }

    /// The oldest event that is not confirmed.
    pub(crate) fn oldest(&self) -> Option<(i64, OffsetDateTime)> {
        let out = self.flight.message().map(|message| (message.first_log_id, message.first_logged_at));
        out.or_else(|| self.pending.front().map(|ready| (ready.log_id, ready.logged_at)))
    }
}

/// A message of what waits, in order, up to its limits.
fn gather(pending: &mut VecDeque<Ready>, limits: MessageLimits) -> Option<Outgoing> {
    let first = pending.front()?;
    let (first_log_id, first_logged_at) = (first.log_id, first.logged_at);
    let mut batch = BatchBuilder::default();
    while let Some(next) = pending.front() {
        let full = batch.len() >= limits.events || batch.bytes() + next.rendered.len() + 1 > limits.bytes;
        if full && !batch.is_empty() {
            break;
        }
        batch.push(&next.rendered);
        pending.pop_front();
    }
    let events = batch.len();
    Some(Outgoing { body: batch.finish().into(), events, first_log_id, first_logged_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MessageLimits = MessageLimits { events: 3, bytes: 100 };

    fn slot(sizes: &[usize]) -> Slot {
        let mut slot = Slot::new();
        for (index, size) in sizes.iter().enumerate() {
            let (log_id, rendered) = (index as i64 + 1, vec![b'x'; *size]);
            slot.push(Ready { log_id, logged_at: OffsetDateTime::UNIX_EPOCH, rendered });
        }
        slot
    }

    #[test]
    fn one_message_is_under_way_and_the_rest_gathers_behind_it() {
        let now = Instant::now();
        let mut slot = slot(&[1, 1, 1, 1]);
        assert_eq!(slot.take_due(now, LIMITS).unwrap().events, 3);
        assert!(slot.take_due(now, LIMITS).is_none());
        assert_eq!(slot.oldest().unwrap().0, 1);
        assert_eq!(slot.confirmed(), 3);
        assert_eq!(slot.oldest().unwrap().0, 4);
        assert_eq!(slot.take_due(now, LIMITS).unwrap().events, 1);
        slot.confirmed();
        assert!(slot.is_empty());
    }

    #[test]
    fn a_message_keeps_to_its_bytes_but_a_bigger_event_travels_alone() {
        let now = Instant::now();
        let mut slot = slot(&[60, 60, 500, 10]);
        for expected in [1, 1, 1, 1] {
            assert_eq!(slot.take_due(now, LIMITS).unwrap().events, expected);
            slot.confirmed();
        }
        assert!(slot.is_empty());
    }

    #[test]
    fn a_refused_message_goes_out_again_unchanged_before_anything_newer() {
        let now = Instant::now();
        let mut slot = slot(&[1, 1, 1, 1]);
        let first = Arc::clone(&slot.take_due(now, LIMITS).unwrap().body);
        for _ in 0..2 {
            slot.refused(now, Refusal::Full);
            assert!(slot.take_due(now, LIMITS).is_none(), "it waits a little");
            let retry_at = slot.retry_at().unwrap();
            assert_eq!(slot.take_due(retry_at, LIMITS).unwrap().body, first);
        }
        assert_eq!(slot.oldest().unwrap().0, 1);
    }
}
