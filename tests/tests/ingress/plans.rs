//! What a request reads of the log does not grow with it.

use postbound_tests::{Role, TestDatabase};
use sqlx::{AssertSqlSafe, Connection as _};

/// The queries as they stand in the code.
const QUERIES: &str = include_str!("../../../crates/ingress/src/directory/rows.rs");

/// A query by its name.
fn query(name: &str) -> &'static str {
    let (_, from) = QUERIES.split_once(&format!("-- {name}\n")).expect("the query has moved");
    from.split_once('"').expect("it stands in quotes").0
}

#[tokio::test]
async fn states_of_the_last_minutes_are_read_from_the_end_of_the_log_by_index() {
    let database = TestDatabase::new().await;
    sqlx::raw_sql(
        "insert into postbound.change_log (id, xid, logged_at, version, event_id, tenant_id, user_id, action, data)
         select nextval('postbound.change_id'), pg_current_xact_id(), clock_timestamp(), 1, gen_random_uuid(), 't',
                'user-' || n, 'updated', jsonb_build_object('email', n || '@example.com')
         from generate_series(1, 60000) as n;
         analyze postbound.change_log",
    )
    .execute(database.superuser())
    .await
    .unwrap();
    let store = database.store(Role::Ingress);
    let mut connection = store.pool().acquire().await.unwrap();
    // As the first times, and as it is once Postgres plans for any user.
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let mut transaction = connection.begin().await.unwrap();
        let statement = format!(
            "set local plan_cache_mode = {mode};
             prepare logged (text, text, bigint, boolean) as {}",
            query("directory.logged_states")
        );
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await.unwrap();
        for asked in [false, true] {
            let explain = format!(
                "explain (analyze, costs off, timing off, summary off) execute logged ('t', 'user-7', 1, {asked})"
            );
            let plan: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(&mut *transaction).await.unwrap();
            let plan = plan.join("\n");
            let by_index = plan.contains("Index Scan Backward using change_log_");
            assert!(by_index && !plan.contains("Seq Scan") && !plan.contains("rows=60000"), "{mode}: {plan}");
        }
        transaction.rollback().await.unwrap();
        sqlx::raw_sql("deallocate logged").execute(&mut *connection).await.unwrap();
    }
}
