use crate::{retry::reconnect_pauses, settings::RateLimit};
use postbound_store::{RateAnswer, RateSpan, RateWindow, Store, within};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep},
};

/// How long one question to the store may take.
const TAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that wait for a token at most; more wait at the door.
const QUEUE: usize = 1024;
/// A worker leases at most this part of the limit at once.
const LEASE_PART: u32 = 20;

/// A target's rate limit, shared by all workers: in no span of its length do more requests go out, the first included.
///
/// Tokens are leased from the store as they are waited for, and run out within two slots of its window: one that is not
/// used by then is lost, never used late.
#[derive(Clone)]
pub(crate) struct RateBudget(Option<Arc<Budget>>);

struct Budget {
    limit: RateLimit,
    live: Line,
    backfill: Line,
    seen: Arc<Seen>,
}

/// Requests of one kind that wait their turn.
struct Line {
    waiting: mpsc::Sender<oneshot::Sender<RateToken>>,
}

/// What this worker last saw of the window, for the linger.
#[derive(Default)]
struct Seen(Mutex<Option<(RateWindow, i64, Instant)>>);

/// The right to send one request, until it runs out. Dropped unused, another request here may have it.
pub(crate) struct RateToken {
    valid_until: Instant,
    /// None: nothing limits the target, or it was used.
    spare: Option<Arc<Spare>>,
}

/// Tokens leased and not used, by when they run out.
#[derive(Default)]
struct Spare {
    tokens: Mutex<VecDeque<Instant>>,
    returned: Notify,
}

/// What hands out tokens to one line.
struct Leaser {
    target: String,
    span: RateSpan,
    ceiling: u32,
    store: Store,
    spare: Arc<Spare>,
    seen: Arc<Seen>,
}

impl RateBudget {
    /// `live_share` of the limit is kept from backfill. Ends with the last handle.
    pub(crate) fn start(target: &str, limit: Option<RateLimit>, live_share: f64, store: &Store) -> Self {
        let Some(limit) = limit else { return Self(None) };
        let seen = Arc::new(Seen::default());
        let line = |ceiling: u32| {
            let (waiting, queue) = mpsc::channel(QUEUE);
            let leaser = Leaser {
                target: target.to_owned(),
                span: RateSpan { requests: limit.requests, per: limit.per },
                ceiling,
                store: store.clone(),
                spare: Arc::default(),
                seen: Arc::clone(&seen),
            };
            tokio::spawn(leaser.serve(queue));
            Line { waiting }
        };
        let (live, backfill) = (line(limit.requests), line(backfill_ceiling(limit.requests, live_share)));
        Self(Some(Arc::new(Budget { limit, live, backfill, seen })))
    }

    /// Waits for a request's token and takes it.
    pub(crate) async fn take(&self, backfill: bool) -> RateToken {
        let unlimited = || RateToken { valid_until: Instant::now(), spare: None };
        let Some(budget) = &self.0 else { return unlimited() };
        let line = if backfill { &budget.backfill } else { &budget.live };
        loop {
            let (reply, token) = oneshot::channel();
            if line.waiting.send(reply).await.is_ok()
                && let Ok(token) = token.await
            {
                return token;
            }
            // Only at the end of the process.
            sleep(TAKE_TIMEOUT).await;
        }
    }

    /// How long a request should wait for more users: `linger` while half the budget or more is left, growing from
    /// there to the time one token takes to come.
    pub(crate) fn linger(&self, linger: Duration) -> Duration {
        let Some(budget) = &self.0 else { return linger };
        let Some(used) = budget.seen.used() else { return linger };
        let left = 1.0 - used as f64 / f64::from(budget.limit.requests.max(1));
        let scarcity = (1.0 - 2.0 * left).clamp(0.0, 1.0);
        linger.max(budget.limit.per.mul_f64(scarcity / f64::from(budget.limit.requests.max(1))))
    }
}

impl RateToken {
    /// Asked right before the request goes out; false: it has run out, take another one.
    pub(crate) fn is_valid(&self) -> bool {
        self.spare.is_none() || Instant::now() < self.valid_until
    }

    /// The request goes out.
    pub(crate) fn spend(mut self) {
        self.spare = None;
    }
}

impl Drop for RateToken {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.put(self.valid_until);
        }
    }
}

impl Spare {
    fn tokens(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, valid_until: Instant) {
        let now = Instant::now();
        let mut tokens = self.tokens();
        tokens.retain(|until| now < *until);
        if now < valid_until {
            tokens.push_back(valid_until);
        }
        drop(tokens);
        self.returned.notify_one();
    }

    fn take(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut tokens = self.tokens();
        tokens.retain(|until| now < *until);
        tokens.pop_front()
    }
}

impl Seen {
    fn set(&self, answer: RateAnswer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((answer.window, answer.now_ms, Instant::now()));
    }

    /// Requests that count now; None: not one was taken here so far.
    fn used(&self) -> Option<u64> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (window, then_ms, then) = seen.as_ref()?;
        let passed = i64::try_from(then.elapsed().as_millis()).unwrap_or(i64::MAX);
        Some(window.used(then_ms.saturating_add(passed)))
    }
}

