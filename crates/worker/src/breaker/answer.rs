use super::{Scope, state::ProbeResult};
use postbound_store::BreakerCause;
use postbound_target::{Delivery, Failure, FailureClass, Outcome};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// What the outcomes of one request say beyond each user.
pub(super) struct Answer<'o> {
    /// The failure that speaks of the target, if one does; of several, the one that asks for the longest pause.
    pub(super) whole_target: Option<&'o Failure>,
    pub(super) first_failure: Option<&'o Failure>,
    /// Users whose state the target holds.
    pub(super) succeeded: u32,
    /// Users that failed for what the target may be to blame for (hashes of their ids).
    pub(super) failed: Vec<u64>,
    /// Whether the target answered at all.
    answered: bool,
    /// Whether it was asked at all.
    sent: bool,
}

impl<'o> Answer<'o> {
    pub(super) fn of(deliveries: &[Delivery], outcomes: &'o [Outcome]) -> Self {
        let mut answer = Self {
            whole_target: None,
            first_failure: None,
            succeeded: 0,
            failed: Vec::new(),
            answered: false,
            sent: false,
        };
        for (delivery, outcome) in deliveries.iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered { .. } | Outcome::Stale { .. } => {
                    answer.succeeded += 1;
                    (answer.answered, answer.sent) = (true, true);
                }
                Outcome::Failed(failure) => answer.add_failure(delivery, failure),
            }
        }
        answer
    }

    fn add_failure(&mut self, delivery: &Delivery, failure: &'o Failure) {
        self.first_failure.get_or_insert(failure);
        self.answered |= failure.status.is_some();
        // Refused without an answer: it was never sent, and says nothing of the target.
        let is_unsent = failure.class == FailureClass::Permanent && failure.status.is_none();
        self.sent |= !is_unsent;
        if failure.class == FailureClass::WholeTarget {
            if self.whole_target.is_none_or(|other| other.retry_after < failure.retry_after) {
                self.whole_target = Some(failure);
            }
        } else if !is_unsent && !failure.bisect {
            // Of a request that is halved to find who is at fault, the halves will tell.
            let mut hasher = DefaultHasher::new();
            delivery.key.hash(&mut hasher);
            self.failed.push(hasher.finish());
        }
    }

    /// What this answer to a probe says of the breaker it was for.
    pub(super) fn probe_result(
        &self,
        scope: &Scope,
        cause: BreakerCause,
        reason: &str,
        failing_share: f64,
    ) -> ProbeResult {
        if !self.sent {
            return ProbeResult::SaysNothing;
        }
        let failed = self.failed.len() as f64;
        let closes = match (cause, self.whole_target) {
            (BreakerCause::Operator, _) => return ProbeResult::SaysNothing,
            // No answer says nothing of whether the target is back.
            (BreakerCause::WholeTarget, None) => self.answered,
            // The target answers, with something else that speaks of this tenant alone.
            (BreakerCause::WholeTarget, Some(failure)) => {
                scope.is_none() && is_of_tenant(failure) && failure.reason != reason
            }
            (BreakerCause::FailingShare, None) => {
                failed < failing_share * (f64::from(self.succeeded) + failed)
            }
            (BreakerCause::FailingShare, Some(_)) => false,
        };
        if closes { ProbeResult::Closes } else { ProbeResult::Fails }
    }
}

/// What a failure that speaks of the target opens.
pub(super) fn scope(failure: &Failure, tenant: &str) -> Scope {
    is_of_tenant(failure).then(|| tenant.to_owned())
}

/// A refusal may be that of one tenant. Having no answer, being asked for a pause, or a broken server is everyone's.
fn is_of_tenant(failure: &Failure) -> bool {
    failure.retry_after.is_none() && failure.status.is_some_and(|status| status != 429 && status < 500)
}
