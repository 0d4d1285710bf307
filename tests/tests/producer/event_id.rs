//! The producer's own event ids: written once, whoever repeats them.

use super::change;
use postbound_client::{Change, EmitError, Emitted, emit, emit_many};
use postbound_tests::{Role, TestDatabase, backend_pid, log_entries, register_targets, until_waiting};
use serde_json::json;
use sqlx::Connection as _;
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_00ff);

#[tokio::test]
async fn an_event_id_repeated_with_the_same_content_gives_the_first_answer_and_writes_nothing() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let given = change("u").data(&json!({"b": 1, "a": [2]})).unwrap().event_id(ID);
    let first = emit(&mut producer, &given).await.unwrap();
    assert_eq!(first, Emitted { event_id: ID, version: 1 });
    emit(&mut producer, &change("u")).await.unwrap();

    // Key order and white space are not content, nor is the trace context.
    let respelled = change("u").data(&json!({"a": [2], "b": 1})).unwrap().event_id(ID);
    for again in [given.clone(), respelled, given.traceparent(format!("00-{:032x}-{:016x}-01", 1, 1))] {
        assert_eq!(emit(&mut producer, &again).await.unwrap(), first);
        assert_eq!(emit_many(&mut producer, &[again.clone(), again]).await.unwrap(), [first, first]);
    }
    let by_view: (String, i64) = sqlx::query_as(
        r#"insert into postbound.outbox (tenant_id, user_id, action, data, event_id)
           values ('t', 'u', 'updated', '{"b":1,  "a":[2]}', $1) returning event_id, version"#,
    )
    .bind(ID)
    .fetch_one(&mut producer)
    .await
    .unwrap();
    assert_eq!(by_view, (ID.to_string(), 1));
    assert_eq!(log_entries(database.superuser()).await.len(), 2);
    assert_eq!(emit(&mut producer, &change("u")).await.unwrap().version, 3);
}

#[tokio::test]
async fn an_event_id_with_other_content_is_refused() {
    let database = TestDatabase::new().await;
    register_targets(database.superuser(), &["crm"]).await;
    let mut producer = database.connect(Role::Producer).await;
    emit(&mut producer, &change("u").event_id(ID)).await.unwrap();
    for other in [
        Change::updated("other", "u"),
        change("other"),
        Change::created("t", "u"),
        change("u").data(&json!({"a": 1})).unwrap(),
        change("u").origin("web"),
        change("u").targets(["crm"]),
        change("u").targets(Vec::<String>::new()),
    ] {
        let error = emit(&mut producer, &other.event_id(ID)).await.unwrap_err();
        assert!(matches!(error, EmitError::EventIdReused(_)), "{error:?}");
    }
    assert_eq!(log_entries(database.superuser()).await.len(), 1);
}

/// One transaction has emitted and is open; another emits and waits for it. Ends the first, gives the second's answer.
async fn raced(
    database: &TestDatabase,
    (first, second): (Change, Change),
    commit: bool,
) -> Result<Emitted, EmitError> {
    let mut first_producer = database.connect(Role::Producer).await;
    let mut second_producer = database.connect(Role::Producer).await;
    let pid = backend_pid(&mut second_producer).await;
    let mut open = first_producer.begin().await.unwrap();
    emit(&mut open, &first).await.unwrap();
    let waiting = tokio::spawn(async move { emit(&mut second_producer, &second).await });
    until_waiting(database.superuser(), pid).await;
    match commit {
        true => open.commit().await.unwrap(),
        false => open.rollback().await.unwrap(),
    }
    waiting.await.unwrap()
}

#[tokio::test]
async fn of_concurrent_duplicates_one_is_written_and_both_get_its_answer() {
    let database = TestDatabase::new().await;
    let given = change("u").event_id(ID);
    let answer = raced(&database, (given.clone(), given), true).await.unwrap();
    assert_eq!(answer, Emitted { event_id: ID, version: 1 });
    assert_eq!(log_entries(database.superuser()).await.len(), 1);
}

#[tokio::test]
async fn a_duplicate_of_a_change_that_rolls_back_is_written_itself() {
    let database = TestDatabase::new().await;
    let given = change("u").event_id(ID);
    let answer = raced(&database, (given.clone(), given), false).await.unwrap();
    assert_eq!(answer, Emitted { event_id: ID, version: 1 });
    assert_eq!(log_entries(database.superuser()).await.len(), 1);
}

#[tokio::test]
async fn an_event_id_in_use_for_another_user_at_the_same_time_is_refused() {
    let database = TestDatabase::new().await;
    let changes = (change("u").event_id(ID), change("other").event_id(ID));
    let error = raced(&database, changes.clone(), true).await.unwrap_err();
    let EmitError::EventIdReused(refusal) = error else { panic!("{error:?}") };
    assert_eq!(
        refusal.detail.as_deref(),
        Some("a concurrent transaction used the same event id for another user")
    );
    assert_eq!(log_entries(database.superuser()).await.len(), 1);

    // Had the first one rolled back, the id would have been free.
    let second = Uuid::from_u128(2);
    let changes = (changes.0.event_id(second), changes.1.event_id(second));
    assert_eq!(raced(&database, changes, false).await.unwrap().version, 1);
}
