//! Jobs to their end, with workers: what the receivers saw of them.

use super::{SOON, execute, fill_job, items, run_job, until_items, until_job_is};
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, Role, answers, emit_states, eventually};

/// Users of tenant t0 whom both targets have; a relay and a worker run.
async fn seed(installation: &Installation, users: i32) {
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), users, "created").await;
    installation.assert_converged().await;
}

async fn start_resync(installation: &Installation, target: &str) -> i64 {
    let job = fill_job(installation, target, "resync").await;
    let fill = format!(
        "insert into postbound.job_item (job_id, item, tenant_id, user_id)
         select {job}, row_number() over (order by user_id), tenant_id, user_id from postbound.user_state"
    );
    execute(installation, &fill).await;
    run_job(installation, job, "").await;
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_over_a_crashed_relay_and_worker_reaches_every_user_and_disturbs_no_newer_state() {
    let installation = Installation::start(Options::default()).await;
    let mut relay = installation.relay();
    let mut worker = installation.worker(&[]);
    seed(&installation, 2000).await;
    // The CRM lost its users.
    execute(&installation, "delete from receiver.crm_users").await;
    let job = start_resync(&installation, "crm").await;
    let mut producer = installation.database.connect(Role::Producer).await;
    until_items(&installation, job, "delivered", 100).await;
    relay.kill_9().await;
    emit_states(&mut producer, ("t0", "user"), 50, "updated").await;
    worker.kill_9().await;
    assert!(items(&installation, job, "delivered").await < 2000, "they were killed too late");

    let _others = (installation.relay(), installation.worker(&[]));
    until_job_is(&installation, job, "done").await;
    assert_eq!(
        items(&installation, job, "delivered").await + items(&installation, job, "superseded").await,
        2000
    );
    installation.until_settled(&["backend", "crm"]).await;
    let oracle = installation.oracle();
    oracle.assert_one_body_per_key().await;
    for contract in ["s2", "s3"] {
        oracle.assert_equal_to_source(contract).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconcile_brings_who_was_left_behind_and_nobody_else() {
    let options = Options::default().with("relay.reconcile_every", "3s").with("relay.reconcile_after", "1h");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    seed(&installation, 20).await;
    let sent = installation.oracle().count("s2", None).await;
    execute(
        &installation,
        "delete from postbound.delivery_ledger where target = 'backend' and user_id in ('user-7', 'user-8', 'user-9');
         update postbound.user_state set logged_at = now() - interval '2 hours' where user_id in ('user-1', 'user-7')",
    )
    .await;
    eventually("they are found and sent", SOON, async || {
        let states: Vec<(String, i64)> = sqlx::query_as(
            "select i.state, count(*) from postbound.job_item as i group by i.state order by i.state",
        )
        .fetch_all(installation.database.superuser())
        .await
        .unwrap();
        (states == [("delivered".to_owned(), 1)]).then_some(())
    })
    .await;
    installation.oracle().assert_sound().await;
    assert_eq!(installation.oracle().count("s2", None).await, sent + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_into_a_target_that_refuses_many_stops_before_anybody_is_dead() {
    let installation =
        Installation::start(Options::default().with("relay.job_items_unsettled_max", "10")).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    seed(&installation, 200).await;
    // A fifth of them: the breaker stays closed, and each refused user is parked for seconds.
    let for_users = (1..=200).step_by(5).map(|user| format!("user-{user}")).collect();
    installation.backend.fault(Fault { for_users, ..answers(422, &[]) }).await;
    let job = fill_job(&installation, "backend", "resync").await;
    let fill = format!(
        "insert into postbound.job_item (job_id, item, tenant_id, user_id)
         select {job}, n, 't0', 'user-' || n from generate_series(1, 200) as n"
    );
    execute(&installation, &fill).await;
    run_job(&installation, job, "stop_after_failures = 8").await;
    until_job_is(&installation, job, "stopped").await;
    assert!(items(&installation, job, "waiting").await > 50, "it stopped too late");
    assert_eq!(items(&installation, job, "dead").await, 0);
}
