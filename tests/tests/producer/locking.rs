//! Callers that change several users, and callers that read before they write.

use super::{change, emit_update};
use postbound_client::{EmitError, emit, emit_many, lock_user};
use postbound_tests::{Role, TestDatabase, backend_pid, log_entries, until_waiting};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

async fn emit_one_by_one(producer: &mut PgConnection, users: [&str; 2]) -> Result<(), EmitError> {
    let mut tx = producer.begin().await?;
    for user in users {
        emit(&mut tx, &change(user)).await?;
    }
    Ok(tx.commit().await?)
}

#[tokio::test]
async fn two_transactions_that_take_users_in_opposite_order_deadlock_and_the_loser_can_be_retried() {
    let database = TestDatabase::new().await;
    let mut forward = database.connect(Role::Producer).await;
    let mut backward = database.connect(Role::Producer).await;
    let pid = backend_pid(&mut forward).await;
    let mut tx = backward.begin().await.unwrap();
    emit_update(&mut tx, "b").await;
    let forward = tokio::spawn(async move {
        let end = emit_one_by_one(&mut forward, ["a", "b"]).await;
        (end, forward)
    });
    until_waiting(database.superuser(), pid).await;
    let backward_end = match emit(&mut tx, &change("a")).await {
        Ok(_) => tx.commit().await.map_err(EmitError::from),
        Err(error) => tx.rollback().await.map_err(EmitError::from).and(Err(error)),
    };
    let (forward_end, mut forward) = forward.await.unwrap();

    let (loser, error, users) = match (forward_end, backward_end) {
        (Err(error), Ok(())) => (&mut forward, error, ["a", "b"]),
        (Ok(()), Err(error)) => (&mut backward, error, ["b", "a"]),
        ends => panic!("{ends:?}"),
    };
    assert!(matches!(error, EmitError::Deadlock(_)) && error.is_retryable(), "{error:?}");
    emit_one_by_one(loser, users).await.unwrap();
    let mut written: Vec<_> = log_entries(database.superuser())
        .await
        .into_iter()
        .map(|entry| (entry.user_id, entry.version))
        .collect();
    written.sort();
    assert_eq!(written, [("a".into(), 1), ("a".into(), 2), ("b".into(), 1), ("b".into(), 2)]);
}

#[tokio::test]
async fn the_same_users_through_emit_many_never_deadlock_in_whatever_order_they_are_given() {
    const CALLERS: u64 = 8;
    const ROUNDS: usize = 30;
    let database = TestDatabase::new().await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|seed| {
            let pool = database.pool(Role::Producer, 1);
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                let mut changes: Vec<_> = ["a", "B", "b", "é", "z", "_"].map(change).to_vec();
                for _ in 0..ROUNDS {
                    changes.shuffle(&mut random);
                    let mut tx = pool.begin().await.unwrap();
                    emit_many(&mut tx, &changes).await.unwrap();
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let log = log_entries(database.superuser()).await;
    let newest = i64::try_from(ROUNDS).unwrap() * i64::try_from(CALLERS).unwrap();
    assert_eq!(log.iter().filter(|entry| entry.version == newest).count(), 6);
}

#[tokio::test]
async fn with_lock_user_held_before_the_read_the_newest_version_holds_the_newest_state() {
    const CALLERS: i64 = 8;
    const ROUNDS: i64 = 15;
    let database = TestDatabase::new().await;
    // No row lock of the caller's own: the state could as well be kept outside of Postgres.
    sqlx::raw_sql("create table state (n bigint); grant select, insert on state to postbound_producer; insert into state values (0)")
        .execute(database.superuser())
        .await
        .unwrap();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let pool = database.pool(Role::Producer, 1);
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    let mut tx = pool.begin().await.unwrap();
                    let version = lock_user(&mut tx, "t", "u").await.unwrap();
                    let read: i64 =
                        sqlx::query_scalar("select max(n) from state").fetch_one(&mut *tx).await.unwrap();
                    assert_eq!(read, version);
                    sqlx::query("insert into state values ($1)")
                        .bind(read + 1)
                        .execute(&mut *tx)
                        .await
                        .unwrap();
                    let state = change("u").data(&json!({"n": read + 1})).unwrap();
                    assert_eq!(emit(&mut tx, &state).await.unwrap().version, version + 1);
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let log = log_entries(database.superuser()).await;
    assert_eq!(i64::try_from(log.len()).unwrap(), CALLERS * ROUNDS);
    assert!(log.iter().all(|entry| entry.data == json!({"n": entry.version})));
}

#[tokio::test]
async fn lock_user_makes_the_next_change_of_the_user_wait_and_no_one_elses() {
    let database = TestDatabase::new().await;
    let mut holder = database.connect(Role::Producer).await;
    let mut other = database.connect(Role::Producer).await;
    let pid = backend_pid(&mut other).await;
    let mut tx = holder.begin().await.unwrap();
    assert_eq!(lock_user(&mut tx, "t", "u").await.unwrap(), 0);
    assert_eq!(emit_update(&mut other, "someone-else").await.version, 1);
    let waiting = tokio::spawn(async move { emit_update(&mut other, "u").await });
    until_waiting(database.superuser(), pid).await;
    assert_eq!(emit_update(&mut tx, "u").await.version, 1);
    tx.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap().version, 2);
}

#[tokio::test]
async fn under_repeatable_read_a_user_changed_meanwhile_is_a_retryable_serialization_failure() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let mut other = database.connect(Role::Producer).await;
    emit_update(&mut other, "u").await;
    for isolation in ["repeatable read", "serializable"] {
        let mut tx = producer
            .begin_with(sqlx::AssertSqlSafe(format!("begin isolation level {isolation}")))
            .await
            .unwrap();
        sqlx::raw_sql("select 1").execute(&mut *tx).await.unwrap();
        emit_update(&mut other, "u").await;
        let error = emit(&mut tx, &change("u")).await.unwrap_err();
        assert!(matches!(error, EmitError::Serialization(_)) && error.is_retryable(), "{error:?}");
        tx.rollback().await.unwrap();
        assert!(lock_user(&mut producer, "t", "u").await.unwrap() > 1);
    }
}
