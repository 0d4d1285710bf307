use crate::job_rate::TokenClock;
use std::time::Duration;
use tokio::time::Instant;

/// How far a job is, as far as this session has looked.
pub(crate) struct Progress {
    /// Before this item none waits.
    pub(crate) after_item: i64,
    /// None waits at all.
    pub(crate) exhausted: bool,
    pub(crate) clock: Option<TokenClock>,
}

/// What of the target's items is under way.
pub(crate) struct Unsettled {
    pub(crate) items: i64,
    pub(crate) counted_at: Option<Instant>,
    /// Since when neither a count nor a send has changed anything.
    pub(crate) unchanged_since: Instant,
    /// How long that may last before it is asked whether they are lost.
    pub(crate) patience: Duration,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { after_item: 0, exhausted: false, clock: None }
    }

    /// The job's token clock, if it has a rate.
    pub(crate) fn clock(&mut self, per_second: Option<f64>, now: Instant) -> Option<&mut TokenClock> {
        let Some(per_second) = per_second else {
            self.clock = None;
            return None;
        };
        let clock = self.clock.get_or_insert_with(|| TokenClock::new(per_second, now));
        clock.set_rate(per_second);
        Some(clock)
    }
}

impl Unsettled {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { items: 0, counted_at: None, unchanged_since: Instant::now(), patience }
    }

    /// They were counted. Where workers have settled or parked some, lost ones are looked for after `patience` again.
    pub(crate) fn counted(&mut self, items: i64, patience: Duration) {
        if items != self.items {
            self.unchanged_since = Instant::now();
        }
        if items < self.items {
            self.patience = patience;
        }
        (self.items, self.counted_at) = (items, Some(Instant::now()));
    }

    /// So many were lost and wait again: nobody settled them, so the next are looked for twice as late.
    pub(crate) fn lost(&mut self, items: u64, patience_max: Duration) {
        self.items = self.items.saturating_sub_unsigned(items).max(0);
        self.counted_at = None;
        self.patience = (self.patience * 2).min(patience_max);
    }

    /// So many more were sent.
    pub(crate) fn sent(&mut self, items: usize) {
        if items > 0 {
            self.items += items as i64;
            self.unchanged_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(600);

    #[test]
    fn items_lost_again_and_again_are_looked_for_ever_later_until_some_are_settled() {
        let mut unsettled = Unsettled::new(PATIENCE);
        for times in [2, 4, 6] {
            unsettled.sent(10);
            unsettled.counted(10, PATIENCE);
            unsettled.lost(10, PATIENCE * 6);
            unsettled.counted(0, PATIENCE);
            assert_eq!(unsettled.patience, PATIENCE * times);
        }
        unsettled.sent(10);
        unsettled.counted(9, PATIENCE);
        assert_eq!(unsettled.patience, PATIENCE);
    }
}
