use crate::window::{Window, WindowReader};
use postbound_store::{LogRow, News, PageLimits, StoreError};
use std::{collections::VecDeque, sync::Arc};
use time::OffsetDateTime;

/// Snapshots that are remembered at most.
const STEPS_MAX: usize = 256;

/// The newest snapshot, and what was committed in the moments before it: read once, for all streams that keep up.
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) snapshot: Arc<str>,
    server_started: OffsetDateTime,
    /// The way to the newest snapshot, without gap, oldest step first.
    steps: VecDeque<Arc<Step>>,
}

/// From one snapshot to the next.
#[derive(Debug)]
struct Step {
    since: Arc<str>,
    rows: Vec<LogRow>,
}

impl Recent {
    /// One step on. Of the steps before it those are kept that lead there, as far as they are within the limits.
    pub(crate) fn after(before: Option<&Self>, news: News, limits: PageLimits) -> Self {
        let before = before.filter(|before| before.server_started == news.server_started);
        let mut steps = VecDeque::new();
        if let (Some(before), Some(rows)) = (before, news.rows) {
            let newest = Arc::new(Step { since: Arc::clone(&before.snapshot), rows });
            let (mut rows_left, mut bytes_left) = (limits.rows, limits.data_bytes);
            for step in std::iter::once(&newest).chain(before.steps.iter().rev()).take(STEPS_MAX) {
                rows_left -= step.rows.len() as i64;
                bytes_left -= step.rows.iter().map(|row| row.data.len() as i64).sum::<i64>();
                if rows_left < 0 || bytes_left < 0 {
                    break;
                }
                steps.push_front(Arc::clone(step));
            }
        }
        Self { snapshot: news.snapshot.into(), server_started: news.server_started, steps }
    }

    /// What was committed between a stream's last snapshot and this one; None: nothing.
    pub(crate) async fn window(
        &self,
        reader: &WindowReader,
        done: &str,
    ) -> Result<Option<Window>, StoreError> {
        if *self.snapshot == *done {
            return Ok(None);
        }
        match self.rows_since(done) {
            Some(rows) => Ok(Window::of(&self.snapshot, rows, self.server_started)),
            None => Window::open(reader, done, &self.snapshot, 0).await,
        }
    }

    /// The rows since a snapshot, in their order; None: it is not among those remembered.
    fn rows_since(&self, done: &str) -> Option<Vec<LogRow>> {
        // A stream that keeps up is at one of the last.
        let place = self.steps.iter().rposition(|step| *step.since == *done)?;
        let mut rows: Vec<LogRow> =
            self.steps.range(place..).flat_map(|step| step.rows.iter().cloned()).collect();
        rows.sort_unstable_by_key(|row| row.id);
        Some(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const LIMITS: PageLimits = PageLimits { rows: 3, data_bytes: 100 };

    fn row(id: i64) -> LogRow {
        LogRow {
            id,
            logged_at: OffsetDateTime::UNIX_EPOCH,
            version: 1,
            event_id: Uuid::nil(),
            tenant_id: "t".into(),
            user_id: "u".into(),
            action: "updated".into(),
            origin: None,
            targets: None,
            traceparent: None,
            data: "{}".into(),
            awaits_state: false,
        }
    }

    /// Steps from a first snapshot "0" on: to which snapshot, and what came with it.
    fn walk(steps: &[(&str, Option<&[i64]>)]) -> Recent {
        let news = |snapshot: &str, ids: Option<&[i64]>| News {
            snapshot: snapshot.to_owned(),
            server_started: OffsetDateTime::UNIX_EPOCH,
            rows: ids.map(|ids| ids.iter().copied().map(row).collect()),
        };
        let first = Recent::after(None, news("0", None), LIMITS);
        steps.iter().fold(first, |before, (to, ids)| Recent::after(Some(&before), news(to, *ids), LIMITS))
    }

    #[track_caller]
    fn check(recent: &Recent, done: &str, expected: Option<&[i64]>) {
        let ids = recent.rows_since(done).map(|rows| rows.iter().map(|row| row.id).collect::<Vec<_>>());
        assert_eq!(ids.as_deref(), expected, "since {done}");
    }

    #[test]
    fn a_stream_that_missed_steps_has_their_rows_in_order() {
        let recent = walk(&[("1", Some(&[7])), ("2", Some(&[])), ("3", Some(&[5, 8]))]);
        check(&recent, "0", Some(&[5, 7, 8]));
        check(&recent, "1", Some(&[5, 8]));
        check(&recent, "2", Some(&[5, 8]));
        check(&recent, "never seen", None);
    }

    #[test]
    fn what_is_more_than_a_page_is_forgotten_oldest_first() {
        let recent = walk(&[("1", Some(&[1, 2])), ("2", Some(&[3])), ("3", Some(&[4, 5]))]);
        check(&recent, "0", None);
        check(&recent, "1", Some(&[3, 4, 5]));
    }

    #[test]
    fn a_step_whose_rows_are_not_known_cannot_be_skipped() {
        let recent = walk(&[("1", Some(&[1])), ("2", None), ("3", Some(&[2]))]);
        check(&recent, "1", None);
        check(&recent, "2", Some(&[2]));
    }

    #[test]
    fn nothing_leads_from_one_server_s_snapshot_to_another_s() {
        let before = walk(&[("1", Some(&[1]))]);
        let started = OffsetDateTime::UNIX_EPOCH + time::Duration::SECOND;
        let news = News { snapshot: "2".into(), server_started: started, rows: Some(vec![row(2)]) };
        check(&Recent::after(Some(&before), news, LIMITS), "1", None);
    }
}
