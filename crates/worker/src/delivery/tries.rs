use crate::lane::Next;
use postbound_store::Unknown;
use postbound_target::{Failure, FailureClass};
use std::time::Duration;
use time::OffsetDateTime;

/// Failures of a user whose times are kept at most: enough to take back what can be counted within a breaker's window.
const RECENT_MAX: usize = 16;

/// Tries that failed for the user's own sake; those that a failing target is to blame for do not count.
pub(super) struct Tries {
    pub(super) attempts: u32,
    pub(super) repeats: u32,
    pub(super) first_at: Option<OffsetDateTime>,
    pub(super) last_at: Option<OffsetDateTime>,
    pub(super) unknown: Unknown,
    /// When the last of them failed, as far back as a breaker that opens takes them back.
    pub(super) recent: Vec<OffsetDateTime>,
    /// When the last try ended with an answer that speaks of the target as a whole.
    blamed_target_at: Option<OffsetDateTime>,
}

impl Tries {
    pub(super) fn of(next: &Next) -> Self {
        let schedule = next.schedule.as_ref();
        Self {
            attempts: schedule.map_or(0, |schedule| schedule.attempts),
            repeats: schedule.map_or(0, |schedule| schedule.repeats),
            first_at: schedule.and_then(|schedule| schedule.first_failed_at),
            last_at: schedule.and_then(|schedule| schedule.last_failed_at),
            unknown: next.unknown,
            recent: schedule.map_or_else(Vec::new, |schedule| schedule.recent_failures.clone()),
            blamed_target_at: None,
        }
    }

    /// Whether a refusal that should speak of the whole target is this user's alone: the target took others' states since
    /// the last one. A firewall, for one, answers 403 to a content.
    pub(super) fn is_blamed_alone(
        &mut self,
        failure: &Failure,
        last_success_at: Option<OffsetDateTime>,
    ) -> bool {
        let is_refusal = failure.class == FailureClass::WholeTarget
            && failure.retry_after.is_none()
            && failure.status.is_some_and(|status| status != 429);
        if !is_refusal {
            return false;
        }
        let before = self.blamed_target_at.replace(OffsetDateTime::now_utc());
        before.is_some() && last_success_at > before
    }

    /// One more failed; the target last took somebody's state at `last_success_at`. What is older than `window` no breaker
    /// takes back.
    pub(super) fn count(&mut self, last_success_at: Option<OffsetDateTime>, window: Duration) {
        let others_succeeded = last_success_at > self.last_at;
        self.repeats += u32::from(self.attempts == 0 || others_succeeded);
        self.attempts += 1;
        let now = OffsetDateTime::now_utc();
        self.first_at.get_or_insert(now);
        self.last_at = Some(now);
        self.recent.push(now);
        let kept = self.recent.len().saturating_sub(RECENT_MAX);
        self.recent.drain(..kept);
        self.recent.retain(|at| *at >= now - window);
    }

    /// A breaker opened at that time because most deliveries failed: those counted here within its window do not count.
    pub(super) fn refund(&mut self, opened_at: Option<OffsetDateTime>, window: Duration) {
        let Some(opened_at) = opened_at else { return };
        let is_within = |at: &&OffsetDateTime| **at <= opened_at && **at >= opened_at - window;
        let refunded = u32::try_from(self.recent.iter().filter(is_within).count()).unwrap_or(u32::MAX);
        self.recent.retain(|at| *at > opened_at);
        self.attempts = self.attempts.saturating_sub(refunded);
        self.repeats = self.repeats.saturating_sub(refunded);
        if self.attempts == 0 {
            self.first_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    fn tries(recent: Vec<OffsetDateTime>) -> Tries {
        let count = recent.len() as u32;
        let (first_at, last_at) = (recent.first().copied(), recent.last().copied());
        let unknown = Unknown::default();
        Tries { attempts: count, repeats: count, first_at, last_at, unknown, recent, blamed_target_at: None }
    }

    #[test]
    fn a_failure_repeats_another_only_if_the_target_took_others_states_between_them() {
        let mut tries = tries(Vec::new());
        let counts = [None, None, Some(OffsetDateTime::now_utc() + WINDOW)].map(|last_success_at| {
            tries.count(last_success_at, WINDOW);
            (tries.attempts, tries.repeats)
        });
        assert_eq!(counts, [(1, 1), (2, 1), (3, 2)]);
    }

    #[test]
    fn a_breaker_that_opens_takes_back_the_failures_of_its_window() {
        let opened_at = OffsetDateTime::now_utc();
        let check = |ages: &[u64], expected| {
            let failed_at = ages.iter().map(|age| opened_at - Duration::from_secs(*age)).collect();
            let mut tries = tries(failed_at);
            tries.refund(Some(opened_at), WINDOW);
            assert_eq!((tries.attempts, tries.first_at.is_some()), expected, "{ages:?}");
            tries.refund(Some(opened_at), WINDOW);
            assert_eq!(tries.attempts, expected.0, "{ages:?}: once");
        };
        check(&[20, 10], (0, false));
        check(&[60, 10], (1, true));
        check(&[60, 40], (2, true));
    }

    #[test]
    fn a_refusal_is_the_users_own_once_the_target_has_taken_others_states_since_the_last() {
        let refused = |status, retry_after| Failure {
            class: FailureClass::WholeTarget,
            reason: "http_403",
            status: Some(status),
            retry_after,
            detail: String::new(),
            shared: false,
            bisect: false,
            bounded: false,
        };
        let later = Some(OffsetDateTime::now_utc() + WINDOW);
        let mut alone = tries(Vec::new());
        assert!(!alone.is_blamed_alone(&refused(403, None), later), "the first may be the target's");
        assert!(!alone.is_blamed_alone(&refused(403, None), None), "nobody else's was taken");
        assert!(alone.is_blamed_alone(&refused(403, None), later));
        let mut asked_to_wait = tries(Vec::new());
        for failure in [refused(429, None), refused(403, Some(WINDOW)), refused(429, None)] {
            assert!(!asked_to_wait.is_blamed_alone(&failure, later), "{:?}", failure.status);
        }
    }
}
