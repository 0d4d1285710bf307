use postbound_event::BatchBuilder;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::time::Instant;

/// An event that waits to be published, rendered.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) log_id: i64,
    pub(crate) logged_at: OffsetDateTime,
    pub(crate) rendered: Vec<u8>,
}

/// A message that was published, or is to be published again, as it is.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) body: Arc<[u8]>,
    pub(crate) events: usize,
    first_log_id: i64,
    first_logged_at: OffsetDateTime,
}

/// What a slot's message is doing.
#[derive(Debug)]
enum Flight {
    /// No message is under way.
    Idle,
    /// Published, not yet confirmed, after so many refusals.
    Unconfirmed { message: Outgoing, since: Instant, refusals: u32 },
    /// Refused or returned: the same message goes out again at `at`.
    Retry { message: Outgoing, at: Instant, refusals: u32 },
}

/// One partition of one target: at most one message under way, the rest gathers behind it.
#[derive(Debug)]
pub(crate) struct Slot {
    pending: VecDeque<Ready>,
    flight: Flight,
    refusal: Option<Refusal>,
}

/// Why RabbitMQ did not take a slot's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is full, or unwell.
    Full,
    /// No queue is bound.
    Unroutable,
}

/// How much one message may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageLimits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

impl Slot {
    pub(crate) fn new() -> Self {
        Self { pending: VecDeque::new(), flight: Flight::Idle, refusal: None }
    }

    pub(crate) fn push(&mut self, ready: Ready) {
        self.pending.push_back(ready);
    }

    /// Nothing waits and nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && matches!(self.flight, Flight::Idle)
    }

    /// The message to publish now, if any: a due retry, else a batch of what waits. The slot takes it as published.
    pub(crate) fn take_due(&mut self, now: Instant, limits: MessageLimits) -> Option<Outgoing> {
        let (message, refusals) = match std::mem::replace(&mut self.flight, Flight::Idle) {
            Flight::Idle => (self.gather(limits)?, 0),
            Flight::Retry { message, at, refusals } if at <= now => (message, refusals),
            waiting => {
                self.flight = waiting;
                return None;
            }
        };
        self.flight = Flight::Unconfirmed { message: message.clone(), since: now, refusals };
        Some(message)
    }

    fn gather(&mut self, limits: MessageLimits) -> Option<Outgoing> {
        let first = self.pending.front()?;
        let (first_log_id, first_logged_at) = (first.log_id, first.logged_at);
        let mut batch = BatchBuilder::default();
        while let Some(next) = self.pending.front() {
            let full = batch.len() >= limits.events || batch.bytes() + next.rendered.len() + 1 > limits.bytes;
            if full && !batch.is_empty() {
                break;
            }
            batch.push(&next.rendered);
            self.pending.pop_front();
        }
        let events = batch.len();
        Some(Outgoing { body: batch.finish().into(), events, first_log_id, first_logged_at })
    }

    /// The message is in its queue. Gives how many events it held.
    pub(crate) fn confirmed(&mut self) -> usize {
        self.refusal = None;
        self.take_unconfirmed().map_or(0, |(message, _)| message.events)
    }

    /// The message was refused or returned: the same one again, later each time.
    pub(crate) fn refused(&mut self, now: Instant, why: Refusal) {
        self.refusal = Some(why);
        if let Some((message, refusals)) = self.take_unconfirmed() {
            let refusals = refusals + 1;
            self.flight = Flight::Retry { message, at: now + retry_pause(refusals), refusals };
        }
    }

    /// The message that is out, and how often it was refused before; None, and nothing changes, where none is out.
    fn take_unconfirmed(&mut self) -> Option<(Outgoing, u32)> {
        match std::mem::replace(&mut self.flight, Flight::Idle) {
            Flight::Unconfirmed { message, refusals, .. } => Some((message, refusals)),
            other => {
                self.flight = other;
                None
            }
        }
    }

    /// Why the last message was not taken, while it has not been since.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// When the slot wants to publish again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        match self.flight {
            Flight::Retry { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Since when a message is out without a word from RabbitMQ.
    pub(crate) fn unconfirmed_since(&self) -> Option<Instant> {
        match self.flight {
            Flight::Unconfirmed { since, .. } => Some(since),
            _ => None,
        }
    }

    /// The oldest event that is not confirmed.
    pub(crate) fn oldest(&self) -> Option<(i64, OffsetDateTime)> {
        match &self.flight {
            Flight::Idle => self.pending.front().map(|ready| (ready.log_id, ready.logged_at)),
            Flight::Unconfirmed { message, .. } | Flight::Retry { message, .. } => {
                Some((message.first_log_id, message.first_logged_at))
            }
        }
    }
}

/// 50 ms, doubling, 2 s at most: a full queue is asked often enough to go on soon after there is room.
fn retry_pause(refusals: u32) -> Duration {
    Duration::from_millis(50 << refusals.saturating_sub(1).min(6)).min(Duration::from_secs(2))
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
        let first = slot.take_due(now, LIMITS).unwrap();
        slot.refused(now, Refusal::Full);
        assert!(slot.take_due(now, LIMITS).is_none(), "it waits a little");
        let again = slot.take_due(slot.retry_at().unwrap(), LIMITS).unwrap();
        assert_eq!(again.body, first.body);
        slot.refused(now, Refusal::Full);
        let third = slot.take_due(slot.retry_at().unwrap(), LIMITS).unwrap();
        assert_eq!(third.body, first.body);
        assert_eq!(slot.oldest().unwrap().0, 1);
    }
}
