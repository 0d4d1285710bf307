//! The run's clock: all times in it are microseconds since 1970, by this machine's wall clock, as the servers' are too.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment, in microseconds since 1970.
pub(crate) type MomentUs = i64;

/// Now.
pub(crate) fn now_us() -> MomentUs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Seconds from one moment to another, for people.
pub(crate) fn seconds(from: MomentUs, to: MomentUs) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a run is far shorter than 2^52 microseconds")]
    let micros = (to - from) as f64;
    micros / 1e6
}
