//! Targets that get every event: what a rebase finds on its way to them is sent, once each and in order.

use super::{SOON, emit, machine::TimeMachine, rebase, until_halted, until_witnessed};
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, answers, eventually};

/// One failure parks a user for an hour: whoever is tried again was made to.
fn patient() -> Options {
    Options::every_event()
        .with("targets.backend.retry.attempts", "1")
        .with("targets.backend.retry.schedule", "[\"1h\"]")
        .with("targets.backend.retry.schedule_jitter", "0.0")
}

async fn until_parked(installation: &Installation, user: &str) {
    eventually("the user is parked", SOON, async || {
        let parked = "select count(*) from postbound.parked_state where target = 'backend' and user_id = $1";
        let parked = sqlx::query_scalar::<_, i64>(parked).bind(user);
        (parked.fetch_one(installation.database.superuser()).await.unwrap() > 0).then_some(())
    })
    .await;
}

async fn until_published(installation: &Installation) {
    eventually("all is published", SOON, async || {
        let lags = installation.store().stream_lags().await.unwrap();
        lags.iter().all(|lag| lag.rows == 0).then_some(())
    })
    .await;
}

async fn everybody_is_due(installation: &Installation) {
    sqlx::query("update postbound.parked_user set next_attempt_at = now()")
        .execute(installation.database.superuser())
        .await
        .unwrap();
}

/// Every event of the log, by the mark it bears, and how it arrived at a target: by user, in the log's order.
async fn arrivals(installation: &Installation, contract: &str) -> Vec<(String, Vec<String>)> {
    let expected: Vec<(String, String)> = sqlx::query_as(
        "select user_id, data->>'avatar' from postbound.change_log order by user_id collate \"C\", id",
    )
    .fetch_all(installation.database.superuser())
    .await
    .unwrap();
    let arrived: Vec<(String, String)> = sqlx::query_as(
        "select user_id, content->>'avatar' from receiver.request_log where contract = $1 and outcome = 'applied'
         order by user_id collate \"C\", id",
    )
    .bind(contract)
    .fetch_all(installation.receivers().superuser())
    .await
    .unwrap();
    assert_eq!(arrived, expected, "at {contract}: each event once, in the log's order");
    let mut by_user: Vec<(String, Vec<String>)> = Vec::new();
    for (user, mark) in arrived {
        match by_user.last_mut().filter(|(last, _)| *last == user) {
            Some((_, marks)) => marks.push(mark),
            None => by_user.push((user, vec![mark])),
        }
    }
    by_user
}

/// Both targets have got every event of the log, and nobody is taken to wait for one.
async fn assert_all_arrived(installation: &Installation, users: usize) {
    installation.until_settled(&["backend", "crm"]).await;
    for contract in ["s2", "s3"] {
        assert_eq!(arrivals(installation, contract).await.len(), users);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebase_loses_no_event_that_is_parked_queued_or_not_yet_published() {
    let installation = Installation::start(patient()).await;
    let mut relay = installation.relay();
    let (mut worker, _crm) = (installation.worker(&["backend"]), installation.worker(&["crm"]));
    emit(&installation, "user", 10, "created").await;
    installation.until_settled(&["backend", "crm"]).await;
    let refused = Fault { for_users: vec!["user-1".to_owned(), "early-1".to_owned()], ..answers(500, &[]) };
    installation.backend.fault(refused).await;
    emit(&installation, "user", 1, "updated").await;
    emit(&installation, "early", 1, "created").await;
    until_parked(&installation, "user-1").await;
    until_parked(&installation, "early-1").await;
    // In the queues: a change of one who is parked, of others, and users nobody has heard of there.
    assert!(worker.terminate().await.success());
    emit(&installation, "user", 5, "updated").await;
    emit(&installation, "late", 3, "created").await;
    until_published(&installation).await;
    installation.until_settled(&["crm"]).await;
    assert!(relay.terminate().await.success());
    emit(&installation, "user", 7, "updated").await;

    let done = rebase(&installation, &["--database"]).await;
    assert_eq!(done["not_resynced"].as_array().unwrap().len(), 2, "{done}");
    installation.backend.behave().await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&["backend"]));
    everybody_is_due(&installation).await;
    assert_all_arrived(&installation, 14).await;
    installation.oracle().assert_one_body_per_key().await;
    emit(&installation, "user", 10, "updated").await;
    assert_all_arrived(&installation, 14).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_a_dump_finds_in_the_queues_arrive_from_the_new_cluster() {
    let machine = TimeMachine::start().await;
    let installation = machine.installation(Options::every_event()).await;
    let mut relay = installation.relay();
    let mut worker = installation.worker(&["backend"]);
    let _crm = installation.worker(&["crm"]);
    emit(&installation, "user", 10, "created").await;
    installation.until_settled(&["backend", "crm"]).await;
    until_witnessed(&installation, 0).await;
    assert!(worker.terminate().await.success());
    emit(&installation, "user", 5, "updated").await;
    until_published(&installation).await;
    installation.until_settled(&["crm"]).await;
    assert!(relay.terminate().await.success());
    emit(&installation, "waited", 3, "created").await;
    let dump = machine.dump();
    machine.restore_into_a_new_cluster(&dump).await;
    emit(&installation, "since", 2, "created").await;

    let relay = installation.relay();
    let said = until_halted(&relay).await;
    assert!(said.contains("Postgres is another cluster"), "{said}");
    rebase(&installation, &[]).await;
    let _worker = installation.worker(&["backend"]);
    assert_all_arrived(&installation, 15).await;
    until_published(&installation).await;
}
