use crate::settings::RetrySchedule;
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use postbound_target::{Failure, FailureClass};
use std::time::Duration;

/// What has lasted so long did not fail again at once: the next pause is a short one.
const LASTED: Duration = Duration::from_secs(30);

/// What a delivery has been through, its last failure included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    /// Tries that failed for the user's own sake.
    pub(crate) attempts: u32,
    /// Those of them since whose predecessor the target took another user's state; the first one counts. That others
    /// get through is the best sign that a user's own content is at fault: an outage, or a bad deploy, looks different.
    pub(crate) repeats: u32,
    /// Time since the first of them.
    pub(crate) failing_for: Duration,
    /// Whether the user is parked already: quick tries are over.
    pub(crate) parked: bool,
}

/// What to do about a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again after this pause, the lane waiting.
    TryAgain(Duration),
    /// Park the user; the next try is due after this pause.
    Park(Duration),
    /// Dead-letter it.
    GiveUp,
    /// Dead-letter it, if so much time has passed in which the target was open; else park for this pause.
    GiveUpPastHorizon(Duration),
}

impl RetrySchedule {
    /// What to do about a failure. `random` is between 0 and 1.
    pub(crate) fn decide(&self, failure: &Failure, history: History, random: f64) -> Verdict {
        let bound = match failure.class {
            FailureClass::Permanent => Some(self.permanent_attempts),
            _ if failure.bounded => Some(self.bounded_attempts),
            _ => None,
        };
        if bound.is_some_and(|bound| history.repeats >= bound) {
            return Verdict::GiveUp;
        }
        // A timeout has held the lane long enough, and the same content is refused again.
        let quick = failure.class == FailureClass::Transient && !history.parked;
        if quick && failure.retry_after.is_none() && history.attempts < self.attempts {
            return Verdict::TryAgain(self.quick_pause(history.attempts, random));
        }
        let pause =
            failure.retry_after.unwrap_or_else(|| self.parked_pause(failure.class, history.attempts, random));
        // A target that takes nobody's state is down, however few there are to show it. But one that has refused this very
        // state all the time has said all it will: on a quiet system nobody else may come to be compared with.
        let is_definite = bound.is_some();
        if history.failing_for >= self.horizon && (history.repeats > 1 || is_definite) {
            Verdict::GiveUpPastHorizon(pause)
        } else {
            Verdict::Park(pause)
        }
    }

    fn quick_pause(&self, attempts: u32, random: f64) -> Duration {
        let pause = self.delays.get(attempts.saturating_sub(1) as usize).or(self.delays.last()).copied();
        jittered(pause.unwrap_or(Duration::from_secs(1)), self.jitter, random)
    }

    /// The pause before a parked state's next try, after so many.
    pub(crate) fn parked_pause(&self, class: FailureClass, attempts: u32, random: f64) -> Duration {
        let quick = if class == FailureClass::Transient { self.attempts } else { 1 };
        let place = attempts.saturating_sub(quick) as usize;
        let pause = self.schedule.get(place).or(self.schedule.last()).copied();
        jittered(pause.unwrap_or(Duration::from_secs(60)), self.schedule_jitter, random)
    }
}

