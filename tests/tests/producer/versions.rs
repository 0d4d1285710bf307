//! Versions only grow, and only with what commits.

use super::{change, emit_update};
use postbound_client::{Change, EmitError, emit, lock_user};
use postbound_tests::{Role, TestDatabase, log_entries};
use sqlx::Connection as _;

async fn version_of(producer: &mut sqlx::PgConnection, change: Change) -> i64 {
    emit(producer, &change).await.unwrap().version
}

#[tokio::test]
async fn versions_grow_over_delete_and_re_creation() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    assert_eq!(version_of(&mut producer, Change::created("t", "u")).await, 1);
    assert_eq!(version_of(&mut producer, change("u")).await, 2);
    assert_eq!(version_of(&mut producer, Change::deleted("t", "u")).await, 3);
    assert!(matches!(emit(&mut producer, &change("u")).await, Err(EmitError::UserDeleted(_))));
    assert_eq!(version_of(&mut producer, Change::deleted("t", "u")).await, 4);
    assert_eq!(version_of(&mut producer, Change::created("t", "u")).await, 5);
    assert_eq!(version_of(&mut producer, Change::created("t", "u")).await, 6);
    assert_eq!(version_of(&mut producer, change("u")).await, 7);
    let versions: Vec<_> =
        log_entries(database.superuser()).await.iter().map(|entry| entry.version).collect();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn an_update_of_a_user_never_seen_is_accepted() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    assert_eq!(version_of(&mut producer, change("imported")).await, 1);
    assert_eq!(version_of(&mut producer, Change::deleted("t", "unknown")).await, 1);
}

#[tokio::test]
async fn users_of_the_same_id_in_two_tenants_have_versions_of_their_own() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    assert_eq!(version_of(&mut producer, Change::deleted("a", "u")).await, 1);
    assert_eq!(version_of(&mut producer, Change::updated("b", "u")).await, 1);
}

#[tokio::test]
async fn a_rolled_back_change_leaves_no_trace() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let id = uuid::Uuid::from_u128(9);
    let mut tx = producer.begin().await.unwrap();
    version_of(&mut tx, change("u").event_id(id)).await;
    version_of(&mut tx, Change::deleted("t", "u")).await;
    tx.rollback().await.unwrap();

    assert_eq!(log_entries(database.superuser()).await, []);
    let traces: i64 = sqlx::query_scalar(
        "select (select count(*) from postbound.user_head) + (select count(*) from postbound.event_key)",
    )
    .fetch_one(database.superuser())
    .await
    .unwrap();
    assert_eq!(traces, 0);
    assert_eq!(version_of(&mut producer, change("u").event_id(id)).await, 1);
}

#[tokio::test]
async fn a_rolled_back_savepoint_takes_back_its_changes_alone() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let mut tx = producer.begin().await.unwrap();
    assert_eq!(emit_update(&mut tx, "u").await.version, 1);
    let mut savepoint = tx.begin().await.unwrap();
    assert_eq!(emit_update(&mut savepoint, "u").await.version, 2);
    assert_eq!(emit_update(&mut savepoint, "other").await.version, 1);
    savepoint.rollback().await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    assert_eq!(emit_update(&mut savepoint, "u").await.version, 2);
    savepoint.commit().await.unwrap();
    // A refusal, too, costs no more than its savepoint.
    let mut savepoint = tx.begin().await.unwrap();
    assert!(emit(&mut savepoint, &change("")).await.is_err());
    savepoint.rollback().await.unwrap();
    assert_eq!(lock_user(&mut tx, "t", "u").await.unwrap(), 2);
    tx.commit().await.unwrap();

    let log = log_entries(database.superuser()).await;
    let written: Vec<_> = log.iter().map(|entry| (entry.user_id.as_str(), entry.version)).collect();
    assert_eq!(written, [("u", 1), ("u", 2)]);
}
