//! The view, the functions and the client are one way in.

use postbound_client::{Change, DEFAULT_TENANT, Emitted, emit, emit_many};
use postbound_tests::{LogEntry, Role, TestDatabase, log_entries, register_targets};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Optional columns and a value for each, as SQL.
const OPTIONAL: [(&str, &str); 6] = [
    ("tenant_id", "'acme'::text"),
    ("data", r#"'{"email": "a@example.com", "n": [1, 2.50, null]}'::jsonb"#),
    ("origin", "'backend'::text"),
    ("targets", "array['crm', 'backend']"),
    ("event_id", "uuid_for(user_id)"),
    ("traceparent", "'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'::text"),
];

/// One change: which of the optional columns it has.
struct Case {
    user_id: String,
    columns: Vec<(&'static str, String)>,
}

impl Case {
    fn event_id(&self) -> Uuid {
        let number: u128 = self.user_id[1..].parse().unwrap();
        Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0000 | number)
    }

    fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|(name, _)| *name == column)
    }

    fn emitted_by_client(&self) -> Change {
        let mut change =
            Change::created(if self.has("tenant_id") { "acme" } else { DEFAULT_TENANT }, &self.user_id);
        if self.has("data") {
            change = change.data(&json!({"email": "a@example.com", "n": [1, 2.50, null]})).unwrap();
        }
        if self.has("origin") {
            change = change.origin("backend");
        }
        if self.has("targets") {
            change = change.targets(["crm", "backend"]);
        }
        if self.has("event_id") {
            change = change.event_id(self.event_id());
        }
        if self.has("traceparent") {
            change = change.traceparent(TRACEPARENT);
        }
        change
    }
}

/// Every subset of the optional columns.
fn cases() -> Vec<Case> {
    (0_u32..1 << OPTIONAL.len())
        .map(|subset| {
            let mut case = Case { user_id: format!("u{subset}"), columns: Vec::new() };
            let event_id = format!("'{}'::uuid", case.event_id());
            case.columns = OPTIONAL
                .iter()
                .enumerate()
                .filter(|(place, _)| subset & (1 << place) != 0)
                .map(|(_, (name, value))| (*name, value.replace("uuid_for(user_id)", &event_id)))
                .collect();
            case
        })
        .collect()
}

async fn answer(connection: &mut PgConnection, sql: String) -> Emitted {
    let (event_id, version) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(connection).await.unwrap();
    Emitted { event_id, version }
}

async fn by_view(connection: &mut PgConnection, case: &Case) -> Emitted {
    let (names, values): (Vec<_>, Vec<_>) =
        case.columns.iter().map(|(name, value)| (format!(", {name}"), format!(", {value}"))).unzip();
    answer(
        connection,
        format!(
            "insert into postbound.outbox (user_id, action{}) values ('{}', 'created'{}) returning event_id::uuid, version",
            names.concat(),
            case.user_id,
            values.concat()
        ),
    )
    .await
}

async fn by_function(connection: &mut PgConnection, case: &Case) -> Emitted {
    let mut arguments = vec![format!("user_id => '{}', action => 'created'", case.user_id)];
    if !case.has("tenant_id") {
        arguments.push("tenant_id => null".to_owned());
    }
    arguments.extend(case.columns.iter().map(|(name, value)| format!("{name} => {value}")));
    answer(connection, format!("select * from postbound.emit({})", arguments.join(", "))).await
}

async fn by_emit_many(connection: &mut PgConnection, case: &Case) -> Emitted {
    let mut pairs = vec![format!("'user_id', '{}', 'action', 'created'", case.user_id)];
    pairs.extend(case.columns.iter().map(|(name, value)| format!("'{name}', {value}")));
    answer(
        connection,
        format!(
            "select emitted_event_id, emitted_version
             from postbound.emit_many(jsonb_build_array(jsonb_build_object({})))",
            pairs.join(", ")
        ),
    )
    .await
}

async fn by_client(connection: &mut PgConnection, case: &Case) -> Emitted {
    emit(connection, &case.emitted_by_client()).await.unwrap()
}

async fn by_client_many(connection: &mut PgConnection, case: &Case) -> Emitted {
    emit_many(connection, &[case.emitted_by_client()]).await.unwrap()[0]
}

