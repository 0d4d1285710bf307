use crate::{Store, StoreError};
use std::time::Duration;

/// Slots of a rate limit's span, if they are long enough.
const SLOTS: u32 = 60;
/// No slot is shorter: a grant must reach its worker while it may be used.
const SLOT_MS_MIN: i64 = 100;

/// What a target allows: so many requests in any span of that length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateSpan {
    /// Requests.
    pub requests: u32,
    /// The span.
    pub per: Duration,
}

/// Requests granted to workers within a target's rate limit, counted in slots of time.
///
/// A grant may be used until the end of the slot after its own. Any span of `slots` slots touches one more slot, and
/// what is used there was granted there or one slot before: so no span has more than the limit while the newest
/// `slots + 2` slots never hold more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateWindow {
    slot_ms: i64,
    /// Number of the newest slot since the epoch.
    newest: i64,
    /// Grants per slot, the newest first; as many slots as count.
    granted: Vec<u32>,
}

/// What the window gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateGrant {
    /// Requests that may go out.
    pub granted: u32,
    /// How long from the moment of granting they may.
    pub valid_for: Duration,
    /// How long to wait before asking again; zero where something was granted.
    pub retry_in: Duration,
}

/// A grant, with the window it came from and the time of granting.
#[derive(Debug, Clone)]
pub struct RateAnswer {
    /// What was granted.
    pub grant: RateGrant,
    /// The window after it.
    pub window: RateWindow,
    /// The database's clock, milliseconds since the epoch.
    pub now_ms: i64,
}

impl RateWindow {
    /// Nothing granted so far.
    pub fn new(span: RateSpan, now_ms: i64) -> Self {
        let slot_ms = slot_ms(span);
        Self { slot_ms, newest: now_ms.div_euclid(slot_ms), granted: vec![0; slots_counted(span, slot_ms)] }
    }

    /// Grants as many of the `wanted` requests as there is room for below `ceiling`, which is the limit or less.
    pub fn grant(&mut self, now_ms: i64, wanted: u32, ceiling: u32) -> RateGrant {
        self.advance(now_ms);
        let room = u64::from(ceiling).saturating_sub(self.sum());
        let granted = wanted.min(u32::try_from(room).unwrap_or(u32::MAX));
        self.granted[0] += granted;
        let ends_at = (self.newest + 2) * self.slot_ms;
        let retry_at = if granted == wanted { now_ms } else { self.room_at(ceiling) };
        RateGrant {
            granted,
            valid_for: span_of(ends_at - now_ms),
            retry_in: if granted > 0 { Duration::ZERO } else { span_of(retry_at - now_ms) },
        }
    }

    /// Requests that count at a time.
    pub fn used(&self, now_ms: i64) -> u64 {
        let mut then = self.clone();
        then.advance(now_ms);
        then.sum()
    }

    /// Moves on to the slot of the time. A clock that was set back takes the grants with it: they count for a whole
    /// span from now on, since nobody knows how long ago they were.
    fn advance(&mut self, now_ms: i64) {
        let slot = now_ms.div_euclid(self.slot_ms);
        if slot < self.newest {
            let all = u32::try_from(self.sum()).unwrap_or(u32::MAX);
            self.granted.fill(0);
            self.granted.first_mut().into_iter().for_each(|newest| *newest = all);
        } else {
            let passed = usize::try_from(slot - self.newest).unwrap_or(usize::MAX).min(self.granted.len());
            self.granted.rotate_right(passed);
            self.granted[..passed].fill(0);
        }
        self.newest = slot;
    }

    fn sum(&self) -> u64 {
        self.granted.iter().map(|granted| u64::from(*granted)).sum()
    }

