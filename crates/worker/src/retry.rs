use crate::settings::RetrySchedule;
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use postbound_target::FailureClass;
use std::time::Duration;

/// When a failing delivery is given up, as a table: (class, how long it must have failed though nothing else shows
/// that the target works). While other users' deliveries succeed, its quick tries are enough.
///
/// Only a delivery whose own content is at fault should end in the dead-letter queue. That others get through is the
/// best sign of it; without other traffic, time is.
const PATIENCE: [(FailureClass, Option<Duration>); 4] = [
    (FailureClass::Permanent, Some(Duration::from_secs(60))),
    (FailureClass::Transient, Some(Duration::from_secs(15 * 60))),
    (FailureClass::Unknown, Some(Duration::from_secs(15 * 60))),
    (FailureClass::WholeTarget, None),
];

/// What a delivery has been through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    /// Tries that failed for the delivery's own sake.
    pub(crate) attempts: u32,
    /// Time since the first of them.
    pub(crate) failing_for: Duration,
    /// Whether the target took another user's state since then.
    pub(crate) others_succeeded: bool,
}

impl RetrySchedule {
    /// Whether a delivery that failed again should be dead-lettered.
    pub(crate) fn gives_up(&self, class: FailureClass, history: History) -> bool {
        let patience = PATIENCE.iter().find(|(of, _)| *of == class).and_then(|(_, patience)| *patience);
        let Some(patience) = patience else { return false };
        history.attempts >= self.attempts && (history.others_succeeded || history.failing_for >= patience)
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
        let check = |class, attempts, failing_for, others_succeeded, expected: bool| {
            let history =
                History { attempts, failing_for: Duration::from_secs(failing_for), others_succeeded };
            assert_eq!(seed().gives_up(class, history), expected, "{class:?} {history:?}");
        };
        check(FailureClass::Permanent, 2, 5, true, false);
        check(FailureClass::Permanent, 3, 5, true, true);
        check(FailureClass::Permanent, 3, 5, false, false);
        check(FailureClass::Permanent, 9, 60, false, true);
        check(FailureClass::Transient, 3, 5, true, true);
        check(FailureClass::Transient, 50, 600, false, false);
        check(FailureClass::Unknown, 50, 900, false, true);
        check(FailureClass::WholeTarget, 1000, 100_000, true, false);
    }
}