/// Writes all cases in one way into a database of its own; gives the log with drawn event ids blanked.
async fn log_of(way: impl AsyncFn(&mut PgConnection, &Case) -> Emitted) -> Vec<LogEntry> {
    let database = TestDatabase::new().await;
    register_targets(database.superuser(), &["backend", "crm"]).await;
    let mut producer = database.connect(Role::Producer).await;
    let cases = cases();
    let mut answers = Vec::new();
    for case in &cases {
        answers.push(way(&mut producer, case).await);
    }
    let mut log = log_entries(database.superuser()).await;
    for ((case, answer), entry) in cases.iter().zip(answers).zip(&mut log) {
        assert_eq!((entry.event_id, entry.version), (answer.event_id, answer.version));
        match case.has("event_id") {
            true => assert_eq!(answer.event_id, case.event_id()),
            false => entry.event_id = Uuid::nil(),
        }
    }
    log
}

#[tokio::test]
async fn the_view_the_functions_and_the_client_write_the_same_row_for_every_choice_of_optional_columns() {
    let by_view = log_of(by_view).await;
    assert_eq!(by_view.len(), 64);
    for log in [
        log_of(by_function).await,
        log_of(by_emit_many).await,
        log_of(by_client).await,
        log_of(by_client_many).await,
    ] {
        assert_eq!(by_view, log);
    }
    let (bare, full) = (&by_view[0], &by_view[63]);
    assert_eq!((bare.tenant_id.as_str(), &bare.data), (DEFAULT_TENANT, &json!({})));
    assert_eq!((&bare.origin, &bare.targets, &bare.traceparent), (&None, &None, &None));
    assert_eq!((full.tenant_id.as_str(), full.version, full.action.as_str()), ("acme", 1, "created"));
    assert_eq!(full.data, json!({"email": "a@example.com", "n": [1, 2.50, null]}));
    assert_eq!(full.targets.as_deref(), Some(&["crm".to_owned(), "backend".to_owned()][..]));
    assert_eq!((full.origin.as_deref(), full.traceparent.as_deref()), (Some("backend"), Some(TRACEPARENT)));
}

#[tokio::test]
async fn an_insert_of_many_rows_returns_the_id_version_and_tenant_of_each() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let rows: Vec<(String, String, Uuid, i64)> = sqlx::query_as(
        "insert into postbound.outbox (user_id, action)
         values ('a', 'created'), ('b', 'created'), ('a', 'updated')
         returning tenant_id, user_id, event_id::uuid, version",
    )
    .fetch_all(&mut producer)
    .await
    .unwrap();
    let versions: Vec<_> = rows.iter().map(|row| (row.0.as_str(), row.1.as_str(), row.3)).collect();
    assert_eq!(versions, [("default", "a", 1), ("default", "b", 1), ("default", "a", 2)]);
    let ids: Vec<_> = log_entries(database.superuser()).await.iter().map(|entry| entry.event_id).collect();
    assert_eq!(ids, rows.iter().map(|row| row.2).collect::<Vec<_>>());
}

#[tokio::test]
async fn emit_many_answers_in_the_order_of_its_changes_whatever_order_it_locks_in() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    let changes = ["c", "a", "b", "a"].map(|user| Change::updated("t", user));
    let answers = emit_many(&mut producer, &changes).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.version).collect::<Vec<_>>(), [1, 1, 1, 2]);
    let log = log_entries(database.superuser()).await;
    assert_eq!(log.iter().map(|entry| entry.user_id.as_str()).collect::<Vec<_>>(), ["a", "a", "b", "c"]);
    assert_eq!(answers[3].event_id, log[1].event_id);
    assert!(emit_many(&mut producer, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn explicit_nulls_mean_the_same_as_columns_left_out() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    for sql in [
        "insert into postbound.outbox (tenant_id, user_id, action, data, origin, targets, event_id, traceparent)
         values (null, 'u', 'updated', null, null, null, null, null)",
        "select postbound.emit(null, 'u', 'updated', null, null, null, null, null)",
        r#"select postbound.emit_many('[{"tenant_id": null, "user_id": "u", "action": "updated", "origin": null,
            "targets": null, "event_id": null, "traceparent": null}]')"#,
    ] {
        sqlx::raw_sql(sql).execute(&mut producer).await.unwrap();
    }
    for entry in log_entries(database.superuser()).await {
        assert_eq!(
            (entry.tenant_id.as_str(), &entry.data),
            (DEFAULT_TENANT, &Value::Object(Default::default()))
        );
        assert_eq!((entry.origin, entry.targets, entry.traceparent), (None, None, None));
    }
}

#[tokio::test]
async fn a_malformed_traceparent_is_ignored() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    emit(&mut producer, &Change::updated("t", "u").traceparent("00-nonsense")).await.unwrap();
    assert_eq!(log_entries(database.superuser()).await[0].traceparent, None);
}
