//! Items are marked by the relay while workers settle them.

use super::{execute, items, start_job};
use postbound_event::JobPart;
use postbound_store::{ItemMark, ItemOutcome, MarkedItem, Saved};
use postbound_tests::{Installation, Options, Role, eventually};

async fn until_waiting(installation: &Installation, statement: &str) {
    eventually(&format!("{statement} waits for a lock"), super::SOON, async || {
        let waits: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity
                            where datname = current_database() and wait_event_type = 'Lock' and query like $1)",
        )
        .bind(format!("%-- {statement}%"))
        .fetch_one(installation.database.superuser())
        .await
        .unwrap();
        waits.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_marks_items_and_workers_that_settle_them_lock_them_in_one_order() {
    let installation = Installation::configure(Options::default()).await;
    installation.apply_topology().await;
    let job = start_job(&installation, "backend", "resync", 3, "").await;
    execute(
        &installation,
        "insert into postbound.relay_lease (token) values (1) on conflict (only_row) do update set token = 1",
    )
    .await;
    let mut other = installation.database.connect(Role::Operator).await;
    let hold =
        format!("begin; update postbound.job_item set reason = null where job_id = {job} and item = 2");
    sqlx::raw_sql(sqlx::AssertSqlSafe(hold)).execute(&mut other).await.unwrap();

    let store = installation.store();
    let marked = [2, 3].map(|item| MarkedItem { item, version: Some(3), mark: ItemMark::Sent });
    let marks = tokio::spawn({
        let store = store.clone();
        async move { store.mark_job_items(job, &marked, 1).await }
    });
    until_waiting(&installation, "mark_job_items").await;
    // The other way round.
    let settled =
        [3, 2].map(|item| (JobPart { job, item, repeats: false, full: false }, ItemOutcome::Delivered));
    let settles = tokio::spawn(async move { store.settle_items(&settled).await });
    until_waiting(&installation, "settle_items").await;
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();

    assert_eq!(marks.await.unwrap().unwrap(), Saved::Yes);
    settles.await.unwrap().unwrap();
    assert_eq!(items(&installation, job, "delivered").await, 2);
}
