//! Looks on: who leads and who owns what, for the takeover times; and whether a process ends that nobody ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use sqlx::PgPool;
use tokio::task::AbortHandle;

use crate::clock::{MomentUs, now_us, seconds};
use crate::fault::Fault;
use crate::nemesis::Injected;
use crate::stage::Stage;

/// How exact takeover times are.
const GLANCE: Duration = Duration::from_millis(100);
/// How soon a process that ended by itself is started again, as a service manager would.
const RESTART: Duration = Duration::from_millis(500);
/// A change of hands later than that has nothing to do with the fault.
const TAKEOVER_MAX_US: MomentUs = 30_000_000;
/// So soon after its owner went on a change of hands is still due to its standstill.
const THAW_US: MomentUs = 500_000;

/// Something in one process's hand since a moment: the lease of the relay, or a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    since_us: MomentUs,
    what: String,
    pid: i32,
}

/// The onlooker.
pub(crate) struct Watch {
    held: Arc<Mutex<Vec<Held>>>,
    tasks: [AbortHandle; 2],
}

/// How long it took until others had what a stricken process held, in seconds.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Takeovers {
    /// The active relay's lease.
    pub(crate) relay_s: Vec<f64>,
    /// All partitions of a worker.
    pub(crate) worker_s: Vec<f64>,
}

impl Watch {
    /// Begins to look.
    pub(crate) fn start(stage: &Arc<Stage>) -> Result<Self> {
        let held = Arc::<Mutex<Vec<Held>>>::default();
        let looking = tokio::spawn(look(stage.source()?, Arc::clone(&held)));
        let restarting = tokio::spawn(restart(Arc::clone(stage)));
        Ok(Self { held, tasks: [looking.abort_handle(), restarting.abort_handle()] })
    }

    /// The takeovers that followed the faults.
    pub(crate) async fn takeovers(&self, stage: &Stage, injected: &[Injected]) -> Result<Takeovers> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut takeovers = Takeovers::default();
        for fault in injected {
            let (process, thawed_us) = match &fault.fault {
                Fault::Kill { process } => (process, MomentUs::MAX),
                Fault::Freeze { process } => (process, fault.to_us + THAW_US),
                _ => continue,
            };
            let (relays, workers) = (process.starts_with("relay"), process.starts_with("worker"));
            let process = stage.process(process)?.lock().await;
            let is_own = |held: &Held| process.had_pid(held.pid);
            if relays || workers {
                let taken = taken_over(&held, fault.from_us, thawed_us, is_own);
                let times = if relays { &mut takeovers.relay_s } else { &mut takeovers.worker_s };
                times.extend(taken.map(|at_us| seconds(fault.from_us, at_us)));
            }
        }
        Ok(takeovers)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// When the last of what the stricken process held was in another's hands; none: nothing was held, or it kept some.
fn taken_over(
    held: &[Held],
    stricken_us: MomentUs,
    until_us: MomentUs,
    is_own: impl Fn(&Held) -> bool,
) -> Option<MomentUs> {
    let until_us = until_us.min(stricken_us + TAKEOVER_MAX_US);
    let mut whats: Vec<&str> = held.iter().map(|held| held.what.as_str()).collect();
    whats.sort_unstable();
    whats.dedup();
    let mut last_us = None;
    for what in whats {
        let of_it = || held.iter().filter(|held| held.what == what);
        let before = of_it().rfind(|held| held.since_us <= stricken_us);
        if !before.is_some_and(&is_own) {
            continue;
        }
        let before_pid = before.map(|held| held.pid);
        let after = of_it().find(|held| held.since_us > stricken_us && Some(held.pid) != before_pid)?;
        if after.since_us > until_us {
            return None;
        }
        last_us = last_us.max(Some(after.since_us));
    }
    last_us
}

async fn look(pool: PgPool, held: Arc<Mutex<Vec<Held>>>) {
    let mut glances = tokio::time::interval(GLANCE);
    glances.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        glances.tick().await;
        // Postgres may be down, and may stay silent.
        let asked = tokio::time::timeout(Duration::from_secs(2), ask(&pool)).await;
        let Ok(Ok(found)) = asked else { continue };
        let at_us = now_us();
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        for (what, holder) in found {
            // host:pid, or host:pid:nonce
            let Some(pid) = holder.split(':').nth(1).and_then(|pid| pid.parse().ok()) else { continue };
            if held.iter().rfind(|held| held.what == what).is_none_or(|last| last.pid != pid) {
                held.push(Held { since_us: at_us, what, pid });
            }
        }
    }
}

async fn ask(pool: &PgPool) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query_as(
        "-- chaos_holders
        select 'relay', holder from postbound.relay_lease where holder is not null and expires_at > clock_timestamp()
        union all
        select l.target || '/' || l.partition, w.label
        from postbound.partition_lease as l join postbound.worker as w using (worker_id)
        where w.expires_at > clock_timestamp()",
    )
    .fetch_all(pool)
    .await
}

async fn restart(stage: Arc<Stage>) {
    loop {
        tokio::time::sleep(RESTART).await;
        for process in stage.processes.values() {
            // One that somebody else has in hand is in that one's care.
            let Ok(mut process) = process.try_lock() else { continue };
            let ends = process.surprises().len();
            if process.look().is_ok() && process.surprises().len() > ends {
                // If it does not start, it is found missing in the end.
                let _ = process.start();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_is_over_when_the_last_of_what_was_held_is_in_other_hands() {
        let held = |since_us, what: &str, pid| Held { since_us, what: what.to_owned(), pid };
        let story = [held(0, "a", 1), held(0, "b", 1), held(0, "c", 2), held(50, "a", 2), held(70, "b", 3)];
        let check = |stricken_us, until_us, pid, expected: Option<MomentUs>| {
            let is_own = |held: &Held| held.pid == pid;
            assert_eq!(taken_over(&story, stricken_us, until_us, is_own), expected);
        };
        check(10, 1_000, 1, Some(70));
        check(10, 60, 1, None);
        check(10, 1_000, 2, None);
        check(10, 1_000, 9, None);
        check(60, 1_000, 1, Some(70));
    }
}
