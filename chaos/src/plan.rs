//! Which fault comes when, drawn from the seed. The same seed makes the same plan, whatever the machine does.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::dealer::Dealer;
use crate::fault::Fault;
use crate::target::Guards;

/// Relays of a run.
pub(crate) const RELAYS: [&str; 2] = ["relay-1", "relay-2"];
/// Workers of a run; each serves every target.
pub(crate) const WORKERS: [&str; 3] = ["worker-1", "worker-2", "worker-3"];
/// The worker that comes and goes.
pub(crate) const EXTRA_WORKER: &str = "worker-4";
/// The servers each of those is linked to.
pub(crate) const SERVERS: [&str; 2] = ["postgres", "rabbitmq"];
/// The application's link.
pub(crate) const APP_LINK: &str = "app/postgres";

/// The first fault.
const FIRST_AT_MS: u64 = 4_000;

/// What a run is made of.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Outline {
    /// The seed.
    pub(crate) seed: u64,
    /// How long faults are injected.
    pub(crate) duration_ms: u64,
    /// How careful the receivers are.
    pub(crate) guards: Guards,
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Planned {
    /// When it begins, from the start of the run.
    pub(crate) at_ms: u64,
    /// How long it lasts; 0: it is over at once.
    pub(crate) lasts_ms: u64,
    /// What it is.
    #[serde(flatten)]
    pub(crate) fault: Fault,
}

/// All faults of a run, by time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// What it was drawn for.
    pub(crate) outline: Outline,
    /// The faults.
    pub(crate) faults: Vec<Planned>,
}

impl Plan {
    /// Draws the plan of a run.
    pub(crate) fn draw(outline: Outline) -> Self {
        let mut dealer = Dealer::new(outline.seed);
        let mut faults: Vec<Planned> = Vec::new();
        let mut at_ms = FIRST_AT_MS;
        while at_ms < outline.duration_ms {
            let (fault, lasts_ms) = dealer.deal();
            let holds = fault.holds();
            // What is held is waited for, so that a crowded run keeps its order.
            let free_ms = faults
                .iter()
                .filter(|planned| planned.fault.holds() == holds)
                .map(|planned| planned.at_ms + planned.lasts_ms + 1_000)
                .max()
                .unwrap_or(0);
            let begins_ms = at_ms.max(free_ms);
            if begins_ms < outline.duration_ms {
                faults.push(Planned { at_ms: begins_ms, lasts_ms, fault });
            }
            at_ms += dealer.gap_ms();
        }
        faults.sort_by_key(|planned| planned.at_ms);
        Self { outline, faults }
    }

    /// How long the run injects faults.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_millis(self.outline.duration_ms)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outline { seed, duration_ms, guards } = self.outline;
        let receivers = match guards {
            Guards::Versions => "guarded",
            Guards::Nothing => "guard-less",
        };
        writeln!(
            f,
            "seed {seed}, {} s, {receivers} receivers, {} faults",
            duration_ms / 1000,
            self.faults.len()
        )?;
        for Planned { at_ms, lasts_ms, fault } in &self.faults {
            let (at_s, tenths) = (at_ms / 1000, at_ms % 1000 / 100);
            match lasts_ms {
                0 => writeln!(f, "{at_s:>6}.{tenths} s           {fault}")?,
                _ => writeln!(
                    f,
                    "{at_s:>6}.{tenths} s {:>5}.{} s  {fault}",
                    lasts_ms / 1000,
                    lasts_ms % 1000 / 100
                )?,
            }
        }
        Ok(())
    }
}

/// The link to a target's receiver.
pub(crate) fn http_link(target: &str) -> String {
    format!("{target}/http")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan::draw(Outline { seed, duration_ms: 180_000, guards: Guards::Versions })
    }

    #[test]
    fn the_same_seed_makes_the_same_plan_and_another_another() {
        assert_eq!(plan(7).faults, plan(7).faults);
        assert_ne!(plan(7).faults, plan(8).faults);
    }

    #[test]
    fn faults_of_one_thing_never_overlap() {
        for seed in 0..50 {
            let faults = plan(seed).faults;
            assert!(faults.len() > 40, "seed {seed} has {}", faults.len());
            for (place, one) in faults.iter().enumerate() {
                for other in &faults[place + 1..] {
                    let apart = other.at_ms >= one.at_ms + one.lasts_ms;
                    assert!(apart || one.fault.holds() != other.fault.holds(), "{one:?} and {other:?}");
                }
            }
        }
    }
}
