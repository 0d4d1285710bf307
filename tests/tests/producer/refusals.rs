//! What is refused, with which SQLSTATE and which words, through every way in.

use super::sqlstate;
use postbound_client::{Change, EmitError, Refusal, emit};
use postbound_tests::{Role, TestDatabase, log_entries, register_targets};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, postgres::PgDatabaseError};

/// One refusal: a change and what is said about it.
struct Refused {
    change: Value,
    code: &'static str,
    message: String,
    detail: String,
    hint: &'static str,
}

fn refused(change: Value, code: &'static str, message: &str, detail: &str, hint: &'static str) -> Refused {
    Refused { change, code, message: message.to_owned(), detail: detail.to_owned(), hint }
}

const ARGUMENTS: &str = "c ->> 'tenant_id', c ->> 'user_id', c ->> 'action', c -> 'data', c ->> 'origin',
    case when c ? 'targets' then array(select jsonb_array_elements_text(c -> 'targets')) end,
    (c ->> 'event_id')::uuid";

/// The ways in and the message each gives: emit_many also says which change is at fault.
fn ways() -> [(String, &'static str); 3] {
    [
        (format!("select postbound.emit({ARGUMENTS}) from (select $1::jsonb as c) as given"), ""),
        (
            format!(
                "insert into postbound.outbox (tenant_id, user_id, action, data, origin, targets, event_id)
                 select {ARGUMENTS} from (select $1::jsonb as c) as given"
            ),
            "",
        ),
        (
            r#"select postbound.emit_many(jsonb_build_array('{"user_id": "fine", "action": "updated"}'::jsonb, $1))"#
                .to_owned(),
            "change 2: ",
        ),
    ]
}

async fn check(producer: &mut PgConnection, expected: &Refused) {
    for (sql, prefix) in ways() {
        let mut tx = producer.begin().await.unwrap();
        emit(&mut tx, &Change::updated("t", "written-before")).await.unwrap();
        let error = sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
            .bind(&expected.change)
            .execute(&mut *tx)
            .await
            .expect_err(&format!("{} by {sql}", expected.message));
        let said = error.as_database_error().unwrap().downcast_ref::<PgDatabaseError>();
        assert_eq!(
            (said.code(), said.message(), said.detail().unwrap_or(""), said.hint().unwrap_or("")),
            (
                expected.code,
                format!("{prefix}{}", expected.message).as_str(),
                expected.detail.as_str(),
                expected.hint
            ),
            "by {sql}"
        );
        // 25P02: the transaction is lost whole
        let next = sqlx::raw_sql("select 1").execute(&mut *tx).await.unwrap_err();
        assert_eq!(sqlstate(&next), "25P02");
        tx.rollback().await.unwrap();
    }
}

/// An acceptable change with something else in some columns.
fn with(extra: &Value) -> Value {
    let mut change = json!({"tenant_id": "t", "user_id": "u", "action": "updated", "data": {}});
    change.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    change
}

/// What is refused of the columns that hold ids.
fn ids() -> Vec<Refused> {
    let mut cases = Vec::new();
    for (column, hint_empty, hint_long, hint_control) in [
        (
            "user_id",
            "give a non-empty user_id of at most 256 bytes",
            "use the user_id itself, not a composed text",
            "strip line ends and other control characters from the user_id",
        ),
        (
            "tenant_id",
            "give a non-empty tenant_id of at most 256 bytes",
            "use the tenant_id itself, not a composed text",
            "strip line ends and other control characters from the tenant_id",
        ),
        (
            "origin",
            "give a non-empty origin of at most 256 bytes",
            "use the origin itself, not a composed text",
            "strip line ends and other control characters from the origin",
        ),
    ] {
        let value = |text: &str| with(&json!({column: text}));
        let named = "every change names its user";
        cases.push(refused(value(""), "PB002", &format!("{column} is empty"), named, hint_empty));
        let long = format!("{column} is too long");
        cases.push(refused(
            value(&"x".repeat(257)),
            "PB003",
            &long,
            "257 bytes, at most 256 are allowed",
            hint_long,
        ));
        cases.push(refused(
            value(&"é".repeat(129)),
            "PB003",
            &long,
            "258 bytes, at most 256 are allowed",
            hint_long,
        ));
        let control = format!("{column} contains a control character");
        let why = "ids travel in HTTP headers, where control characters are not allowed";
        cases.push(refused(value("a\r\nb"), "PB004", &control, why, hint_control));
    }
    cases
}

fn cases() -> Vec<Refused> {
    let known =
        ("known actions are created, updated and deleted", "name what happened to the user, in lower case");
    let object = "pass the user's fields as one object, not as an array or an encoded string";
    let mut cases = vec![
        refused(with(&json!({"action": "renamed"})), "PB001", "unknown action 'renamed'", known.0, known.1),
        refused(with(&json!({"action": "Created"})), "PB001", "unknown action 'Created'", known.0, known.1),
        refused(with(&json!({"action": null})), "PB001", "unknown action NULL", known.0, known.1),
        refused(
            with(&json!({"data": [1]})),
            "PB005",
            "data is not a JSON object",
            "it is of JSON type array",
            object,
        ),
        refused(
            with(&json!({"data": "{}"})),
            "PB005",
            "data is not a JSON object",
            "it is of JSON type string",
            object,
        ),
        refused(
            with(&json!({"data": null})),
            "PB005",
            "data is not a JSON object",
            "it is of JSON type null",
            object,
        ),
        refused(
            with(&json!({"data": {"a": "x".repeat(262_136)}})),
            "PB006",
            "data is too large",
            "262145 bytes, at most 262144 (256 KiB) are allowed",
            "store large content elsewhere and pass a link to it",
        ),
        refused(
            with(&json!({"targets": ["crm", "nope"]})),
            "PB007",
            "unknown target 'nope'",
            "registered targets: backend, crm",
            "register the target with: postbound topology apply",
        ),
        refused(
            with(&json!({"targets": ["retired"]})),
            "PB007",
            "unknown target 'retired'",
            "registered targets: backend, crm",
            "register the target with: postbound topology apply",
        ),
        refused(
            with(&json!({"user_id": "gone"})),
            "PB008",
            "user 'gone' is deleted",
            "an update would bring a deleted user back",
            "emit created to re-create the user on purpose",
        ),
        refused(
            with(&json!({"event_id": "01930000-0000-7000-8000-000000000001"})),
            "PB009",
            "event id 01930000-0000-7000-8000-000000000001 was used with other content",
            "an event id names one event: tenant, user, action, data, origin and targets must all be the same",
            "draw a new event id for a new change",
        ),
    ];
    cases.extend(ids());
    cases
}

#[tokio::test]
async fn every_refusal_has_its_own_code_and_words_through_every_way_in_and_aborts_the_transaction() {
    let database = TestDatabase::new().await;
    register_targets(database.superuser(), &["backend", "crm", "retired"]).await;
    sqlx::raw_sql("update postbound.target set retired_at = now() where name = 'retired'")
        .execute(database.superuser())
        .await
        .unwrap();
    let mut producer = database.connect(Role::Producer).await;
    let id = uuid::Uuid::parse_str("01930000-0000-7000-8000-000000000001").unwrap();
    emit(&mut producer, &Change::deleted("t", "gone")).await.unwrap();
    emit(&mut producer, &Change::updated("t", "other").event_id(id)).await.unwrap();
    let written = log_entries(database.superuser()).await;
    for case in cases() {
        check(&mut producer, &case).await;
    }
    assert_eq!(log_entries(database.superuser()).await, written);
}

#[tokio::test]
async fn emit_many_says_which_change_has_the_wrong_shape() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    for (changes, message, detail) in [
        (
            json!({"user_id": "u"}),
            "changes is not a JSON array",
            "emit_many takes one array with an object per change",
        ),
        (
            json!([{"user_id": "u", "action": "updated"}, 7]),
            "change 2: the change is not an object",
            "it is of JSON type number",
        ),
        (
            json!([{"user_id": "u", "action": "updated", "email": "a@example.com"}]),
            "change 1: unknown key 'email'",
            "known keys are tenant_id, user_id, action, data, origin, targets, event_id and traceparent",
        ),
        (
            json!([{"user_id": "u", "action": "updated", "targets": "crm"}]),
            "change 1: targets is not an array",
            "it is of JSON type string",
        ),
    ] {
        let error = sqlx::query("select postbound.emit_many($1)")
            .bind(changes)
            .execute(&mut producer)
            .await
            .unwrap_err();
        let error = EmitError::from(error);
        let EmitError::Malformed(Refusal { message: said, detail: why, hint }) = &error else {
            panic!("{error}")
        };
        assert_eq!((said.as_str(), why.as_deref()), (message, Some(detail)));
        assert!(hint.is_some());
    }
    assert_eq!(log_entries(database.superuser()).await, []);
}
