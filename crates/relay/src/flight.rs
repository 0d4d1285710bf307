use std::time::Duration;
use tokio::time::Instant;

/// A partition's way into its queue: at most one message is under way, and one that was not taken goes out again, as it
/// is, before any other.
#[derive(Debug)]
pub(crate) struct Flight<M> {
    state: State<M>,
    refusal: Option<Refusal>,
}

/// What the message is doing.
#[derive(Debug)]
enum State<M> {
    /// None is under way.
    Idle,
    /// Published, not yet confirmed, after so many refusals.
    Unconfirmed { message: M, since: Instant, refusals: u32 },
    /// Refused or returned: the same message goes out again at `at`.
    Retry { message: M, at: Instant, refusals: u32 },
}

/// Why RabbitMQ did not take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is full, or unwell.
    Full,
    /// No queue is bound.
    Unroutable,
}

impl<M> Flight<M> {
    pub(crate) fn new() -> Self {
        Self { state: State::Idle, refusal: None }
    }

    /// The message to publish now, if any: a due retry, else the one `next` gives. It counts as published.
    pub(crate) fn take_due(&mut self, now: Instant, next: impl FnOnce() -> Option<M>) -> Option<&M> {
        let (message, refusals) = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => (next()?, 0),
            State::Retry { message, at, refusals } if at <= now => (message, refusals),
            waiting => {
                self.state = waiting;
                return None;
            }
        };
        self.state = State::Unconfirmed { message, since: now, refusals };
        self.message()
    }

    /// The message is in its queue: here it is. None, and nothing changes, where none is out.
    pub(crate) fn confirmed(&mut self) -> Option<M> {
        let (message, _) = self.take_unconfirmed()?;
        self.refusal = None;
        Some(message)
    }

    /// The message was refused or returned: the same one again, later each time.
    pub(crate) fn refused(&mut self, now: Instant, why: Refusal) {
        if let Some((message, refusals)) = self.take_unconfirmed() {
            let at = now + retry_pause(refusals);
            self.state = State::Retry { message, at, refusals: refusals + 1 };
            self.refusal = Some(why);
        }
    }

    /// The message that is out, and how often it was refused before.
    fn take_unconfirmed(&mut self) -> Option<(M, u32)> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Unconfirmed { message, refusals, .. } => Some((message, refusals)),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// The message that is under way, or is to go out again.
    pub(crate) fn message(&self) -> Option<&M> {
        match &self.state {
            State::Idle => None,
            State::Unconfirmed { message, .. } | State::Retry { message, .. } => Some(message),
        }
    }

    /// Why the last message was not taken, while it has not been since.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// When it wants to publish again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Retry { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Since when a message is out without a word from RabbitMQ.
    pub(crate) fn unconfirmed_since(&self) -> Option<Instant> {
        match self.state {
            State::Unconfirmed { since, .. } => Some(since),
            _ => None,
        }
    }
}

/// 50 ms, doubling, 2 s at most: a full queue is asked often enough to go on soon after there is room.
fn retry_pause(refusals_before: u32) -> Duration {
    Duration::from_millis(50 << refusals_before.min(6)).min(Duration::from_secs(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_puts_the_same_message_off_for_longer_up_to_two_seconds() {
        let mut flight = Flight::new();
        let mut now = Instant::now();
        let mut pauses_ms = Vec::new();
        for number in 0..8 {
            assert_eq!(flight.take_due(now, || Some(number)), Some(&0));
            flight.refused(now, Refusal::Full);
            let at = flight.retry_at().unwrap();
            pauses_ms.push((at - now).as_millis());
            now = at;
        }
        assert_eq!(pauses_ms, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        flight.take_due(now, || None).unwrap();
        assert_eq!((flight.confirmed(), flight.refusal()), (Some(0), None));
    }

    #[test]
    fn what_is_not_out_is_neither_confirmed_nor_refused() {
        let now = Instant::now();
        let mut flight = Flight::<u8>::new();
        flight.refused(now, Refusal::Unroutable);
        assert_eq!((flight.confirmed(), flight.refusal()), (None, None));
        flight.take_due(now, || Some(1));
        flight.refused(now, Refusal::Full);
        assert_eq!(flight.confirmed(), None, "a late word about what is to go out again");
        assert_eq!((flight.message(), flight.refusal()), (Some(&1), Some(Refusal::Full)));
    }
}
