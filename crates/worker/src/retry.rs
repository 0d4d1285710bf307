use crate::settings::RetrySchedule;
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use postbound_target::FailureClass;
use std::time::Duration;

/// When a failing delivery is given up.
struct Patience {
    class: FailureClass,
    /// How long it must have failed, at least, with other users' deliveries succeeding between its tries.
    while_others_succeed: Duration,
    /// How long without any such sign.
    alone: Duration,
}

/// Only a delivery whose own content is at fault should end in the dead-letter queue. That others get through between
/// its tries is the best sign of it: the end of an outage, or one instance of two that is down, must not look the same.
/// All below the time a message may be held, see `partition`. A failure of the whole target is nobody's own.
const PATIENCE: [Patience; 3] = [
    Patience {
        class: FailureClass::Permanent,
        while_others_succeed: Duration::ZERO,
        alone: Duration::from_secs(60),
    },
    Patience {
        class: FailureClass::Transient,
        while_others_succeed: Duration::from_secs(60),
        alone: Duration::from_secs(9 * 60),
    },
    Patience {
        class: FailureClass::Unknown,
        while_others_succeed: Duration::from_secs(60),
        alone: Duration::from_secs(9 * 60),
    },
];

/// What a delivery has been through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    /// Tries that failed for the delivery's own sake.
    pub(crate) attempts: u32,
    /// Those before which, since the last one, the target took another user's state; the first counts.
    pub(crate) alone: u32,
    /// Time since the first of them.
    pub(crate) failing_for: Duration,
}

impl RetrySchedule {
    /// Whether a delivery that failed again should be dead-lettered.
    pub(crate) fn gives_up(&self, class: FailureClass, history: History) -> bool {
        let Some(patience) = PATIENCE.iter().find(|patience| patience.class == class) else { return false };
        let at_fault = history.alone >= self.attempts && history.failing_for >= patience.while_others_succeed;
        at_fault || (history.attempts >= self.attempts && history.failing_for >= patience.alone)
    }

    /// The pause before the next try. `random` is between 0 and 1.
    pub(crate) fn pause(&self, attempts: u32, random: f64) -> Duration {
        let quick = self.delays.get(attempts.saturating_sub(1) as usize).or(self.delays.last()).copied();
        let quick = quick.unwrap_or(Duration::from_secs(1));
        let pause = if attempts < self.attempts {
            quick
        } else {
            // Past the quick tries: twice as long each time, half a minute at most.
            let doublings = (attempts - self.attempts).min(5) + 1;
            (quick * (1 << doublings)).min(Duration::from_secs(30))
        };
        pause.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * random)
    }
}

/// Pauses between attempts to get a connection, or anything else of our own, back: 100 ms to 5 s, with jitter,
/// without end.
pub(crate) fn reconnect_pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> RetrySchedule {
        let delays = vec![Duration::from_secs(1), Duration::from_secs(2)];
        RetrySchedule { attempts: 3, delays, jitter: 0.0 }
    }

    #[test]
    fn the_first_pauses_are_the_seeds_and_then_they_grow_to_half_a_minute() {
        let pauses: Vec<_> = (1..=8).map(|attempts| seed().pause(attempts, 0.9).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        let jittered = RetrySchedule { jitter: 0.5, ..seed() };
        assert_eq!(jittered.pause(2, 1.0), Duration::from_secs(1));
    }

    #[test]
    fn a_delivery_is_given_up_only_when_it_is_the_one_at_fault() {
        let check = |class, (attempts, alone), failing_for, expected: bool| {
            let history = History { attempts, alone, failing_for: Duration::from_secs(failing_for) };
            assert_eq!(seed().gives_up(class, history), expected, "{class:?} {history:?}");
        };
        check(FailureClass::Permanent, (2, 2), 5, false);
        check(FailureClass::Permanent, (3, 3), 3, true);
        check(FailureClass::Permanent, (3, 1), 5, false);
        check(FailureClass::Permanent, (9, 1), 60, true);
        check(FailureClass::Transient, (3, 3), 5, false);
        check(FailureClass::Transient, (9, 3), 60, true);
        check(FailureClass::Transient, (30, 2), 300, false);
        check(FailureClass::Unknown, (50, 1), 540, true);
        check(FailureClass::WholeTarget, (1000, 1000), 100_000, false);
    }
}
