use std::time::Duration;
use tokio::time::Instant;

/// Shortest pause between two sends of a job, so that a fast one sends handfuls rather than single items.
const STEP: Duration = Duration::from_millis(100);

/// An even token clock: so many items per second, never more than a second's worth at once.
#[derive(Debug, Clone)]
pub(crate) struct TokenClock {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl TokenClock {
    /// A clock that begins with one token.
    pub(crate) fn new(per_second: f64, now: Instant) -> Self {
        Self { per_second, tokens: 1.0, at: now }
    }

    /// Goes on at another pace.
    pub(crate) fn set_rate(&mut self, per_second: f64) {
        self.per_second = per_second;
    }

    /// Items that may be sent now.
    pub(crate) fn available(&mut self, now: Instant) -> usize {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + earned).min(self.per_second.max(1.0));
        self.at = now;
        self.tokens as usize
    }

    /// Items were sent.
    pub(crate) fn spend(&mut self, items: usize) {
        self.tokens -= items as f64;
    }

    /// How long until there is something worth sending.
    pub(crate) fn pause(&self) -> Duration {
        let missing = (1.0 - self.tokens).max(0.0) / self.per_second;
        Duration::try_from_secs_f64(missing).unwrap_or(Duration::MAX).max(STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends whatever may be sent, whenever the clock says, and gives when how many went out.
    fn run(per_second: f64, seconds: f64) -> Vec<(f64, usize)> {
        let start = Instant::now();
        let mut clock = TokenClock::new(per_second, start);
        let mut now = start;
        let mut sent = Vec::new();
        while (now - start).as_secs_f64() < seconds {
            let items = clock.available(now);
            clock.spend(items);
            sent.push(((now - start).as_secs_f64(), items));
            now += clock.pause();
        }
        sent
    }

    #[test]
    fn no_second_has_more_than_the_rate() {
        for per_second in [0.5, 1.0, 3.0, 10.0, 250.0, 10_000.0] {
            let sent = run(per_second, 10.0);
            let total: usize = sent.iter().map(|(_, items)| items).sum();
            let wanted = per_second * 10.0;
            assert!((total as f64 - wanted).abs() <= per_second * 0.2 + 2.0, "{per_second}: {total}");
            for (from, _) in &sent {
                let within = sent.iter().filter(|(at, _)| (*from..from + 1.0).contains(at));
                let burst: usize = within.map(|(_, items)| items).sum();
                assert!(burst as f64 <= per_second * 1.1 + 1.0, "{per_second}: {burst} within a second");
            }
        }
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let start = Instant::now();
        let mut clock = TokenClock::new(20.0, start);
        assert_eq!(clock.available(start + Duration::from_secs(3600)), 20);
    }
}
