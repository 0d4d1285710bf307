//! The relay's windows between snapshots: the interleavings at which outbox readers lose rows.

use super::emit_update;
use postbound_store::{LogRow, PageLimits, Store};
use postbound_tests::{Role, TestDatabase};
use sqlx::{Connection as _, PgConnection};

/// The snapshot that sees nothing.
pub(super) const BEFORE_ALL: &str = "1:1:";

/// Reads the log as the relay does: window after window, each to its end.
pub(super) struct Reader {
    store: Store,
    done: String,
}

/// A row as read: id, user, version.
pub(super) type Read = (i64, String, i64);

impl Reader {
    pub(super) fn new(database: &TestDatabase) -> Self {
        Self { store: database.store(Role::Relay), done: BEFORE_ALL.to_owned() }
    }

    /// The window from the last snapshot to one taken now, in pages of three rows. The news since the last are the same
    /// rows.
    pub(super) async fn next_window(&mut self) -> Vec<Read> {
        let limits = PageLimits { rows: 10_000, data_bytes: 1 << 24 };
        let news = self.store.news(Some(&self.done), limits).await.unwrap();
        let read = self.window(&news.snapshot).await;
        let told = news.rows.map(|rows| rows.into_iter().map(as_read).collect::<Vec<_>>());
        assert_eq!(told.as_ref(), Some(&read), "from {} to {}", self.done, news.snapshot);
        self.done = news.snapshot;
        read
    }

    async fn window(&self, until: &str) -> Vec<Read> {
        let window = (self.done.as_str(), until);
        let Some(bounds) = self.store.window_bounds(window.0, window.1).await.unwrap() else {
            return Vec::new();
        };
        let limits = PageLimits { rows: 3, data_bytes: 1 << 20 };
        let mut read: Vec<Read> = Vec::new();
        loop {
            let after_id = read.last().map_or(0, |row| row.0);
            let page = self.store.window_page(window, bounds, after_id, limits).await.unwrap();
            read.extend(page.rows.into_iter().map(as_read));
            if page.is_last {
                break;
            }
        }
        assert!(read.is_sorted_by(|one, next| one.0 < next.0), "{read:?}");
        assert_eq!((read[0].0, read[read.len() - 1].0), (bounds.first_id, bounds.last_id));
        read
    }
}

fn as_read(row: LogRow) -> Read {
    (row.id, row.user_id, row.version)
}

fn users(read: &[Read]) -> Vec<&str> {
    read.iter().map(|row| row.1.as_str()).collect()
}

#[tokio::test]
async fn a_change_that_drew_its_id_before_the_snapshot_and_commits_after_it_is_in_the_next_window() {
    let database = TestDatabase::new().await;
    let mut reader = Reader::new(&database);
    let (mut slow, mut quick) =
        (database.connect(Role::Producer).await, database.connect(Role::Producer).await);
    let mut open = slow.begin().await.unwrap();
    emit_update(&mut open, "slow").await;
    emit_update(&mut quick, "quick").await;
    assert_eq!(users(&reader.next_window().await), ["quick"]);
    open.commit().await.unwrap();
    emit_update(&mut quick, "after").await;
    assert_eq!(users(&reader.next_window().await), ["slow", "after"]);
    assert_eq!(users(&reader.next_window().await), [""; 0]);
}

#[tokio::test]
async fn a_straggler_running_over_several_windows_holds_none_of_them_up_and_comes_with_the_first_that_sees_it()
 {
    let database = TestDatabase::new().await;
    let mut reader = Reader::new(&database);
    let (mut slow, mut quick) =
        (database.connect(Role::Producer).await, database.connect(Role::Producer).await);
    let mut open = slow.begin().await.unwrap();
    emit_update(&mut open, "first").await;
    for _ in 0..5 {
        emit_update(&mut quick, "quick").await;
        assert_eq!(users(&reader.next_window().await), ["quick"]);
        emit_update(&mut open, "later").await;
        assert_eq!(users(&reader.next_window().await), [""; 0]);
    }
    open.commit().await.unwrap();
    let read = reader.next_window().await;
    assert_eq!(users(&read), ["first", "later", "later", "later", "later", "later"]);
    assert_eq!(read.iter().map(|row| row.2).collect::<Vec<_>>(), [1, 1, 2, 3, 4, 5]);
    assert_eq!(users(&reader.next_window().await), [""; 0]);
}

#[tokio::test]
async fn a_straggler_that_rolls_back_is_in_no_window() {
    let database = TestDatabase::new().await;
    let mut reader = Reader::new(&database);
    let (mut slow, mut quick) =
        (database.connect(Role::Producer).await, database.connect(Role::Producer).await);
    let mut open = slow.begin().await.unwrap();
    emit_update(&mut open, "slow").await;
    emit_update(&mut quick, "quick").await;
    assert_eq!(users(&reader.next_window().await), ["quick"]);
    open.rollback().await.unwrap();
    assert_eq!(users(&reader.next_window().await), [""; 0]);
}

/// Whether the open transaction's xid is not even below the snapshot's xmax: it runs, and the snapshot does not list it.
async fn is_beyond(open: &mut PgConnection, snapshot: &str) -> bool {
    sqlx::query_scalar("select pg_current_xact_id() >= pg_snapshot_xmax($1::pg_snapshot)")
        .bind(snapshot)
        .fetch_one(open)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_running_transaction_that_the_snapshot_does_not_even_list_is_in_the_next_window() {
    let database = TestDatabase::new().await;
    let (mut one, mut two) = (database.connect(Role::Producer).await, database.connect(Role::Producer).await);
    // Other databases' transactions may end in between and lift xmax; then it is tried again.
    for attempt in 0..500 {
        let mut reader = Reader::new(&database);
        reader.done = reader.store.news(None, PageLimits { rows: 0, data_bytes: 0 }).await.unwrap().snapshot;
        let (mut earlier, mut later) = (one.begin().await.unwrap(), two.begin().await.unwrap());
        emit_update(&mut earlier, "earlier").await;
        emit_update(&mut later, "later").await;
        assert_eq!(users(&reader.next_window().await), [""; 0]);
        let met = is_beyond(&mut earlier, &reader.done).await;
        // The later one ends first: the next snapshot has an xmax beyond both and lists the earlier one.
        later.commit().await.unwrap();
        assert_eq!(users(&reader.next_window().await), ["later"]);
        earlier.commit().await.unwrap();
        assert_eq!(users(&reader.next_window().await), ["earlier"]);
        assert_eq!(users(&reader.next_window().await), [""; 0]);
        if met {
            return;
        }
        assert!(attempt < 499, "never met");
    }
}

#[tokio::test]
async fn subtransactions_are_read_with_the_transaction_they_belong_to() {
    let database = TestDatabase::new().await;
    let mut reader = Reader::new(&database);
    let (mut slow, mut quick) =
        (database.connect(Role::Producer).await, database.connect(Role::Producer).await);
    let mut open = slow.begin().await.unwrap();
    let mut savepoint = open.begin().await.unwrap();
    emit_update(&mut savepoint, "kept").await;
    savepoint.commit().await.unwrap();
    let mut savepoint = open.begin().await.unwrap();
    emit_update(&mut savepoint, "taken back").await;
    savepoint.rollback().await.unwrap();
    emit_update(&mut quick, "quick").await;
    assert_eq!(users(&reader.next_window().await), ["quick"]);
    open.commit().await.unwrap();
    assert_eq!(users(&reader.next_window().await), ["kept"]);
}