    /// When enough old slots have left for one more grant.
    fn room_at(&self, ceiling: u32) -> i64 {
        let mut left = self.sum();
        let counted = self.granted.len() as i64;
        for (age, granted) in self.granted.iter().enumerate().rev() {
            left -= u64::from(*granted);
            if left < u64::from(ceiling) {
                return (self.newest - age as i64 + counted) * self.slot_ms;
            }
        }
        (self.newest + counted) * self.slot_ms
    }

    /// The window as it was stored; under another limit its grants all count from now on.
    fn stored(span: RateSpan, now_ms: i64, slot_ms: i64, newest: i64, granted: &[i32]) -> Self {
        let granted: Vec<u32> = granted.iter().map(|granted| u32::try_from(*granted).unwrap_or(0)).collect();
        let mut fresh = Self::new(span, now_ms);
        let stored = Self { slot_ms, newest, granted };
        if stored.slot_ms == fresh.slot_ms && stored.granted.len() == fresh.granted.len() {
            return stored;
        }
        fresh.granted[0] = u32::try_from(stored.used(now_ms)).unwrap_or(u32::MAX);
        fresh
    }
}

impl Store {
    /// Takes up to `wanted` requests out of what a target's limit allows all workers together, as long as fewer than
    /// `ceiling` are taken. Count the time they are valid from before the call.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn take_rate(
        &self,
        target: &str,
        span: RateSpan,
        wanted: u32,
        ceiling: u32,
    ) -> Result<RateAnswer, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "-- make_rate_window
            insert into postbound.rate_window (target, slot_ms, newest_slot, granted) values ($1, 1, 0, '{}')
            on conflict do nothing",
        )
        .bind(target)
        .execute(&mut *tx)
        .await?;
        // The time is that after the wait for the lock: slots are granted in order.
        let (slot_ms, newest, granted, now_ms): (i64, i64, Vec<i32>, i64) = sqlx::query_as(
            "-- lock_rate_window
            with locked as materialized (
                select slot_ms, newest_slot, granted from postbound.rate_window where target = $1 for update
            )
            select slot_ms, newest_slot, granted, floor(extract(epoch from clock_timestamp()) * 1000)::bigint from locked",
        )
        .bind(target)
        .fetch_one(&mut *tx)
        .await?;
        let mut window = RateWindow::stored(span, now_ms, slot_ms, newest, &granted);
        let grant = window.grant(now_ms, wanted, ceiling.min(span.requests));
        if grant.granted > 0 {
            let granted: Vec<i32> =
                window.granted.iter().map(|granted| i32::try_from(*granted).unwrap_or(i32::MAX)).collect();
            sqlx::query(
                "-- take_rate
                update postbound.rate_window set slot_ms = $2, newest_slot = $3, granted = $4 where target = $1",
            )
            .bind(target)
            .bind(window.slot_ms)
            .bind(window.newest)
            .bind(granted)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(RateAnswer { grant, window, now_ms })
    }
}

fn slot_ms(span: RateSpan) -> i64 {
    let even = span.per.as_millis().div_ceil(u128::from(SLOTS));
    i64::try_from(even).unwrap_or(i64::MAX).max(SLOT_MS_MIN)
}

fn slots_counted(span: RateSpan, slot_ms: i64) -> usize {
    let slots = span.per.as_millis().div_ceil(slot_ms.unsigned_abs().into());
    usize::try_from(slots).unwrap_or(SLOTS as usize) + 2
}

