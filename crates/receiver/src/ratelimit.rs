//! The CRM's rate limit: a fixed window per client address, counted in this process.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::RateLimit;

/// Windows kept before the finished ones are swept out.
const WINDOWS_MAX: usize = 10_000;

/// Counts requests per client.
pub(crate) struct RateLimiter {
    limit: RateLimit,
    windows: Mutex<HashMap<IpAddr, Window>>,
}

struct Window {
    started: Instant,
    requests: u32,
}

impl RateLimiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self { limit, windows: Mutex::new(HashMap::new()) }
    }

    /// Counts one request, or says how long the client must wait.
    pub(crate) fn admit(&self, client: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut windows = self.windows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if windows.len() >= WINDOWS_MAX && !windows.contains_key(&client) {
            windows.retain(|_, window| now.duration_since(window.started) < self.limit.per);
            if windows.len() >= WINDOWS_MAX {
                return Err(self.limit.per);
            }
        }
        let window = windows.entry(client).or_insert(Window { started: now, requests: 0 });
        let elapsed = now.duration_since(window.started);
        if elapsed >= self.limit.per {
            *window = Window { started: now, requests: 0 };
        } else if window.requests >= self.limit.requests {
            return Err(self.limit.per - elapsed);
        }
        window.requests += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_past_its_limit_waits_for_the_end_of_its_window_and_no_other_client_does() {
        let limiter = RateLimiter::new(RateLimit { requests: 2, per: Duration::from_secs(10) });
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);

        assert_eq!(limiter.admit(one, start), Ok(()));
        assert_eq!(limiter.admit(one, after(3)), Ok(()));
        assert_eq!(limiter.admit(one, after(4)), Err(Duration::from_secs(6)));
        assert_eq!(limiter.admit(other, after(4)), Ok(()));
        assert_eq!(limiter.admit(one, after(10)), Ok(()));
    }

    #[test]
    fn the_number_of_windows_is_bounded() {
        let limiter = RateLimiter::new(RateLimit { requests: 1, per: Duration::from_secs(10) });
        let start = Instant::now();
        for n in 0..u32::try_from(WINDOWS_MAX).unwrap() {
            assert_eq!(limiter.admit(IpAddr::from(n.to_be_bytes()), start), Ok(()));
        }
        let late = IpAddr::from([200, 0, 0, 1]);
        assert!(limiter.admit(late, start).is_err());
        assert_eq!(limiter.admit(late, start + Duration::from_secs(10)), Ok(()));
    }
}
