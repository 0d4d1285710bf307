use postbound_tests::{Role, TestDatabase};
use sqlx::{AssertSqlSafe, PgConnection};

async fn allowed(connection: &mut PgConnection, statement: &str) -> bool {
    match sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await {
        Ok(_) => true,
        Err(error) => {
            let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
            assert_eq!(code, "42501", "{statement}: {error}");
            false
        }
    }
}

#[tokio::test]
async fn the_ingress_writes_changes_and_what_came_in_and_nothing_of_delivery() {
    let database = TestDatabase::new().await;
    let mut ingress = database.connect(Role::Ingress).await;
    for (statement, expected) in [
        ("select postbound.emit('t', 'u', 'updated')", true),
        ("select postbound.lock_user('t', 'u')", true),
        ("select data from postbound.user_state", true),
        ("select * from postbound.identity_link", true),
        ("delete from postbound.inbound_waiting", true),
        ("select * from directory.users", true),
        ("update postbound.user_head set version = 0", false),
        ("update postbound.change_log set data = '{}'", false),
        ("delete from postbound.change_log", false),
        ("update postbound.delivery_ledger set present = true", false),
        ("insert into postbound.identity_link values ('t', 't', 'u', 'x')", false),
        ("update postbound.target set fold = true", false),
        ("update postbound.stream_cursor set updated_at = now()", false),
    ] {
        assert_eq!(allowed(&mut ingress, statement).await, expected, "{statement}");
    }
    // Others see who waits, and only operators what was said.
    for (role, statement, expected) in [
        (Role::Viewer, "select external_id, reason from postbound.inbound_waiting", true),
        (Role::Viewer, "select body from postbound.inbound_waiting", false),
        (Role::Operator, "select body from postbound.inbound_waiting", true),
        (Role::Operator, "update postbound.inbound_waiting set body = '{}'", false),
        (Role::Producer, "select external_id from postbound.inbound_waiting", false),
        (Role::Worker, "select external_id from postbound.inbound_waiting", false),
    ] {
        let mut connection = database.connect(role).await;
        assert_eq!(allowed(&mut connection, statement).await, expected, "{role:?}: {statement}");
    }
}
