//! The demo as it happens: bars on a terminal, now and then a line elsewhere.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::crowd::Counts;
use super::tally::{TARGETS, Tally, TargetTally};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// What is shown while changes travel.
pub(crate) struct Live {
    goal: i64,
    committed: ProgressBar,
    targets: Vec<ProgressBar>,
    history: VecDeque<(Instant, i64)>,
    next_line: Option<Instant>,
}

impl Live {
    /// Shows progress towards `goal` committed and delivered changes.
    pub(crate) fn new(goal: i64) -> Self {
        let bars = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>10} {bar:30} {human_pos:>7}/{human_len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |name: &'static str| {
            let bar = ProgressBar::new(goal.unsigned_abs()).with_style(style.clone()).with_prefix(name);
            bars.add(bar)
        };
        let next_line = (!std::io::stderr().is_terminal()).then(Instant::now);
        let (committed, targets) = (bar("committed"), TARGETS.map(bar).to_vec());
        Self { goal, committed, targets, history: VecDeque::new(), next_line }
    }

    /// Brings what is shown up to date.
    pub(crate) fn show(&mut self, tally: &Tally, counts: Counts) {
        let now = Instant::now();
        let committed = tally.targets.first().map_or(0, |target| target.committed);
        self.history.push_back((now, committed));
        let rolled_back = format!("{} rolled back", HumanCount(counts.rolled_back));
        let told: Vec<String> = tally.targets.iter().map(|target| self.tell(target, now)).collect();
        self.committed.set_position(committed.unsigned_abs());
        self.committed.set_message(rolled_back.clone());
        for ((bar, target), told) in self.targets.iter().zip(&tally.targets).zip(&told) {
            bar.set_position(target.settled().unsigned_abs());
            bar.set_message(told.clone());
        }
        if self.next_line.is_some_and(|next| next <= now) {
            self.next_line = Some(now + LINE_EVERY);
            let targets: Vec<String> =
                TARGETS.iter().zip(told).map(|(name, told)| format!("{name}: {told}")).collect();
            eprintln!("demo: {committed} of {} committed, {rolled_back}; {}", self.goal, targets.join("; "));
        }
        self.forget_settled(tally);
    }

    fn tell(&self, target: &TargetTally, now: Instant) -> String {
        let delivered = HumanCount(target.delivered.unsigned_abs());
        match self.lag(target, now) {
            None => format!("{delivered} delivered, none waiting"),
            Some(lag) => {
                let waiting = HumanCount(target.pending.unsigned_abs());
                format!("{delivered} delivered, {waiting} waiting, {:.1} s behind", lag.as_secs_f64())
            }
        }
    }

    /// How long ago the source had what the target has now, to the glance.
    fn lag(&self, target: &TargetTally, now: Instant) -> Option<Duration> {
        if target.pending == 0 {
            return None;
        }
        let ahead = self.history.iter().find(|(_, committed)| *committed > target.settled());
        ahead.map(|(seen, _)| now.saturating_duration_since(*seen))
    }

    fn forget_settled(&mut self, tally: &Tally) {
        let settled = tally.targets.iter().map(TargetTally::settled).min().unwrap_or(0);
        while self.history.len() > 1
            && self.history.front().is_some_and(|(_, committed)| *committed <= settled)
        {
            self.history.pop_front();
        }
    }
}

impl Drop for Live {
    /// What was shown stays on the screen.
    fn drop(&mut self) {
        for bar in self.targets.iter().chain([&self.committed]) {
            bar.abandon();
        }
    }
}
