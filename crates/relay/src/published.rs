use postbound_store::{LogRow, PublishedRow};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use uuid::Uuid;

/// Rows remembered of each stream: the last ones it took. What a database loses, it loses from the end.
const ROWS_PER_STREAM: usize = 8;

/// The last rows each stream took for publishing, and what was told of a halt, for as long as the process lives: over
/// sessions and leases.
#[derive(Clone, Default)]
pub(crate) struct Published(Arc<Mutex<Tails>>);

#[derive(Default)]
struct Tails {
    /// The history the rows are of; None: not known yet.
    lineage: Option<Uuid>,
    streams: HashMap<String, VecDeque<PublishedRow>>,
    version_max: i64,
    count: u64,
    halt_told: Option<String>,
}

impl Published {
    /// A stream is about to publish these rows.
    pub(crate) fn note<'a>(&self, stream: &str, rows: impl DoubleEndedIterator<Item = &'a LogRow> + Clone) {
        let mut tails = self.tails();
        let version = rows.clone().map(|row| row.version).max();
        let Some(version) = version else { return };
        tails.version_max = tails.version_max.max(version);
        tails.count += 1;
        if !tails.streams.contains_key(stream) {
            tails.streams.insert(stream.to_owned(), VecDeque::new());
        }
        let Some(tail) = tails.streams.get_mut(stream) else { return };
        let last: Vec<_> = rows.rev().take(ROWS_PER_STREAM).collect();
        for row in last.into_iter().rev() {
            if tail.len() == ROWS_PER_STREAM {
                tail.pop_front();
            }
            tail.push_back(PublishedRow { id: row.id, logged_at: row.logged_at, event_id: row.event_id });
        }
    }

    /// What is noted belongs to this history; what was noted of another one is forgotten.
    pub(crate) fn begin(&self, lineage: Uuid) {
        let mut tails = self.tails();
        if tails.lineage.is_some_and(|known| known != lineage) {
            tails.streams.clear();
        }
        tails.lineage = Some(lineage);
    }

    /// The rows, if they are of this history.
    pub(crate) fn rows_of(&self, lineage: Uuid) -> Vec<PublishedRow> {
        let of_another = self.tails().lineage.is_some_and(|known| known != lineage);
        if of_another { Vec::new() } else { self.rows() }
    }

    /// All rows.
    pub(crate) fn rows(&self) -> Vec<PublishedRow> {
        self.tails().streams.values().flatten().copied().collect()
    }

    /// The greatest version among all that was ever noted.
    pub(crate) fn version_max(&self) -> i64 {
        self.tails().version_max
    }

    /// Grows with what is noted.
    pub(crate) fn count(&self) -> u64 {
        self.tails().count
    }

    /// Why publishing is halted, or that it is not. True: it was not told before.
    pub(crate) fn is_news(&self, halt: Option<&str>) -> bool {
        let mut tails = self.tails();
        let is_news = tails.halt_told.as_deref() != halt;
        tails.halt_told = halt.map(str::to_owned);
        is_news
    }

    fn tails(&self) -> MutexGuard<'_, Tails> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
