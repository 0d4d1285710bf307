use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// `[targets.<name>.breaker]`: when calls fail so often that the target, and no user, must be at fault.
///
/// While it is open, one probe at a time is sent and no attempt is counted.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Share of the calls within `window` that must fail for it to open, above 0.0, at most 1.0. Default 0.5.
    pub failing_share: f64,
    /// Calls within `window` below which it does not open for their share. Default 20.
    pub calls_min: u32,
    /// The span of time that is looked at. Default 10 s.
    #[serde(with = "units::duration")]
    pub window: Duration,
    /// Its first pause; each further one is twice as long. A `Retry-After` of the target takes its place.
    /// Default 1 s.
    #[serde(with = "units::duration")]
    pub pause_min: Duration,
    /// Its longest pause. Default 30 s.
    #[serde(with = "units::duration")]
    pub pause_max: Duration,
    /// Open for so long, workers go on consuming and park what comes, the newest state per user. Default 60 s.
    #[serde(with = "units::duration")]
    pub fold_after: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failing_share: 0.5,
            calls_min: 20,
            window: Duration::from_secs(10),
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(30),
            fold_after: Duration::from_secs(60),
        }
    }
}
