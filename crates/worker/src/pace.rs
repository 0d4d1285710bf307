//! How fast jobs go beside live traffic.
//!
//! Limits on requests and rates leave live traffic its share of the target, but not of processors, disks and of the
//! target's own. So jobs watch what live changes feel of them: while the time from commit to delivery is not what it is
//! in calm moments, they slow down; while it is, they speed up. The idea is that of "less than best effort" transports
//! (RFC 6817), with increase and decrease as in TCP.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Live changes that are judged together, at least and at most.
const SAMPLES_MIN: usize = 10;
const SAMPLES_MAX: usize = 1000;
/// How long at least samples are gathered, and how long at most: without enough of them there is nothing to protect.
const INTERVAL: Duration = Duration::from_millis(250);
const INTERVAL_MAX: Duration = Duration::from_secs(2);
/// What counts as calm is the least of so many spans of this length, so that a new normal is learnt.
const SPANS: usize = 10;
const SPAN: Duration = Duration::from_secs(60);
/// Delay on top of twice the calm one that live traffic bears.
const BEARABLE: Duration = Duration::from_millis(5);

/// Share of full speed at the start of a job beside live traffic, and the least.
const SHARE_START: f64 = 0.1;
const SHARE_MIN: f64 = 0.02;
const SPEED_UP: f64 = 1.1;
const SLOW_DOWN: f64 = 0.6;
/// Longest rest after a request.
const REST_MAX: Duration = Duration::from_secs(2);

/// The speed of jobs in this worker, over all its targets: they share its machine.
#[derive(Clone, Default)]
pub(crate) struct Pace(Arc<Mutex<Speed>>);

#[derive(Default)]
struct Speed {
    /// None: nobody has yet sent for a job beside live traffic.
    share: Option<f64>,
    live_at: Option<Instant>,
    job_at: Option<Instant>,
}

/// Watches the live changes of one target.
pub(crate) struct LiveDelay {
    pace: Pace,
    watch: Mutex<Watch>,
}

#[derive(Default)]
struct Watch {
    since: Option<Instant>,
    samples: Vec<Duration>,
    /// The least delay of each span, the newest last.
    calm: VecDeque<(Instant, Duration)>,
}

impl Pace {
    /// How long a place among the requests of jobs stays empty after a request that took so long.
    pub(crate) fn rest(&self, request: Duration, now: Instant) -> Duration {
        let mut speed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        speed.job_at = Some(now);
        if speed.live_at.is_none_or(|at| now > at + INTERVAL_MAX) {
            return Duration::ZERO;
        }
        let share = *speed.share.get_or_insert(SHARE_START);
        request.mul_f64(1.0 / share - 1.0).min(REST_MAX)
    }

    fn live(&self, is_calm: bool, now: Instant) {
        let mut speed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        speed.live_at = Some(now);
        let jobs_run = speed.job_at.is_some_and(|at| now < at + REST_MAX + INTERVAL);
        let factor = if is_calm { SPEED_UP } else { SLOW_DOWN };
        speed.share = match speed.share {
            Some(share) if jobs_run => Some((share * factor).clamp(SHARE_MIN, 1.0)),
            _ => None,
        };
    }
}

impl LiveDelay {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, watch: Mutex::default() }
    }

    /// A live change was delivered at its first try, so long after its commit.
    pub(crate) fn observe(&self, delay: Duration, now: Instant) {
        let judged = self.watch.lock().unwrap_or_else(PoisonError::into_inner).observe(delay, now);
        if let Some(is_calm) = judged {
            self.pace.live(is_calm, now);
        }
    }
}

impl Watch {
    /// Whether the interval that ends with this sample was calm; None: it has not ended.
    fn observe(&mut self, delay: Duration, now: Instant) -> Option<bool> {
        let since = *self.since.get_or_insert(now);
        if now > since + INTERVAL_MAX {
            self.since = Some(now);
            self.samples.clear();
        }
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(delay);
        }
        if self.samples.len() < SAMPLES_MIN || now < since + INTERVAL {
            return None;
        }
        self.since = Some(now);
        let place = self.samples.len() * 9 / 10;
        let (_, p90, _) = self.samples.select_nth_unstable(place);
        let p90 = *p90;
        self.samples.clear();
        Some(p90 <= 2 * self.calm(p90, now) + BEARABLE)
    }

    /// What the delay is in calm moments, this one among them.
    fn calm(&mut self, delay: Duration, now: Instant) -> Duration {
        match self.calm.back_mut() {
            Some((since, least)) if now < *since + SPAN => *least = delay.min(*least),
            _ => self.calm.push_back((now, delay)),
        }
        while self.calm.len() > SPANS {
            self.calm.pop_front();
        }
        self.calm.iter().map(|(_, least)| *least).min().unwrap_or(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Duration = Duration::from_millis(10);

    struct Run {
        pace: Pace,
        live: LiveDelay,
        now: Instant,
    }

    impl Run {
        fn new() -> Self {
            let pace = Pace::default();
            Self { live: LiveDelay::new(pace.clone()), pace, now: Instant::now() }
        }

        /// Live changes of so many seconds, 100 each second, all with this delay, and a job beside them.
        fn seconds(&mut self, seconds: u32, delay: Duration) -> Duration {
            for _ in 0..seconds * 100 {
                self.now += Duration::from_millis(10);
                self.live.observe(delay, self.now);
                self.pace.rest(REQUEST, self.now);
            }
            self.pace.rest(REQUEST, self.now)
        }
    }

    #[test]
    fn a_job_without_live_traffic_rests_never() {
        let run = Run::new();
        assert_eq!(run.pace.rest(REQUEST, run.now), Duration::ZERO);
    }

    #[test]
    fn a_job_begins_slowly_beside_live_traffic_and_comes_to_full_speed_while_that_stays_calm() {
        let mut run = Run::new();
        for _ in 0..50 {
            run.now += Duration::from_millis(10);
            run.live.observe(Duration::from_millis(20), run.now);
        }
        assert_eq!(run.pace.rest(REQUEST, run.now), REQUEST * 9);
        assert_eq!(run.seconds(10, Duration::from_millis(20)), Duration::ZERO);
    }

    #[test]
    fn a_job_that_live_traffic_feels_slows_down_and_never_stops() {
        let mut run = Run::new();
        run.seconds(20, Duration::from_millis(20));
        let slowed = run.seconds(2, Duration::from_millis(60));
        assert!(slowed > REQUEST * 10, "{slowed:?}");
        assert_eq!(run.seconds(60, Duration::from_millis(60)), REQUEST * 49, "the least share is a 50th");
        assert_eq!(run.seconds(20, Duration::from_millis(20)), Duration::ZERO);
    }

    #[test]
    fn when_live_traffic_ends_a_job_goes_at_full_speed() {
        let mut run = Run::new();
        run.seconds(20, Duration::from_millis(20));
        run.seconds(5, Duration::from_millis(90));
        run.now += Duration::from_secs(3);
        assert_eq!(run.pace.rest(REQUEST, run.now), Duration::ZERO);
    }

    #[test]
    fn a_delay_that_stays_is_the_new_calm() {
        let mut run = Run::new();
        run.seconds(20, Duration::from_millis(20));
        let rest = run.seconds(11 * 60, Duration::from_millis(90));
        assert!(rest < REQUEST * 49, "{rest:?}");
        assert_eq!(run.seconds(20, Duration::from_millis(90)), Duration::ZERO);
    }
}