impl Leaser {
    async fn serve(self, mut queue: mpsc::Receiver<oneshot::Sender<RateToken>>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let Some(first) = queue.recv().await else { return };
                waiting.push_back(first);
            }
            while waiting.len() < QUEUE
                && let Ok(next) = queue.try_recv()
            {
                waiting.push_back(next);
            }
            waiting.retain(|reply: &oneshot::Sender<RateToken>| !reply.is_closed());
            while !waiting.is_empty()
                && let Some(valid_until) = self.spare.take()
            {
                self.hand_out(&mut waiting, 1, valid_until);
            }
            if waiting.is_empty() {
                continue;
            }
            let (granted, valid_until, retry_in) = self.lease(waiting.len()).await;
            self.hand_out(&mut waiting, granted, valid_until);
            if granted == 0 {
                tokio::select! {
                    () = sleep(retry_in) => {}
                    () = self.spare.returned.notified() => {}
                }
            }
        }
    }

    fn hand_out(
        &self,
        waiting: &mut VecDeque<oneshot::Sender<RateToken>>,
        mut tokens: u32,
        valid_until: Instant,
    ) {
        while tokens > 0
            && let Some(reply) = waiting.pop_front()
        {
            // Whoever has gone has not used it.
            if let Err(mut token) =
                reply.send(RateToken { valid_until, spare: Some(Arc::clone(&self.spare)) })
            {
                token.spare = None;
                continue;
            }
            tokens -= 1;
        }
        for _ in 0..tokens {
            self.spare.put(valid_until);
        }
    }

    /// Leases for those who wait: how many, until when, and if none, when to ask again.
    async fn lease(&self, waiting: usize) -> (u32, Instant, Duration) {
        let most = (self.span.requests / LEASE_PART).max(1);
        let wanted = u32::try_from(waiting).unwrap_or(u32::MAX).min(most);
        for pause in reconnect_pauses() {
            let asked_at = Instant::now();
            let asked = self.store.take_rate(&self.target, self.span, wanted, self.ceiling);
            match within(TAKE_TIMEOUT, asked).await {
                Ok(answer) => {
                    let grant = answer.grant;
                    self.seen.set(answer);
                    return (grant.granted, asked_at + grant.valid_for, grant.retry_in);
                }
                Err(error) => {
                    tracing::warn!(error = %error, target.name = %self.target, "no request leased from the rate limit; trying again");
                    sleep(pause).await;
                }
            }
        }
        (0, Instant::now(), TAKE_TIMEOUT)
    }
}

/// Requests in a span below which backfill may go.
fn backfill_ceiling(requests: u32, live_share: f64) -> u32 {
    let share = f64::from(requests) * (1.0 - live_share.clamp(0.0, 1.0));
    // A limit of few must not shut it out for good.
    (share.ceil() as u32).clamp(1.min(requests), requests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const CRM: RateLimit = RateLimit { requests: 100, per: Duration::from_secs(900) };
    const NOW_MS: i64 = 1_780_000_000_000;

    /// A budget that nobody serves: the test has its queue.
    fn budget() -> (RateBudget, mpsc::Receiver<oneshot::Sender<RateToken>>) {
        let (waiting, queue) = mpsc::channel(8);
        let (live, backfill) = (Line { waiting: waiting.clone() }, Line { waiting });
        (RateBudget(Some(Arc::new(Budget { limit: CRM, live, backfill, seen: Arc::default() }))), queue)
    }

    #[tokio::test(start_paused = true)]
    async fn the_linger_grows_as_the_budget_of_all_workers_shrinks() {
        let (budget, _queue) = budget();
        let check = |used: u32, expected: Duration| {
            let mut window = RateWindow::new(RateSpan { requests: CRM.requests, per: CRM.per }, NOW_MS);
            let grant = window.grant(NOW_MS, used, CRM.requests);
            budget.0.as_ref().unwrap().seen.set(RateAnswer { grant, window, now_ms: NOW_MS });
            assert_eq!(budget.linger(Duration::from_millis(5)), expected, "{used} used");
        };
        check(0, Duration::from_millis(5));
        check(50, Duration::from_millis(5));
        check(75, Duration::from_millis(4500));
        check(100, Duration::from_secs(9));
        tokio::time::advance(Duration::from_secs(960)).await;
        assert_eq!(budget.linger(Duration::from_millis(5)), Duration::from_millis(5), "a window later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_used_in_its_time_or_never_and_by_another_if_not_by_its_first_owner() {
        let spare = Arc::new(Spare::default());
        let token = |valid_until| RateToken { valid_until, spare: Some(Arc::clone(&spare)) };
        let valid_until = Instant::now() + Duration::from_secs(15);
        token(valid_until).spend();
        assert_eq!(spare.take(), None, "it is used");
        drop(token(valid_until));
        assert_eq!(spare.take(), Some(valid_until));
        assert_eq!(spare.take(), None, "once");

        let kept = token(valid_until);
        drop(token(valid_until));
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(!kept.is_valid());
        drop(kept);
        assert_eq!(spare.take(), None, "both have run out");
    }

    #[tokio::test]
    async fn who_leaves_the_line_holds_up_nobody() {
        let (budget, mut queue) = budget();
        assert!(budget.take(false).now_or_never().is_none());
        assert!(queue.recv().await.unwrap().is_closed());
        let waits = budget.take(true);
        tokio::pin!(waits);
        assert!((&mut waits).now_or_never().is_none());
        let token = RateToken { valid_until: Instant::now() + Duration::from_secs(1), spare: None };
        assert!(queue.recv().await.unwrap().send(token).is_ok());
        assert!(waits.await.is_valid());
    }

    #[test]
    fn backfill_leaves_live_traffic_its_share_and_is_never_shut_out() {
        let check =
            |requests, live_share, expected| assert_eq!(backfill_ceiling(requests, live_share), expected);
        check(100, 0.5, 50);
        check(100, 0.0, 100);
        check(100, 0.999, 1);
        check(1, 0.5, 1);
    }
}
