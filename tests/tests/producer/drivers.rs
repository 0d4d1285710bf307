//! Drivers differ in the types they bind; the view takes them all.

use postbound_tests::{Role, TestDatabase, log_entries};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row as _};

const EVENT_ID: &str = "01930000-0000-7000-8000-00000000000a";

/// Prepares a statement with the given parameter types, as a driver does, and runs it with the given values.
async fn check(types: &str, statement: &str, values: &str) {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let types = if types.is_empty() { String::new() } else { format!("({types})") };
    sqlx::raw_sql(AssertSqlSafe(format!("prepare emitting {types} as {statement}")))
        .execute(&mut producer)
        .await
        .unwrap();
    let answer = sqlx::raw_sql(AssertSqlSafe(format!("execute emitting ({values})")))
        .fetch_one(&mut producer)
        .await
        .unwrap_or_else(|error| panic!("{types} {statement}: {error}"));
    assert_eq!(answer.get::<i64, _>("version"), 1);

    let log = log_entries(database.superuser()).await;
    let [entry] = &log[..] else { panic!("{log:?}") };
    assert_eq!(
        (entry.tenant_id.as_str(), entry.user_id.as_str(), entry.action.as_str()),
        ("t", "u", "updated")
    );
    assert_eq!(entry.data, json!({"email": "a@example.com"}));
    assert_eq!((entry.event_id.to_string().as_str(), entry.origin.as_deref()), (EVENT_ID, Some("web")));
}

const INSERT: &str =
    "insert into postbound.outbox (tenant_id, user_id, action, data, event_id, origin, targets, traceparent)
    values ($1, $2, $3, $4, $5, $6, $7, $8) returning event_id, version";

const VALUES: &str = r#"'t', 'u', 'updated', '{"email": "a@example.com"}', '01930000-0000-7000-8000-00000000000a', 'web', null, null"#;

#[tokio::test]
async fn the_view_takes_parameters_of_any_textual_type() {
    for types in [
        "",
        "text, text, text, text, text, text, text[], text",
        "varchar, varchar, varchar, varchar, varchar, varchar, varchar[], varchar",
        "unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown",
        "bpchar, bpchar, bpchar, text, text, bpchar, text[], bpchar",
        "text, text, text, json, uuid, text, text[], text",
        "varchar, varchar, varchar, jsonb, uuid, varchar, varchar[], varchar",
    ] {
        check(types, INSERT, VALUES).await;
    }
}

#[tokio::test]
async fn emit_takes_text_typed_ids_and_actions() {
    for (types, call) in [
        ("", "$1, $2, $3, $4, $6, $7, $5, $8"),
        ("text, text, text, jsonb, uuid, text, text[], text", "$1, $2, $3, $4, $6, $7, $5, $8"),
        (
            "varchar, varchar, varchar, jsonb, uuid, varchar, text[], varchar",
            "$1, $2, $3, $4, $6, $7, $5, $8",
        ),
        // A driver that binds documents as text has to cast them: the function's own types are strict.
        ("text, text, text, text, text, text, text[], text", "$1, $2, $3, $4::jsonb, $6, $7, $5::uuid, $8"),
    ] {
        let statement =
            format!("select emitted_event_id, emitted_version as version from postbound.emit({call})");
        check(types, &statement, VALUES).await;
    }
}

#[tokio::test]
async fn rows_can_be_copied_in() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let mut copy = producer
        .copy_in_raw("copy postbound.outbox (tenant_id, user_id, action, data) from stdin")
        .await
        .unwrap();
    copy.send(&b"t\ta\tcreated\t{}\nt\tb\tcreated\t{\"n\": 1}\n"[..]).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 2);
    let log = log_entries(database.superuser()).await;
    assert_eq!(log.iter().map(|entry| entry.user_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(log[1].data, json!({"n": 1}));
}

#[tokio::test]
async fn text_that_is_no_json_or_no_uuid_is_refused_by_postgres() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    for (columns, values) in [("data", "'{'"), ("event_id", "'not-a-uuid'")] {
        let sql = format!(
            "insert into postbound.outbox (user_id, action, {columns}) values ('u', 'updated', {values})"
        );
        let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut producer).await.unwrap_err();
        assert_eq!(super::sqlstate(&error), "22P02");
    }
}
