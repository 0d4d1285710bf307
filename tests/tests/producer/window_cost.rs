//! What the relay's queries read: what is new, never the history.

use super::{emit_update, windows::BEFORE_ALL};
use postbound_store::{PageLimits, Store, WindowBounds};
use postbound_tests::{Role, TestDatabase, eventually};
use sqlx::PgPool;
use std::time::Duration;

const HISTORY: i64 = 50_000;
const NEW: i64 = 20;
const RUNS: i64 = 10;

/// Rows read from the log's partitions so far, by the server's own count.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct RowsRead {
    by_seq_scan: i64,
    by_index: i64,
}

async fn rows_read(superuser: &PgPool) -> RowsRead {
    // A session that ended has delivered its counts.
    eventually("the relay's sessions are gone", Duration::from_secs(20), async || {
        let left: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and usename = $1",
        )
        .bind(Role::Relay.login())
        .fetch_one(superuser)
        .await
        .unwrap();
        (left == 0).then_some(())
    })
    .await;
    sqlx::query_as(
        "select (select sum(seq_tup_read)::bigint from pg_stat_user_tables where relname like 'change\\_log\\_%') as by_seq_scan,
                (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname like 'change\\_log\\_%') as by_index",
    )
    .fetch_one(superuser)
    .await
    .unwrap()
}

async fn fill_history(superuser: &PgPool) {
    for _ in 0..50 {
        sqlx::query(
            "insert into postbound.change_log (id, xid, logged_at, version, event_id, tenant_id, user_id, action, data)
             select nextval('postbound.change_id'), pg_current_xact_id(), clock_timestamp(), 1, gen_random_uuid(), 't',
                    'user-' || n, 'updated', jsonb_build_object('email', n || '@example.com')
             from generate_series(1, $1) as n",
        )
        .bind(HISTORY / 50)
        .execute(superuser)
        .await
        .unwrap();
    }
}

async fn snapshot(superuser: &PgPool) -> String {
    sqlx::query_scalar("select pg_current_snapshot()::text").fetch_one(superuser).await.unwrap()
}

/// Runs a read often enough for Postgres to settle on a generic plan, and gives the rows read by each run.
async fn cost(database: &TestDatabase, read: impl AsyncFn(&Store)) -> i64 {
    let before = rows_read(database.superuser()).await;
    let store = database.store(Role::Relay);
    for _ in 0..RUNS {
        read(&store).await;
    }
    store.pool().close().await;
    let after = rows_read(database.superuser()).await;
    assert_eq!(after.by_seq_scan, before.by_seq_scan, "rows read by sequential scans");
    (after.by_index - before.by_index) / RUNS
}

async fn check_costs(database: &TestDatabase, s1: &str, s2: &str, when: &str) {
    let bounds = cost(database, async |store| {
        let bounds = store.window_bounds(s1, s2).await.unwrap().unwrap();
        assert_eq!(bounds.last_id - bounds.first_id, NEW - 1);
    })
    .await;
    assert!(bounds <= 2 * NEW, "{when}: the bounds read {bounds} rows");

    let none =
        cost(database, async |store| assert_eq!(store.window_bounds(s2, s2).await.unwrap(), None)).await;
    assert!(none <= 2, "{when}: an empty window reads {none} rows");

    let news = cost(database, async |store| {
        let limits = PageLimits { rows: 1000, data_bytes: 1 << 20 };
        let news = store.news(Some(s1), limits).await.unwrap();
        assert_eq!(news.rows.unwrap().len(), NEW as usize);
    })
    .await;
    assert!(news <= 2 * NEW, "{when}: news read {news} rows");

    let found = WindowBounds { first_id: HISTORY + 1, fresh_first_id: HISTORY + 1, last_id: HISTORY + NEW };
    let limits = PageLimits { rows: 1000, data_bytes: 1 << 20 };
    let page = cost(database, async |store| {
        let page = store.window_page((s1, s2), found, 0, limits).await.unwrap();
        assert!(page.is_last && page.rows.len() == NEW as usize);
    })
    .await;
    assert!(page <= 3 * NEW, "{when}: a small page reads {page} rows");

    let everything = WindowBounds { first_id: 1, fresh_first_id: 1, last_id: HISTORY + NEW };
    for rows in [100, 2000] {
        let limits = PageLimits { rows, data_bytes: 1 << 20 };
        let page = cost(database, async |store| {
            let page = store.window_page((BEFORE_ALL, s2), everything, HISTORY / 4, limits).await.unwrap();
            assert_eq!((page.rows.len() as i64, page.rows[0].id), (rows, HISTORY / 4 + 1));
        })
        .await;
        assert!(page <= 3 * rows, "{when}: a page of {rows} in the middle of a backlog reads {page} rows");
    }
}

/// A log of which Postgres has statistics from when it was empty, or has never had any.
async fn check_log(analyzed_at_first: bool) {
    let database = TestDatabase::new().await;
    let superuser = database.superuser();
    if analyzed_at_first {
        sqlx::raw_sql("analyze postbound.change_log").execute(superuser).await.unwrap();
    }
    fill_history(superuser).await;
    // News are gone through from the oldest running transaction on, and other tests' databases have some too.
    let s1 = eventually("nothing is running", Duration::from_secs(60), async || {
        let s1 = snapshot(superuser).await;
        let (xmin, rest) = s1.split_once(':').unwrap();
        rest.starts_with(&format!("{xmin}:")).then_some(s1.clone())
    })
    .await;
    let mut producer = database.connect(Role::Producer).await;
    for n in 0..NEW {
        emit_update(&mut producer, &format!("user-{n}")).await;
    }
    let s2 = snapshot(superuser).await;
    check_costs(&database, &s1, &s2, "with stale statistics or none").await;
    sqlx::raw_sql("vacuum analyze postbound.change_log").execute(superuser).await.unwrap();
    check_costs(&database, &s1, &s2, "with fresh statistics").await;
}

#[tokio::test]
async fn windows_and_pages_read_what_is_new_by_index_and_nothing_of_the_history() {
    check_log(true).await;
}

#[tokio::test]
async fn windows_and_pages_of_a_log_nobody_has_analyzed_read_what_is_new_and_nothing_of_the_history() {
    check_log(false).await;
}