fn span_of(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Some day in 2026.
    const START_MS: i64 = 1_780_000_000_000;

    fn crm() -> RateSpan {
        RateSpan { requests: 100, per: Duration::from_secs(900) }
    }

    /// Most requests in any span of that length. Times are sorted here.
    fn most_in_a_span(mut sent_ms: Vec<i64>, per: Duration) -> usize {
        sent_ms.sort_unstable();
        let per_ms = per.as_millis() as i64;
        let in_span_from =
            |(n, start): (usize, &i64)| sent_ms[n..].iter().take_while(|at| **at < start + per_ms).count();
        sent_ms.iter().enumerate().map(in_span_from).max().unwrap_or(0)
    }

    #[test]
    fn a_crm_that_allows_100_requests_in_15_minutes_gets_no_more_in_any_15_minutes_and_hardly_fewer() {
        let mut window = RateWindow::new(crm(), START_MS);
        let (mut now, mut sent) = (START_MS, Vec::new());
        let four_hours = START_MS + 4 * 3_600_000;
        while now < four_hours {
            let grant = window.grant(now, 5, 100);
            sent.extend(std::iter::repeat_n(now, grant.granted as usize));
            assert!(grant.granted > 0 || !grant.retry_in.is_zero());
            now += grant.retry_in.as_millis() as i64 + i64::from(grant.granted > 0);
        }
        assert_eq!(sent.iter().filter(|at| **at < START_MS + 1000).count(), 100, "the first are not held up");
        let total = sent.len();
        assert_eq!(most_in_a_span(sent, crm().per), 100);
        assert!(total >= 1500, "{total} of 1600 in four hours");
    }

    #[test]
    fn who_is_told_to_wait_gets_some_then_and_none_before() {
        let mut window = RateWindow::new(crm(), START_MS);
        assert_eq!(window.grant(START_MS, 200, 100).granted, 100);
        let asked_at = START_MS + 60_000;
        let wait = window.grant(asked_at, 1, 100).retry_in.as_millis() as i64;
        assert_eq!(window.clone().grant(asked_at + wait - 1, 1, 100).granted, 0);
        assert_eq!(window.grant(asked_at + wait, 1, 100).granted, 1);
    }

    #[test]
    fn backfill_leaves_live_traffic_its_share() {
        let mut window = RateWindow::new(crm(), START_MS);
        assert_eq!(window.grant(START_MS, 80, 50).granted, 50);
        assert_eq!(window.grant(START_MS, 1, 50).granted, 0);
        assert_eq!(window.grant(START_MS, 80, 100).granted, 50);
    }

    #[test]
    fn grants_outlive_a_clock_that_is_set_back_and_a_limit_that_is_changed() {
        let mut window = RateWindow::new(crm(), START_MS);
        window.grant(START_MS, 70, 100);
        let hour_before = START_MS - 3_600_000;
        assert_eq!(window.clone().grant(hour_before, 100, 100).granted, 30);

        let other = RateSpan { requests: 80, per: Duration::from_secs(60) };
        let granted: Vec<i32> = window.granted.iter().map(|granted| *granted as i32).collect();
        let mut changed = RateWindow::stored(other, START_MS, window.slot_ms, window.newest, &granted);
        assert_eq!(changed.grant(START_MS, 100, 80).granted, 10);
        let mut unknown = RateWindow::stored(other, START_MS, 1, 0, &[]);
        assert_eq!(unknown.grant(START_MS, 100, 80).granted, 80);
    }

    proptest! {
        /// Whenever workers ask, and whenever within its time they use what they got.
        #[test]
        fn no_span_ever_has_more_than_the_limit(
            requests in 1_u32..60,
            per_ms in 1_u64..5_000,
            asks in prop::collection::vec((0_i64..700, 1_u32..20, 0.0..1.0_f64), 1..400),
        ) {
            let span = RateSpan { requests, per: Duration::from_millis(per_ms) };
            let mut window = RateWindow::new(span, START_MS);
            let (mut now, mut sent) = (START_MS, Vec::new());
            for (pause_ms, wanted, patience) in asks {
                now += pause_ms;
                let grant = window.grant(now, wanted, requests);
                // It runs out at the end of its time: that moment is too late.
                let last = grant.valid_for.as_millis() as i64 - 1;
                let used_at = now + (last as f64 * patience).round() as i64;
                sent.extend(std::iter::repeat_n(used_at, grant.granted as usize));
            }
            prop_assert!(most_in_a_span(sent, span.per) <= requests as usize);
        }
    }
}