fn jittered(pause: Duration, share: f64, random: f64) -> Duration {
    pause.mul_f64(1.0 - share.clamp(0.0, 1.0) * random)
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

/// The pauses between the sessions of something that starts over whenever it is interrupted.
pub(crate) struct RestartPauses(ExponentialBackoff);

impl RestartPauses {
    pub(crate) fn new() -> Self {
        Self(reconnect_pauses())
    }

    /// The pause after a session that lasted so long.
    pub(crate) fn after(&mut self, lasted: Duration) -> Duration {
        if lasted >= LASTED {
            *self = Self::new();
        }
        self.0.next().unwrap_or(Duration::from_secs(5))
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests {
    use super::*;
    use FailureClass::{Permanent, Transient, Unknown};

    fn seed() -> RetrySchedule {
        RetrySchedule {
            attempts: 3,
            delays: [1, 2].map(Duration::from_secs).to_vec(),
            jitter: 0.0,
            schedule: [5, 15, 60].map(Duration::from_secs).to_vec(),
            schedule_jitter: 1.0,
            horizon: Duration::from_secs(24 * 3600),
            bounded_attempts: 12,
            permanent_attempts: 3,
        }
    }

    fn failure(class: FailureClass) -> Failure {
        Failure {
            class,
            reason: "http_500",
            status: Some(500),
            retry_after: None,
            detail: String::new(),
            shared: false,
            bisect: false,
            bounded: false,
        }
    }

    fn history(attempts: u32, repeats: u32) -> History {
        History { attempts, repeats, failing_for: Duration::ZERO, parked: false }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn quick_tries_are_the_seeds_and_then_the_user_is_parked_by_the_schedule() {
        let decide = |attempts| seed().decide(&failure(Transient), history(attempts, 1), 0.0);
        let pauses: Vec<_> = (1..=6).map(decide).collect();
        let parks = [5, 15, 60, 60].map(|pause| Verdict::Park(secs(pause)));
        assert_eq!(pauses[..2], [Verdict::TryAgain(secs(1)), Verdict::TryAgain(secs(2))]);
        assert_eq!(pauses[2..], parks);
    }

    #[test]
    fn a_timeout_and_a_refusal_are_parked_at_once_with_full_jitter() {
        for class in [Unknown, Permanent] {
            let decide = |random| seed().decide(&failure(class), history(1, 1), random);
            assert_eq!(decide(0.0), Verdict::Park(secs(5)), "{class:?}");
            assert_eq!(decide(1.0), Verdict::Park(Duration::ZERO), "{class:?}");
        }
    }

    #[test]
    fn a_delivery_is_given_up_only_when_it_is_the_one_at_fault() {
        let check = |failure: Failure, (attempts, repeats), failing_for, expected: Verdict| {
            let history =
                History { failing_for: secs(failing_for), parked: true, ..history(attempts, repeats) };
            assert_eq!(seed().decide(&failure, history, 0.0), expected, "{failure:?} {history:?}");
        };
        let bounded = || Failure { bounded: true, ..failure(Transient) };
        check(failure(Permanent), (2, 2), 5, Verdict::Park(secs(15)));
        check(failure(Permanent), (3, 3), 5, Verdict::GiveUp);
        check(failure(Permanent), (30, 1), 3600, Verdict::Park(secs(60)));
        check(failure(Permanent), (30, 1), 24 * 3600, Verdict::GiveUpPastHorizon(secs(60)));
        check(bounded(), (30, 1), 24 * 3600, Verdict::GiveUpPastHorizon(secs(60)));
        check(failure(Transient), (30, 1), 24 * 3600, Verdict::Park(secs(60)));
        check(failure(Permanent), (30, 2), 24 * 3600, Verdict::GiveUpPastHorizon(secs(60)));
        check(bounded(), (12, 11), 5, Verdict::Park(secs(60)));
        check(bounded(), (12, 12), 5, Verdict::GiveUp);
        check(failure(Transient), (500, 500), 3600, Verdict::Park(secs(60)));
        check(failure(Unknown), (500, 500), 24 * 3600, Verdict::GiveUpPastHorizon(secs(60)));
    }

    #[test]
    fn the_first_interruption_after_a_long_session_costs_a_moment_however_many_there_were_before() {
        let mut pauses = RestartPauses::new();
        let in_a_row: Vec<_> = (0..10).map(|_| pauses.after(Duration::ZERO)).collect();
        assert!(in_a_row[0] < secs(1) && in_a_row[9] >= secs(5), "{in_a_row:?}");
        assert!(pauses.after(LASTED) < secs(1));
    }

    #[test]
    fn a_pause_the_target_asks_for_is_kept_exactly() {
        for class in [Unknown, Transient] {
            let asks = Failure { retry_after: Some(secs(30)), ..failure(class) };
            assert_eq!(seed().decide(&asks, history(1, 1), 0.9), Verdict::Park(secs(30)), "{class:?}");
        }
    }
}
