//! The examples in `examples/` and of the client crate do what producers' docs say: they are run, not only read.

mod pgbouncer;
mod program;

use postbound_client::{Change, DEFAULT_TENANT, emit};
use postbound_tests::{Role, TestDatabase, log_entries};
use program::Program;
use serde_json::json;

const APP_SCHEMA: &str = include_str!("../../examples/app.sql");

/// A database with the example service's own table.
async fn app_database() -> TestDatabase {
    let database = TestDatabase::new().await;
    sqlx::raw_sql(APP_SCHEMA).execute(database.superuser()).await.unwrap();
    database
}

/// What the program printed is in the log, with the state of the user's own row, written by the same transaction.
async fn assert_emitted(database: &TestDatabase, printed: &str, (user, name): (&str, &str), version: i64) {
    let log = log_entries(database.superuser()).await;
    let entry = log.iter().find(|entry| entry.user_id == user && entry.version == version).unwrap();
    assert_eq!(printed.trim(), format!("event_id={} version={version}", entry.event_id));
    assert_eq!((entry.tenant_id.as_str(), entry.action.as_str()), (DEFAULT_TENANT, "updated"));
    let state = json!({"email": format!("{user}@example.com"), "displayName": name, "isActive": true});
    assert_eq!(entry.data, state);
    let together: bool = sqlx::query_scalar(
        "select u.name = $2 and c.xid::text::bigint % (1::bigint << 32) = u.xmin::text::bigint
         from app_user as u join postbound.change_log as c on c.user_id = u.id
         where u.id = $1 and c.version = $3",
    )
    .bind(user)
    .bind(name)
    .bind(version)
    .fetch_one(database.superuser())
    .await
    .unwrap();
    assert!(together, "the user's row and the change are of two transactions");
}

async fn check(program: &Program) {
    let database = app_database().await;
    let url = database.producer_url();
    for (version, name) in [(1, "Ada Lovelace"), (2, "Ada \"the Countess\" O'Lovelace")] {
        let printed = program.run(&url, "user-1", name).await.unwrap();
        assert_emitted(&database, &printed, ("user-1", name), version).await;
    }

    // A refused change takes the service's own write with it.
    let mut producer = database.connect(Role::Producer).await;
    emit(&mut producer, &Change::deleted(DEFAULT_TENANT, "user-1")).await.unwrap();
    let said = program.run(&url, "user-1", "Nobody").await.unwrap_err();
    assert!(said.contains("user 'user-1' is deleted"), "{said}");
    let name: String =
        sqlx::query_scalar("select name from app_user").fetch_one(database.superuser()).await.unwrap();
    assert_eq!(name, "Ada \"the Countess\" O'Lovelace");
    assert_eq!(log_entries(database.superuser()).await.len(), 3);
}

#[tokio::test]
async fn the_psql_example_changes_its_user_and_tells_postbound_in_one_transaction() {
    check(&Program::psql().await).await;
}

#[tokio::test]
async fn the_rust_example_changes_its_user_and_tells_postbound_in_one_transaction() {
    check(&Program::rust().await).await;
}

#[tokio::test]
async fn the_node_example_changes_its_user_and_tells_postbound_in_one_transaction() {
    check(&Program::node().await).await;
}

#[tokio::test]
async fn the_python_example_changes_its_user_and_tells_postbound_in_one_transaction() {
    check(&Program::python().await).await;
}

#[tokio::test]
async fn the_go_example_changes_its_user_and_tells_postbound_in_one_transaction() {
    check(&Program::go().await).await;
}
