use postbound_store::{Page, PageLimits, Store, StoreError, WindowBounds, within};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long reading may take; the bounds of a backlog of millions take seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// The window a stream is publishing: what its S2 sees and its S1 does not.
pub(crate) struct Window {
    pub(crate) snapshot: String,
    pub(crate) bounds: WindowBounds,
    /// Rows up to this id were read.
    pub(crate) read_id: i64,
    pub(crate) all_read: bool,
    pages: mpsc::Receiver<Result<Page, StoreError>>,
}

impl Window {
    /// Begins to read a window, one page ahead of its publishing; None when nothing is in it.
    pub(crate) async fn open(
        store: &Store,
        done: &str,
        snapshot: &str,
        after_id: i64,
        limits: PageLimits,
    ) -> Result<Option<Self>, StoreError> {
        let Some(bounds) = within(READ_TIMEOUT, store.window_bounds(done, snapshot)).await? else {
            return Ok(None);
        };
        let (sender, pages) = mpsc::channel(1);
        let after_id = after_id.max(bounds.first_id - 1);
        let reading =
            read(store.clone(), (done.to_owned(), snapshot.to_owned()), bounds, after_id, limits, sender);
        tokio::spawn(reading);
        Ok(Some(Self { snapshot: snapshot.to_owned(), bounds, read_id: after_id, all_read: false, pages }))
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

async fn read(
    store: Store,
    (done, snapshot): (String, String),
    bounds: WindowBounds,
    mut after_id: i64,
    limits: PageLimits,
    sender: mpsc::Sender<Result<Page, StoreError>>,
) {
    loop {
        let page =
            within(READ_TIMEOUT, store.window_page((&done, &snapshot), bounds, after_id, limits)).await;
        let go_on = page.as_ref().is_ok_and(|page| !page.is_last);
        after_id = page.as_ref().ok().and_then(|page| page.rows.last()).map_or(after_id, |row| row.id);
        // The stream that asked may be gone.
        if sender.send(page).await.is_err() || !go_on {
            return;
        }
    }
}
