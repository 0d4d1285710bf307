use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// `[targets.<name>.retry]`: when a failed delivery is tried again, and when it is given up.
///
/// First come quick tries, the user's lane waiting; then the user is parked for this target and tried by
/// `schedule`, holding up nobody. Failures of the target as a whole count for none of it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Quick tries in all, the first included. Default 3.
    pub attempts: u32,
    /// Pause before the second quick try, the third, ...; the last one repeats. Default 1 s, 2 s (seed 002).
    #[serde(with = "units::durations")]
    pub delays: Vec<Duration>,
    /// Share of a quick pause that is random, 0.0 to 1.0: 0.2 means 80 to 100 % of the pause. Default 0.
    pub jitter: f64,
    /// Pauses between tries of a parked user; the last one repeats.
    /// Default 5 s, 15 s, 1 min, 2 min, 5 min, 15 min, 30 min, 1 h.
    #[serde(with = "units::durations")]
    pub schedule: Vec<Duration>,
    /// The same as `jitter` for the pauses of `schedule`. Default 1.0: 0 to 100 % of the pause.
    pub schedule_jitter: f64,
    /// Time after its first failure at which a delivery is given up; time in which the target as a whole is
    /// paused does not count. Default 24 h.
    #[serde(with = "units::duration")]
    pub horizon: Duration,
    /// Tries of a delivery whose results fail without a hint whether another try is of any use. Default 12.
    pub bounded_attempts: u32,
    /// How often a permanent refusal must repeat, with other users succeeding in between, before the delivery
    /// is given up. Default 3.
    pub permanent_attempts: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            delays: [1, 2].map(Duration::from_secs).to_vec(),
            jitter: 0.0,
            schedule: [5, 15, 60, 120, 300, 900, 1800, 3600].map(Duration::from_secs).to_vec(),
            schedule_jitter: 1.0,
            horizon: Duration::from_secs(24 * 3600),
            bounded_attempts: 12,
            permanent_attempts: 3,
        }
    }
}

impl Retry {
    /// The pause after the failed quick try number `attempt` (from 1), before jitter; `None` when none is left.
    pub fn delay(&self, attempt: u32) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let index = attempt.saturating_sub(1) as usize;
        self.delays.get(index).or(self.delays.last()).copied()
    }
}
