//! How long the demo has taken, counted from the command and not from its first line of code.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use sqlx::PgPool;

/// Starts with the command.
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// Counts from the start of this process, which is that of `cargo xtask demo`: cargo becomes the program it has built.
    pub(crate) fn of_this_command() -> Self {
        let now = Instant::now();
        Self { start: age().and_then(|age| now.checked_sub(age)).unwrap_or(now) }
    }

    /// Time since the command.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The times that matter, for people.
    pub(crate) async fn report(&self, pool: &PgPool) -> Result<String> {
        let first: Option<f64> = sqlx::query_scalar(
            "-- demo_first_delivery
            select extract(epoch from min(received_at))::float8 from receiver.request_log where outcome = 'applied'",
        )
        .fetch_one(pool)
        .await?;
        let total = self.elapsed().as_secs_f64();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        Ok(match first {
            Some(first) => {
                let first = total - (now - first);
                format!("{first:.1} s from the command to the first delivery, {total:.1} s in total")
            }
            None => format!("nothing was delivered in {total:.1} s"),
        })
    }
}

/// The age of this process as the kernel tells it.
fn age() -> Option<Duration> {
    /// Of the times in /proc, whatever the kernel's own tick is.
    const TICKS_PER_SECOND: f64 = 100.0;
    const STARTTIME: usize = 22;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name in brackets, may hold blanks; the third follows it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let started: f64 = fields.split(' ').nth(STARTTIME - 3)?.parse().ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(uptime - started / TICKS_PER_SECOND).ok()
}
