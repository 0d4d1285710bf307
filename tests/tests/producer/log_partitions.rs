//! Partitions of the log come and go without a producer ever waiting for it.

use super::emit_update;
use postbound_store::{Dropping, LogPartition, Store};
use postbound_tests::{Role, TestDatabase, eventually, log_entries};
use sqlx::{AssertSqlSafe, Connection as _};
use std::time::Duration;
use tokio::time::timeout;

/// Far above what an emit or an attach takes, far below what waiting for the open transaction would: forever.
const PATIENCE: Duration = Duration::from_secs(15);

async fn partition_of_day(store: &Store, days_from_today: i32) -> Option<LogPartition> {
    let partitions = store.log_partitions().await.unwrap();
    partitions.into_iter().find(|partition| partition.days_from_today == days_from_today)
}

#[tokio::test]
async fn making_a_partition_waits_for_no_producer_and_no_producer_for_it() {
    let database = TestDatabase::new().await;
    let mut open = database.connect(Role::Producer).await;
    let mut open = open.begin().await.unwrap();
    emit_update(&mut open, "held").await;

    // The making transaction stays open as well: until it ends, it holds whatever locks it took.
    let mut relay = database.connect(Role::Relay).await;
    let mut making = relay.begin().await.unwrap();
    let made =
        sqlx::query_scalar("select postbound.ensure_log_partition((now() at time zone 'UTC')::date + 400)");
    let made: bool =
        timeout(PATIENCE, made.fetch_one(&mut *making)).await.expect("it waits for a producer").unwrap();
    assert!(made);
    let mut other = database.connect(Role::Producer).await;
    timeout(PATIENCE, emit_update(&mut other, "other")).await.expect("a producer waits for it");
    emit_update(&mut open, "held").await;
    making.commit().await.unwrap();

    timeout(PATIENCE, emit_update(&mut other, "other")).await.unwrap();
    open.commit().await.unwrap();
    assert_eq!(log_entries(database.superuser()).await.len(), 4);
    assert!(partition_of_day(&database.store(Role::Relay), 400).await.is_some());
}

#[tokio::test]
async fn the_relay_makes_the_days_ahead_once() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Relay);
    assert_eq!(store.create_log_partitions(20).await.unwrap(), 6);
    assert_eq!(store.create_log_partitions(20).await.unwrap(), 0);
    let days: Vec<_> =
        store.log_partitions().await.unwrap().iter().map(|partition| partition.days_from_today).collect();
    assert_eq!(days, (-1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn dropping_a_partition_waits_for_open_producers_while_others_proceed_and_ends_in_a_later_round() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Relay);
    let mut open = database.connect(Role::Producer).await;
    let mut open = open.begin().await.unwrap();
    emit_update(&mut open, "held").await;

    let yesterday = partition_of_day(&store, -1).await.unwrap();
    let dropping = tokio::spawn({
        let (store, yesterday) = (store.clone(), yesterday.clone());
        async move { store.drop_log_partition(&yesterday, Duration::from_secs(2)).await.unwrap() }
    });
    let mut other = database.connect(Role::Producer).await;
    let mut emitted = 0;
    while !dropping.is_finished() {
        timeout(PATIENCE, emit_update(&mut other, "other")).await.expect("a producer waits for the drop");
        emitted += 1;
    }
    assert!(emitted > 1);
    assert_eq!(dropping.await.unwrap(), Dropping::Pending, "the open producer may still see the partition");
    emit_update(&mut open, "held").await;
    open.commit().await.unwrap();

    let pending = partition_of_day(&store, -1).await.unwrap();
    assert!(pending.detach_pending);
    assert_eq!(store.drop_log_partition(&pending, PATIENCE).await.unwrap(), Dropping::Dropped);
    assert_eq!(partition_of_day(&store, -1).await, None);
    assert_eq!(store.detached_log_partitions().await.unwrap(), Vec::<String>::new());
    emit_update(&mut other, "other").await;
}

#[tokio::test]
async fn a_partition_is_read_once_every_stream_is_past_it() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Relay);
    let today = partition_of_day(&store, 0).await.unwrap();
    let yesterday = partition_of_day(&store, -1).await.unwrap();
    emit_update(&mut database.connect(Role::Producer).await, "u").await;
    assert!(store.is_log_partition_read(&yesterday).await.unwrap());
    assert!(!store.is_log_partition_read(&today).await.unwrap());
    until_read(&database, &today).await;
}

