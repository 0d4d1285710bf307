//! Partitions of the log come and go without a producer ever waiting for it.

use super::emit_update;
use postbound_store::{LogPartition, Store};
use postbound_tests::{Role, TestDatabase, eventually, log_entries};
use sqlx::Connection as _;
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
    assert!(!dropping.await.unwrap(), "the open producer may still see the partition");
    emit_update(&mut open, "held").await;
    open.commit().await.unwrap();

    let pending = partition_of_day(&store, -1).await.unwrap();
    assert!(pending.detach_pending);
    assert!(store.drop_log_partition(&pending, PATIENCE).await.unwrap());
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
    // A transaction of any database that runs since before keeps the answer at no: it is on the safe side.
    eventually("the partition is read", PATIENCE, async || {
        sqlx::raw_sql("update postbound.stream_cursor set done_snapshot = pg_current_snapshot()")
            .execute(database.superuser())
            .await
            .unwrap();
        store.is_log_partition_read(&today).await.unwrap().then_some(())
    })
    .await;
}
