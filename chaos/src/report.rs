//! What a run came to, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use crate::checker::{self, Violation};
use crate::history::{History, Jobs};
use crate::nemesis::Injected;
use crate::plan::Outline;
use crate::producer::Outcome;
use crate::settle::OnItsWay;
use crate::watch::Takeovers;

/// The figures of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    outline: Outline,
    /// Faults injected, by kind.
    faults: BTreeMap<&'static str, usize>,
    /// Publishes that full queues refused, at least.
    publishes_refused: u64,
    source: SourceFigures,
    targets: Vec<TargetFigures>,
    /// What operators ordered in the midst of it.
    jobs: Jobs,
    /// How long after a relay was stricken another one led.
    relay_takeover: Times,
    /// How long after a worker was stricken others had all its partitions.
    worker_takeover: Times,
    settled_after_s: f64,
    left: OnItsWay,
    /// Processes that ended though nobody ended them, how often each in that way.
    surprises: BTreeMap<String, usize>,
    violations: Vec<Violation>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct SourceFigures {
    changes: usize,
    users: usize,
    transactions_committed: usize,
    transactions_rolled_back: usize,
    transactions_in_doubt: usize,
}

#[derive(Clone, Debug, Serialize)]
struct TargetFigures {
    target: &'static str,
    requests: usize,
    /// States the receiver took, each version once.
    deliveries: usize,
    /// States it took again.
    duplicates: usize,
    /// States it refused for a newer one, or executed after a newer one.
    late: usize,
    /// Changes that gave way to newer ones.
    superseded: usize,
    /// Deletes among them, overtaken by a job's newest state.
    deletes_overtaken_by_jobs: usize,
    dead_letters: usize,
}

/// The middle and the worst of some times, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Times {
    count: usize,
    median_s: f64,
    max_s: f64,
}

impl Report {
    pub(crate) fn new(
        outline: Outline,
        injected: &[Injected],
        history: &History,
        takeovers: &Takeovers,
        (left, settled_after_s): (OnItsWay, f64),
        surprises: &[String],
        violations: Vec<Violation>,
    ) -> Self {
        let mut faults = BTreeMap::new();
        for fault in injected {
            *faults.entry(fault.fault.kind()).or_insert(0) += 1;
        }
        Self {
            outline,
            faults,
            // A relay's count goes on over faults, so the last one has those before it, unless it was started again.
            publishes_refused: injected.iter().map(|fault| fault.refused).max().unwrap_or(0),
            source: source(history),
            targets: targets(history),
            jobs: history.jobs,
            relay_takeover: Times::of(&takeovers.relay_s),
            worker_takeover: Times::of(&takeovers.worker_s),
            settled_after_s,
            left,
            surprises: surprises.iter().fold(BTreeMap::new(), |mut counts, surprise| {
                *counts.entry(surprise.clone()).or_insert(0) += 1;
                counts
            }),
            violations,
        }
    }

    /// Whether all promises were kept.
    pub(crate) fn is_good(&self) -> bool {
        self.violations.is_empty()
    }
}

impl Times {
    fn of(times: &[f64]) -> Self {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        let (Some(median), Some(max)) = (times.get(times.len() / 2), times.last()) else {
            return Self::default();
        };
        Self { count: times.len(), median_s: *median, max_s: *max }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => write!(f, "none"),
            _ => write!(f, "{}, median {:.1} s, max {:.1} s", self.count, self.median_s, self.max_s),
        }
    }
}

fn source(history: &History) -> SourceFigures {
    let ended = |outcome: Outcome| {
        history.transactions.iter().filter(|transaction| transaction.outcome == outcome).count()
    };
    SourceFigures {
        changes: history.source.values().map(Vec::len).sum(),
        users: history.source.len(),
        transactions_committed: ended(Outcome::Committed),
        transactions_rolled_back: ended(Outcome::RolledBack),
        transactions_in_doubt: ended(Outcome::InDoubt),
    }
}

fn targets(history: &History) -> Vec<TargetFigures> {
    let changes: usize = history.source.values().map(Vec::len).sum();
    history
        .targets
        .iter()
        .map(|target| {
            let (mut deliveries, mut taken, mut late) = (0, 0, 0);
            for rows in target.seen.values() {
                let mut versions = std::collections::BTreeSet::new();
                for seen in rows.iter().filter(|seen| seen.is_executed()) {
                    late += usize::from(versions.last().is_some_and(|newest| seen.version < *newest));
                    if seen.is_taken() {
                        taken += 1;
                        deliveries += usize::from(versions.insert(seen.version));
                    }
                }
            }
            let dead_letters = target.letters.values().map(Vec::len).sum();
            TargetFigures {
                target: target.target.name,
                requests: target.requests.len(),
                deliveries,
                duplicates: taken - deliveries,
                late,
                superseded: changes.saturating_sub(deliveries + dead_letters),
                deletes_overtaken_by_jobs: checker::deletes_overtaken(history, target),
                dead_letters,
            }
        })
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut faults = table(&["fault", "injected"]);
        for (kind, count) in &self.faults {
            faults.add_row([(*kind).to_owned(), count.to_string()]);
        }
        let heads = [
            "target",
            "requests",
            "deliveries",
            "duplicates",
            "late",
            "superseded",
            "deletes by jobs",
            "dead letters",
        ];
        let mut targets = table(&heads);
        for figures in &self.targets {
            let numbers = [
                figures.requests,
                figures.deliveries,
                figures.duplicates,
                figures.late,
                figures.superseded,
                figures.deletes_overtaken_by_jobs,
                figures.dead_letters,
            ];
            let cells = std::iter::once(figures.target.to_owned());
            targets.add_row(cells.chain(numbers.map(|number| number.to_string())));
        }
        let source = &self.source;
        writeln!(f, "{faults}\n{targets}")?;
        writeln!(
            f,
            "{} changes of {} users; transactions: {} committed, {} rolled back, {} in doubt at their clients",
            source.changes,
            source.users,
            source.transactions_committed,
            source.transactions_rolled_back,
            source.transactions_in_doubt
        )?;
        let Jobs { jobs, delivered, superseded, dead, unsettled } = self.jobs;
        writeln!(
            f,
            "{jobs} jobs: {delivered} items delivered, {superseded} superseded or skipped, {dead} dead, \
             {unsettled} not settled"
        )?;
        writeln!(f, "publishes refused by full queues: {} or more", self.publishes_refused)?;
        writeln!(f, "relay takeovers: {}; worker takeovers: {}", self.relay_takeover, self.worker_takeover)?;
        match self.left == OnItsWay::default() {
            true => writeln!(f, "settled {:.1} s after the last fault", self.settled_after_s)?,
            false => {
                writeln!(
                    f,
                    "not settled {:.1} s after the last fault: {:?}",
                    self.settled_after_s, self.left
                )?;
            }
        }
        for (surprise, count) in &self.surprises {
            writeln!(f, "{count} x {surprise}")?;
        }
        write!(f, "{} violations", self.violations.len())
    }
}

fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(heads.to_vec());
    table
}