/// Moves all cursors until the partition is read. A transaction of any database that runs since before keeps the answer
/// at no: it is on the safe side.
async fn until_read(database: &TestDatabase, partition: &LogPartition) {
    let store = database.store(Role::Relay);
    eventually("the partition is read", PATIENCE, async || {
        sqlx::raw_sql("update postbound.stream_cursor set done_snapshot = pg_current_snapshot()")
            .execute(database.superuser())
            .await
            .unwrap();
        store.is_log_partition_read(partition).await.unwrap().then_some(())
    })
    .await;
}

/// A transaction that is still open has written to yesterday's partition, which every stream is past as far as anyone
/// can see; `end` commits it.
async fn check_late_write(leave_open: &str, end: &str) {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Relay);
    let yesterday = partition_of_day(&store, -1).await.unwrap();
    let mut late = database.superuser().acquire().await.unwrap();
    sqlx::raw_sql(
        "begin;
         insert into postbound.change_log (id, xid, logged_at, version, event_id, tenant_id, user_id, action, data)
         values (nextval('postbound.change_id'), pg_current_xact_id(), now() - interval '1 day', 1, gen_random_uuid(),
                 't', 'late', 'updated', '{}')",
    )
    .execute(&mut *late)
    .await
    .unwrap();
    sqlx::raw_sql(AssertSqlSafe(leave_open.to_owned())).execute(&mut *late).await.unwrap();
    assert!(store.is_log_partition_read(&yesterday).await.unwrap());
    let drop = async || store.drop_log_partition(&yesterday, PATIENCE).await.unwrap();
    assert_eq!(drop().await, Dropping::StillNeeded, "a transaction is open on it");
    let mut producer = database.connect(Role::Producer).await;
    emit_update(&mut producer, "other").await;
    sqlx::raw_sql(AssertSqlSafe(end.to_owned())).execute(&mut *late).await.unwrap();
    assert_eq!(drop().await, Dropping::StillNeeded, "no stream has read it");
    assert_eq!(log_entries(database.superuser()).await.len(), 2);
    until_read(&database, &yesterday).await;
    assert_eq!(drop().await, Dropping::Dropped);
}

#[tokio::test]
async fn a_partition_that_an_open_transaction_has_written_to_is_not_dropped() {
    check_late_write("select", "commit").await;
}

#[tokio::test]
async fn a_partition_that_a_prepared_transaction_has_written_to_is_not_dropped() {
    let name = uuid::Uuid::new_v4().simple();
    check_late_write(&format!("prepare transaction '{name}'"), &format!("commit prepared '{name}'")).await;
}

#[tokio::test]
async fn of_detached_partitions_the_relay_drops_its_own_and_leaves_those_detached_by_hand() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Relay);
    let yesterday = partition_of_day(&store, -1).await.unwrap();
    let today = partition_of_day(&store, 0).await.unwrap();
    let detach = |partition: &LogPartition, how: &str| {
        let table = &partition.table;
        AssertSqlSafe(format!("alter table postbound.change_log detach partition postbound.{table} {how}"))
    };
    sqlx::raw_sql(detach(&today, "")).execute(database.superuser()).await.unwrap();
    assert_eq!(store.detached_log_partitions().await.unwrap(), Vec::<String>::new());

    // The relay's own detaching is interrupted.
    let mut seeing = database.superuser().begin().await.unwrap();
    sqlx::raw_sql("select count(*) from postbound.change_log").execute(&mut *seeing).await.unwrap();
    let dropping = store.drop_log_partition(&yesterday, Duration::from_secs(1)).await.unwrap();
    assert_eq!(dropping, Dropping::Pending);
    seeing.rollback().await.unwrap();
    sqlx::raw_sql(detach(&yesterday, "finalize")).execute(database.superuser()).await.unwrap();
    assert_eq!(store.detached_log_partitions().await.unwrap(), std::slice::from_ref(&yesterday.table));
    assert_eq!(store.drop_detached_log_partition(&yesterday.table).await.unwrap(), Dropping::Dropped);
    assert_eq!(store.detached_log_partitions().await.unwrap(), Vec::<String>::new());
}
