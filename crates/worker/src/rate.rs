use crate::settings::RateLimit;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// This worker's part of a target's rate limit: a bucket that refills evenly.
#[derive(Debug, Clone)]
pub(crate) struct RateBudget {
    limit: Option<RateLimit>,
    bucket: Arc<Mutex<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    sharers: usize,
}

impl RateBudget {
    pub(crate) fn new(limit: Option<RateLimit>) -> Self {
        let tokens = limit.map_or(0.0, |limit| f64::from(limit.requests));
        Self { limit, bucket: Arc::new(Mutex::new(Bucket { tokens, at: Instant::now(), sharers: 1 })) }
    }

    /// So many workers share the limit; each takes its part.
    pub(crate) fn share_among(&self, workers: usize) {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).sharers = workers.max(1);
    }

    /// Waits for a request's token and takes it.
    pub(crate) async fn take(&self) {
        let Some(limit) = self.limit else { return };
        loop {
            let wait_until = {
                let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
                let per_second = bucket.refill(limit);
                if bucket.tokens >= 1.0 {
                    bucket.tokens -= 1.0;
                    return;
                }
                bucket.at + Duration::from_secs_f64((1.0 - bucket.tokens) / per_second)
            };
            sleep_until(wait_until).await;
        }
    }

    /// How long a request should wait for more users: `linger` while half the budget or more is left, growing from
    /// there to the time one token takes to come.
    pub(crate) fn linger(&self, linger: Duration) -> Duration {
        let Some(limit) = self.limit else { return linger };
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let per_second = bucket.refill(limit);
        let left = bucket.tokens / bucket.capacity(limit);
        let scarcity = (1.0 - 2.0 * left).clamp(0.0, 1.0);
        linger.max(Duration::from_secs_f64(scarcity / per_second))
    }
}

impl Bucket {
    fn capacity(&self, limit: RateLimit) -> f64 {
        (f64::from(limit.requests) / self.sharers as f64).max(1.0)
    }

    /// Adds what came since; gives the tokens that come in a second.
    fn refill(&mut self, limit: RateLimit) -> f64 {
        let now = Instant::now();
        let per_second = f64::from(limit.requests) / self.sharers as f64 / limit.per.as_secs_f64();
        let come = (now - self.at).as_secs_f64() * per_second;
        self.tokens = (self.tokens + come).min(self.capacity(limit));
        self.at = now;
        per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test(start_paused = true)]
    async fn a_budget_of_100_in_15_minutes_is_kept_and_the_linger_grows_as_it_shrinks() {
        let budget = RateBudget::new(Some(RateLimit { requests: 100, per: Duration::from_secs(900) }));
        let linger = Duration::from_millis(5);
        assert_eq!(budget.linger(linger), linger);
        for _ in 0..75 {
            assert!(budget.take().now_or_never().is_some());
        }
        assert_eq!(budget.linger(linger).as_secs(), 4, "half of the 9 s a token takes");
        for _ in 0..25 {
            assert!(budget.take().now_or_never().is_some());
        }
        assert_eq!(budget.linger(linger).as_secs(), 9);
        assert!(budget.take().now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(9_001)).await;
        assert!(budget.take().now_or_never().is_some());
        assert!(budget.take().now_or_never().is_none());
    }
}
