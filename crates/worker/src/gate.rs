use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Holds back all requests to a target while it fails as a whole (down, misconfigured, asking for a pause), and then
/// lets one through to see. No delivery's attempts are burnt on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    closed: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    /// Until then; `pause` was the last one, before jitter or the target's own wish.
    Closed { until: Instant, pause: Duration },
    /// One request is through, to see; it should be back by then.
    Probing { until: Instant, pause: Duration },
}

impl Gate {
    /// Waits until a request may be sent. `timeout` bounds a probe that never comes back.
    pub(crate) async fn pass(&self, timeout: Duration) {
        while self.shared.closed.load(Ordering::Acquire) {
            let changed = self.shared.changed.notified();
            let Some(wait_until) = self.try_pass(timeout) else { return };
            tokio::select! {
                () = changed => {}
                () = sleep_until(wait_until) => {}
            }
        }
    }

    /// Whether a request that passed may still go: the gate has not closed since, or it is the probe.
    pub(crate) fn lets_pass(&self) -> bool {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(*state, State::Closed { until, .. } if Instant::now() < until)
    }

    /// None: go ahead. Else: ask again then.
    fn try_pass(&self, timeout: Duration) -> Option<Instant> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match *state {
            State::Open => None,
            State::Closed { until, .. } | State::Probing { until, .. } if now < until => Some(until),
            State::Closed { pause, .. } | State::Probing { pause, .. } => {
                *state = State::Probing { until: now + timeout, pause };
                None
            }
        }
    }

    /// The target failed as a whole. Gives the pause, when it is this failure that closed the gate.
    pub(crate) fn failed(&self, retry_after: Option<Duration>) -> Option<Duration> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let last = match *state {
            State::Open => Duration::ZERO,
            State::Probing { pause, .. } => pause,
            // Requests that were under way when it closed say nothing new, unless the target asks for longer.
            State::Closed { until, .. } if retry_after.is_none_or(|wish| now + wish <= until) => return None,
            State::Closed { pause, .. } => pause,
        };
        let pause = (last * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        // "Now" and times past are no pause to keep to.
        let wait = retry_after.filter(|wish| *wish >= PAUSE_MIN).unwrap_or(pause);
        *state = State::Closed { until: now + wait, pause };
        self.shared.closed.store(true, Ordering::Release);
        self.shared.changed.notify_waiters();
        Some(wait)
    }

    /// The target answered as it should. True: the gate was closed until now.
    pub(crate) fn succeeded(&self) -> bool {
        if !self.shared.closed.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A late success of a request from before the pause the target asked for does not end it.
        if matches!(*state, State::Closed { until, .. } if Instant::now() < until) {
            return false;
        }
        *state = State::Open;
        self.shared.closed.store(false, Ordering::Release);
        self.shared.changed.notify_waiters();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_failing_target_is_asked_by_one_request_at_a_time() {
        let gate = Gate::default();
        assert_eq!(gate.failed(None), Some(PAUSE_MIN));
        assert_eq!(gate.failed(None), None, "those under way change nothing");
        assert!(gate.pass(TIMEOUT).now_or_never().is_none());
        tokio::time::advance(PAUSE_MIN).await;
        assert!(gate.pass(TIMEOUT).now_or_never().is_some(), "the probe");
        assert!(gate.pass(TIMEOUT).now_or_never().is_none(), "nobody beside it");
        assert_eq!(gate.failed(None), Some(2 * PAUSE_MIN));
        tokio::time::advance(2 * PAUSE_MIN).await;
        assert!(gate.pass(TIMEOUT).now_or_never().is_some());
        assert!(gate.succeeded());
        assert!(gate.pass(TIMEOUT).now_or_never().is_some());
        assert!(gate.pass(TIMEOUT).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_the_target_asks_for_is_kept_exactly() {
        let gate = Gate::default();
        let wish = Duration::from_secs(300);
        assert_eq!(gate.failed(Some(wish)), Some(wish));
        assert!(!gate.succeeded(), "a late success does not shorten it");
        tokio::time::advance(wish - Duration::from_millis(1)).await;
        assert!(gate.pass(TIMEOUT).now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(gate.pass(TIMEOUT).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_asks_for_no_pause_gets_one_all_the_same() {
        let gate = Gate::default();
        assert_eq!(gate.failed(Some(Duration::ZERO)), Some(PAUSE_MIN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_passed_before_the_gate_closed_may_not_go_after() {
        let gate = Gate::default();
        gate.pass(TIMEOUT).await;
        assert!(gate.lets_pass());
        gate.failed(Some(Duration::from_secs(600)));
        assert!(!gate.lets_pass());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_never_comes_back_does_not_keep_the_gate_shut() {
        let gate = Gate::default();
        gate.failed(None);
        tokio::time::advance(PAUSE_MIN).await;
        assert!(gate.pass(TIMEOUT).now_or_never().is_some());
        tokio::time::advance(TIMEOUT).await;
        assert!(gate.pass(TIMEOUT).now_or_never().is_some());
    }
}
