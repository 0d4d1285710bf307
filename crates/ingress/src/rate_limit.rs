use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postbound_config::RateLimit;

/// So many requests in a span of time, counted in this process, in windows that begin with their first request.
pub(crate) struct RateLimiter {
    limit: RateLimit,
    window: Mutex<Option<Window>>,
}

struct Window {
    began: Instant,
    requests: u32,
}

impl RateLimiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self { limit, window: Mutex::new(None) }
    }

    /// Counts one request, or says how long to wait.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let current = window.take().filter(|window| now.duration_since(window.began) < self.limit.per);
        let mut current = current.unwrap_or(Window { began: now, requests: 0 });
        let full = current.requests >= self.limit.requests;
        current.requests += u32::from(!full);
        let rest = self.limit.per - now.duration_since(current.began);
        *window = Some(current);
        if full { Err(rest) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_past_the_limit_waits_for_the_end_of_the_window() {
        let limiter = RateLimiter::new(RateLimit { requests: 2, per: Duration::from_secs(10) });
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limiter.admit(start), Ok(()));
        assert_eq!(limiter.admit(after(3)), Ok(()));
        assert_eq!(limiter.admit(after(4)), Err(Duration::from_secs(6)));
        assert_eq!(limiter.admit(after(9)), Err(Duration::from_secs(1)));
        assert_eq!(limiter.admit(after(10)), Ok(()));
    }
}
