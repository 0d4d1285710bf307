use super::{
    Breakers, Passage, ProbeToken, Scope,
    answer::{self, Answer},
    state::{ProbeResult, State},
    writer::{Change, Opening},
};
use postbound_store::BreakerCause;
use postbound_target::{Delivery, Failure, Outcome};
use std::{sync::MutexGuard, time::Duration};
use tokio::time::Instant;

impl Breakers {
    /// Takes in how a request ended.
    pub(crate) fn judge(&self, deliveries: &[Delivery], outcomes: &[Outcome], passage: Passage) {
        let Some(tenant) = deliveries.first().map(|delivery| delivery.key.tenant.as_str()) else { return };
        let answer = Answer::of(deliveries, outcomes);
        match passage {
            Passage::Free { openings } => self.judge_free(tenant, &answer, openings),
            Passage::Probe(token) => self.judge_probe(tenant, &answer, token),
            Passage::Held => {}
        }
    }

    /// One of many requests. Those under way when a breaker opens say nothing new, unless the target asks for longer.
    fn judge_free(&self, tenant: &str, answer: &Answer<'_>, openings: u64) {
        let is_late = self.0.lock().openings(tenant) != openings;
        if let Some(failure) = answer.whole_target {
            if !is_late || failure.retry_after.is_some() {
                self.open_for_failure(tenant, failure);
            }
            return;
        }
        if is_late {
            return;
        }
        let second = self.0.started.elapsed().as_secs();
        let mut state = self.0.lock();
        state.window.record(tenant, second, answer.succeeded, &answer.failed);
        let Some(failure) = answer.first_failure.filter(|_| !answer.failed.is_empty()) else { return };
        let Some(mut scope) = state.window.judge(tenant, second) else { return };
        let cause = BreakerCause::FailingShare;
        if scope.is_some() && state.is_spreading(tenant, cause, None, second) {
            scope = None;
        }
        if state.open(&scope).is_none() {
            self.open(state, scope, cause, failure, None);
        }
    }

    /// A failure that speaks of the target opens it, or one tenant of it.
    fn open_for_failure(&self, tenant: &str, failure: &Failure) {
        let (now, second) = (Instant::now(), self.0.started.elapsed().as_secs());
        let cause = BreakerCause::WholeTarget;
        let wish_until = self.wish(failure).map(|wish| now + wish);
        let mut state = self.0.lock();
        let mut scope = answer::scope(failure, tenant);
        if scope.is_some() && state.is_spreading(tenant, cause, Some(failure.reason), second) {
            scope = None;
        }
        if state.open(&scope).is_none() {
            return self.open(state, scope, cause, failure, wish_until);
        }
        if let Some(until) = wish_until
            && state.waits_less(&scope, until)
            && let Some(place) = self.0.place()
        {
            state.prolong(&scope, until);
            place.send(Change::Open(self.opening(scope, cause, failure, wish_until)));
        }
    }

    fn open(
        &self,
        mut state: MutexGuard<'_, State>,
        scope: Scope,
        cause: BreakerCause,
        failure: &Failure,
        wish_until: Option<Instant>,
    ) {
        // Without one the next failure opens it: what the table never hears of would be probed by nobody.
        let Some(place) = self.0.place() else { return };
        let now = Instant::now();
        let wait = wish_until.map_or(self.0.settings.pause_min, |until| until - now);
        state.open_here(&scope, cause, failure.reason, now, wait);
        self.0.publish(&state);
        place.send(Change::Open(self.opening(scope, cause, failure, wish_until)));
    }

    fn opening(
        &self,
        scope: Scope,
        cause: BreakerCause,
        failure: &Failure,
        wish_until: Option<Instant>,
    ) -> Opening {
        let (reason, status, detail) = (failure.reason, failure.status, failure.detail.clone());
        Opening { scope, cause, reason, status, detail, wish_until }
    }

    /// What the target asks for, exactly. "Now" and times past are no pause to keep to.
    fn wish(&self, failure: &Failure) -> Option<Duration> {
        let pause_min = self.0.settings.pause_min;
        failure.retry_after.map(|wish| if wish.is_zero() { pause_min } else { wish })
    }

    fn judge_probe(&self, tenant: &str, answer: &Answer<'_>, mut token: ProbeToken) {
        let claims = std::mem::take(&mut token.claims);
        for (scope, claim) in &claims {
            let result = match self.0.lock().open(scope) {
                Some(open) => {
                    answer.probe_result(scope, open.cause, &open.reason, self.0.settings.failing_share)
                }
                None => ProbeResult::SaysNothing,
            };
            let (scope, claim) = (scope.clone(), *claim);
            self.0.submit(match result {
                ProbeResult::Closes => Change::Close { scope, claim },
                ProbeResult::SaysNothing => Change::Release { scope, claim },
                ProbeResult::Fails => {
                    let wish = answer.whole_target.and_then(|failure| self.wish(failure));
                    let reason = answer.first_failure.map_or("", |failure| failure.reason);
                    Change::Fail { scope, claim, reason, wish_until: wish.map(|wish| Instant::now() + wish) }
                }
            });
        }
        // A tenant's probe can find that the whole target is down, and the whole target's that a tenant is refused.
        if let Some(failure) = answer.whole_target
            && !claims.iter().any(|(scope, _)| *scope == answer::scope(failure, tenant))
        {
            self.open_for_failure(tenant, failure);
        }
    }
}
