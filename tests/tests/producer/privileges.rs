//! Each role can do its own work and nothing else.

use super::{change, sqlstate};
use postbound_client::emit;
use postbound_tests::{Role, TestDatabase};
use sqlx::AssertSqlSafe;

/// Runs statements as a role; None: allowed, else the SQLSTATE they are refused with.
async fn check(database: &TestDatabase, role: Role, cases: &[(&str, Option<&str>)]) {
    let mut connection = database.connect(role).await;
    for (sql, refused) in cases {
        let end = sqlx::raw_sql(AssertSqlSafe((*sql).to_owned())).execute(&mut connection).await;
        assert_eq!(end.as_ref().err().map(sqlstate).as_deref(), *refused, "{role:?}: {sql}: {end:?}");
    }
}

/// Insufficient privilege.
const FORBIDDEN: Option<&str> = Some("42501");

/// The outbox can be inserted into, whoever asks.
const NOT_UPDATABLE: Option<&str> = Some("55000");

const TABLES: [&str; 11] = [
    "change_log",
    "user_head",
    "event_key",
    "user_state",
    "delivery_ledger",
    "identity_link",
    "stream_cursor",
    "relay_lease",
    "worker",
    "partition_lease",
    "target",
];

#[tokio::test]
async fn a_producer_writes_changes_and_reads_no_ones() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    emit(&mut producer, &change("u")).await.unwrap();
    let read: i64 =
        sqlx::query_scalar("select count(*) from postbound.outbox").fetch_one(&mut producer).await.unwrap();
    assert_eq!(read, 0);
    for table in TABLES {
        for sql in [
            format!("select * from postbound.{table}"),
            format!("delete from postbound.{table}"),
            format!("insert into postbound.{table} default values"),
            format!("truncate postbound.{table}"),
        ] {
            check(&database, Role::Producer, &[(&sql, FORBIDDEN)]).await;
        }
    }
    check(
        &database,
        Role::Producer,
        &[
            ("update postbound.change_log set data = '{}'", FORBIDDEN),
            ("update postbound.outbox set data = '{}'", NOT_UPDATABLE),
            ("delete from postbound.outbox", NOT_UPDATABLE),
            ("select nextval('postbound.change_id')", FORBIDDEN),
            ("select postbound.ensure_log_partition('2100-01-01')", FORBIDDEN),
            ("create table postbound.mine ()", FORBIDDEN),
            ("create function postbound.mine() returns int language sql as 'select 1'", FORBIDDEN),
            ("insert into postbound.tenant (tenant_id, name) values ('acme', 'Acme')", None),
            (
                "update postbound.tenant set name = 'Acme Inc.', updated_at = now() where tenant_id = 'acme'",
                None,
            ),
            ("delete from postbound.tenant", FORBIDDEN),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_caller_cannot_bend_the_functions_by_its_search_path() {
    let database = TestDatabase::new().await;
    let mut producer = database.connect(Role::Producer).await;
    sqlx::raw_sql(
        "create function pg_temp.coalesce_jsonb() returns int language sql as 'select 1';
         create temporary table user_head (tenant_id text, user_id text, version bigint, deleted boolean);
         create temporary table change_log (id bigint);
         create function pg_temp.octet_length(text) returns int language sql as 'select 0';
         create function pg_temp.clock_timestamp() returns timestamptz language sql as 'select timestamptz ''1999-01-01''';
         set search_path = pg_temp, pg_catalog, postbound",
    )
    .execute(&mut producer)
    .await
    .unwrap();
    assert_eq!(emit(&mut producer, &change("u")).await.unwrap().version, 1);
    assert!(emit(&mut producer, &change("")).await.is_err());
    let logged: i64 = sqlx::query_scalar(
        "select count(*) from postbound.change_log where logged_at > now() - interval '1 hour'",
    )
    .fetch_one(database.superuser())
    .await
    .unwrap();
    assert_eq!(logged, 1);
}

#[tokio::test]
async fn relay_and_worker_and_operator_keep_to_their_own_tables_and_cannot_emit() {
    let database = TestDatabase::new().await;
    check(
        &database,
        Role::Relay,
        &[
            ("select * from postbound.change_log", None),
            ("select postbound.ensure_log_partition('2100-01-01')", None),
            ("update postbound.stream_cursor set updated_at = now()", None),
            ("delete from postbound.event_key", None),
            ("select postbound.emit('t', 'u', 'updated')", FORBIDDEN),
            ("select postbound.lock_user('t', 'u')", FORBIDDEN),
            ("insert into postbound.outbox (user_id, action) values ('u', 'updated')", FORBIDDEN),
            ("select * from postbound.user_head", FORBIDDEN),
            ("update postbound.delivery_ledger set present = true", FORBIDDEN),
            ("update postbound.target set fold = true", FORBIDDEN),
        ],
    )
    .await;
    check(
        &database,
        Role::Worker,
        &[
            ("select * from postbound.delivery_ledger", None),
            ("select * from postbound.target", None),
            ("select * from postbound.change_log", FORBIDDEN),
            ("select * from postbound.user_state", None),
            ("update postbound.user_state set version = 1", FORBIDDEN),
            ("update postbound.stream_cursor set updated_at = now()", FORBIDDEN),
            ("delete from postbound.delivery_ledger", FORBIDDEN),
            ("select postbound.emit('t', 'u', 'updated')", FORBIDDEN),
            ("insert into postbound.outbox (user_id, action) values ('u', 'updated')", FORBIDDEN),
        ],
    )
    .await;
    check(
        &database,
        Role::Operator,
        &[
            ("select data from postbound.change_log", None),
            ("update postbound.change_log set data = '{}'", FORBIDDEN),
            ("delete from postbound.change_log", FORBIDDEN),
            ("select postbound.emit('t', 'u', 'updated')", FORBIDDEN),
            ("update postbound.user_head set version = 0", FORBIDDEN),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_viewer_sees_counts_and_states_but_no_data() {
    let database = TestDatabase::new().await;
    check(
        &database,
        Role::Viewer,
        &[
            ("select id, version, tenant_id, user_id, action from postbound.change_log", None),
            ("select tenant_id, user_id, version from postbound.user_state", None),
            ("select * from postbound.delivery_ledger", None),
            ("select data from postbound.change_log", FORBIDDEN),
            ("select event_id from postbound.change_log", FORBIDDEN),
            ("select * from postbound.change_log", FORBIDDEN),
            ("select c from postbound.change_log as c", FORBIDDEN),
            ("select data from postbound.user_state", FORBIDDEN),
            ("select * from postbound.event_key", FORBIDDEN),
            ("select postbound.emit('t', 'u', 'updated')", FORBIDDEN),
            ("insert into postbound.outbox (user_id, action) values ('u', 'updated')", FORBIDDEN),
            ("update postbound.stream_cursor set updated_at = now()", FORBIDDEN),
        ],
    )
    .await;
    let readable: Vec<String> = sqlx::query_scalar(
        "select format('%s.%s', c.relname, a.attname)
         from pg_attribute as a join pg_class as c on c.oid = a.attrelid
         where c.relnamespace = 'postbound'::regnamespace and a.attname = 'data'
           and has_column_privilege('postbound_viewer', c.oid, a.attnum, 'select')",
    )
    .fetch_all(database.superuser())
    .await
    .unwrap();
    assert!(readable.is_empty(), "{readable:?}");
}
