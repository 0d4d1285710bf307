//! How large a change may be, and how the client tells one refusal from another.

use super::sqlstate;
use postbound_client::{Change, EmitError, emit, emit_many};
use postbound_tests::{Role, TestDatabase};
use serde_json::json;

#[tokio::test]
async fn the_largest_data_and_the_longest_ids_are_accepted() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let longest = "x".repeat(256);
    let change = Change::updated(&longest, &longest)
        .origin(&longest)
        .data(&json!({"a": "x".repeat(262_135)}))
        .unwrap();
    assert_eq!(emit(&mut producer, &change).await.unwrap().version, 1);
    let size: i32 = sqlx::query_scalar("select octet_length(data::text) from postbound.change_log")
        .fetch_one(database.superuser())
        .await
        .unwrap();
    assert_eq!(size, 262_144);
}

#[tokio::test]
async fn data_is_measured_as_the_text_that_travels_not_as_it_is_stored() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    sqlx::raw_sql(
        "create temporary table stored (data jsonb);
         insert into stored values (jsonb_build_object('compresses', repeat('x', 1000000)));
         insert into stored values ('{\"a\": 1e100000, \"b\": 1e100000, \"c\": 1e100000}')",
    )
    .execute(&mut producer)
    .await
    .unwrap();
    for least in [0, 500_000] {
        let error = sqlx::query(
            "select postbound.emit('t', 'u', 'updated', data) from stored where octet_length(data::text) > $1",
        )
        .bind(least)
        .execute(&mut producer)
        .await
        .unwrap_err();
        assert_eq!(sqlstate(&error), "PB006");
    }
}

#[tokio::test]
async fn the_client_has_a_variant_for_every_code() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let id = uuid::Uuid::from_u128(7);
    emit(&mut producer, &Change::deleted("t", "gone")).await.unwrap();
    emit(&mut producer, &Change::updated("t", "other").event_id(id)).await.unwrap();
    let update = || Change::updated("t", "u");
    let mut check = async |change: Change, is_it: fn(&EmitError) -> bool| {
        let error = emit(&mut producer, &change).await.unwrap_err();
        assert!(is_it(&error), "{error:?}");
        assert!(!error.is_retryable() && error.refusal().is_some_and(|refusal| refusal.hint.is_some()));
        let error = emit_many(&mut producer, &[update(), change]).await.unwrap_err();
        assert!(is_it(&error) && error.refusal().unwrap().message.starts_with("change 2: "), "{error:?}");
    };
    check(Change::updated("t", ""), |e| matches!(e, EmitError::EmptyId(_))).await;
    check(Change::updated("t", "x".repeat(257)), |e| matches!(e, EmitError::LongId(_))).await;
    check(Change::updated("t", "a\nb"), |e| matches!(e, EmitError::UnprintableId(_))).await;
    check(update().data(&[1]).unwrap(), |e| matches!(e, EmitError::DataNotObject(_))).await;
    check(update().data(&json!({"a": "x".repeat(300_000)})).unwrap(), |e| {
        matches!(e, EmitError::DataTooLarge(_))
    })
    .await;
    check(update().targets(["nope"]), |e| matches!(e, EmitError::UnknownTarget(_))).await;
    check(Change::updated("t", "gone"), |e| matches!(e, EmitError::UserDeleted(_))).await;
    check(update().event_id(id), |e| matches!(e, EmitError::EventIdReused(_))).await;

    // The client cannot name an unknown action; the producer's own SQL can.
    let error =
        sqlx::raw_sql("select postbound.emit('t', 'u', 'renamed')").execute(&mut producer).await.unwrap_err();
    assert!(matches!(EmitError::from(error), EmitError::UnknownAction(_)));
    let error = sqlx::raw_sql("select 1 / 0").execute(&mut producer).await.unwrap_err();
    assert!(matches!(EmitError::from(error), EmitError::Database(_)));
}
