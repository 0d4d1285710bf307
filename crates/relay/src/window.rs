use crate::last_states::LastStates;
use postbound_store::{LogRow, Page, PageLimits, Store, StoreError, WindowBounds, within};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

/// How long reading may take; the bounds of a backlog of millions take seconds.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Pauses between reads of a page that awaits the projection.
const REREAD_FIRST: Duration = Duration::from_millis(20);
const REREAD_MAX: Duration = Duration::from_millis(200);

/// The window a stream is publishing: what its S2 sees and its S1 does not.
pub(crate) struct Window {
    pub(crate) snapshot: String,
    pub(crate) bounds: WindowBounds,
    /// Rows up to this id were read.
    pub(crate) read_id: i64,
    pub(crate) all_read: bool,
    pages: mpsc::Receiver<Result<Page, StoreError>>,
}

/// How a stream reads windows.
#[derive(Clone)]
pub(crate) struct WindowReader {
    pub(crate) store: Store,
    pub(crate) limits: PageLimits,
    pub(crate) last_states: Arc<LastStates>,
}

/// The reading of one window.
struct Reading {
    reader: WindowReader,
    done: String,
    snapshot: String,
    bounds: WindowBounds,
    sender: mpsc::Sender<Result<Page, StoreError>>,
}

impl Window {
    /// Begins to read a window, one page ahead of its publishing; None when nothing is in it.
    pub(crate) async fn open(
        reader: &WindowReader,
        done: &str,
        snapshot: &str,
        after_id: i64,
    ) -> Result<Option<Self>, StoreError> {
        let Some(bounds) = within(READ_TIMEOUT, reader.store.window_bounds(done, snapshot)).await? else {
            return Ok(None);
        };
        let (sender, pages) = mpsc::channel(1);
        let after_id = after_id.max(bounds.first_id - 1);
        let (reader, done) = (reader.clone(), done.to_owned());
        let reading = Reading { reader, done, snapshot: snapshot.to_owned(), bounds, sender };
        tokio::spawn(reading.run(after_id));
        Ok(Some(Self { snapshot: snapshot.to_owned(), bounds, read_id: after_id, all_read: false, pages }))
    }

    /// A window whose rows are known already; there has to be one.
    pub(crate) fn of(snapshot: &str, rows: Vec<LogRow>, server_started: OffsetDateTime) -> Option<Self> {
        let (first_id, last_id) = (rows.first()?.id, rows.last()?.id);
        let (sender, pages) = mpsc::channel(1);
        let page = Page { rows, is_last: true, server_started: Some(server_started) };
        // There is room for one.
        let _ = sender.try_send(Ok(page));
        let bounds = WindowBounds { first_id, fresh_first_id: first_id, last_id };
        Some(Self { snapshot: snapshot.to_owned(), bounds, read_id: first_id - 1, all_read: false, pages })
    }

    /// The next page. Safe to drop and call again.
    pub(crate) async fn next_page(&mut self) -> Result<Page, StoreError> {
        let ended = || Err(StoreError::Unexpected("the reader of the window ended early".to_owned()));
        let page = self.pages.recv().await.unwrap_or_else(ended)?;
        if let Some(last) = page.rows.last() {
            self.read_id = last.id;
        }
        self.all_read = page.is_last;
        Ok(page)
    }
}

impl Reading {
    async fn run(self, mut after_id: i64) {
        loop {
            let page = self.page(after_id).await;
            let go_on = page.as_ref().is_ok_and(|page| !page.is_last);
            after_id = page.as_ref().ok().and_then(|page| page.rows.last()).map_or(after_id, |row| row.id);
            // The stream that asked may be gone.
            if self.sender.send(page).await.is_err() || !go_on {
                return;
            }
        }
    }

    /// The next page; it ends before a row that awaits the projection. One that begins with such a row is read again
    /// after a while, as long as that is worth it.
    async fn page(&self, after_id: i64) -> Result<Page, StoreError> {
        let WindowReader { store, limits, last_states } = &self.reader;
        let (since, mut pause) = (Instant::now(), REREAD_FIRST);
        loop {
            let window = (self.done.as_str(), self.snapshot.as_str());
            let page = store.window_page(window, self.bounds, after_id, *limits);
            let mut page = within(READ_TIMEOUT, page).await?;
            match last_states.first_awaiting(&page.rows) {
                None => return Ok(page),
                Some(0) if !last_states.is_worth_waiting(since) => return Ok(page),
                Some(0) => {}
                Some(place) => {
                    page.rows.truncate(place);
                    page.is_last = false;
                    return Ok(page);
                }
            }
            tokio::select! {
                // Nobody waits for the page any more.
                () = self.sender.closed() => return Ok(page),
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(REREAD_MAX);
        }
    }
}
