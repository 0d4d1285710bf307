//! A loop that hangs is seen from outside, and one that was told to begin anew does.

use super::{SOON, emit};
use postbound_receiver::Fault;
use postbound_store::USER_STATE_STREAM;
use postbound_tests::{Installation, Options, eventually};

/// Holds up everything that would move the cursor of a stream, and sees that its loop, and no other, is reported.
async fn check(stream: &str, component: &str) {
    // A stream's deadline is 8 s then, less than its own timeouts have.
    let installation = Installation::start(Options::every_event().with("relay.confirm_timeout", "2s")).await;
    let relay = installation.relay();
    relay.until_ready("the relay is active", |readiness| readiness.state(component) == "ready").await;
    let mut held = installation.database.superuser().begin().await.unwrap();
    sqlx::query("select from postbound.stream_cursor where stream = $1 for update")
        .bind(stream)
        .execute(&mut *held)
        .await
        .unwrap();
    emit(&installation, "user", 1, "created").await;
    let stalled = |readiness: &postbound_tests::Readiness| readiness.state(component) == "stalled";
    let readiness = relay.until_ready("the stall shows", stalled).await;
    assert_eq!(readiness.status, 503);
    for other in ["relay", "relay.pulse", "relay.maintenance", "relay.backend"] {
        assert_eq!(readiness.state(other), "ready", "{other}: {readiness:?}");
    }
    assert!(readiness.reason(component).contains("made no progress"), "{readiness:?}");
    held.rollback().await.unwrap();
    relay.until_ready("it goes on", |readiness| readiness.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_hangs_turns_the_relay_not_ready() {
    check("crm", "relay.crm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_that_hangs_turns_the_relay_not_ready() {
    check(USER_STATE_STREAM, "relay.user_state").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_projection_whose_cursor_was_rewound_reads_the_log_again() {
    let installation = Installation::start(Options::every_event()).await;
    let _relay = installation.relay();
    emit(&installation, "user", 10, "created").await;
    installation.until_settled(&[]).await;
    let superuser = installation.database.superuser();
    sqlx::raw_sql("delete from postbound.user_state").execute(superuser).await.unwrap();
    installation.store().rewind_cursor(USER_STATE_STREAM).await.unwrap();
    eventually("all users are projected again", SOON, async || {
        let users: i64 = sqlx::query_scalar("select count(*) from postbound.user_state")
            .fetch_one(superuser)
            .await
            .unwrap();
        (users == 10).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_holds_messages_and_gets_nowhere_turns_the_worker_not_ready() {
    let options = Options::default()
        .partitions(1)
        .with("worker.lease", "4s")
        .with("targets.backend.timeout", "1s")
        .with("targets.crm.timeout", "1s")
        .with("targets.crm.breaker.fold_after", "1s");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let worker = installation.worker(&["crm"]);
    emit(&installation, "user", 1, "created").await;
    installation.until_settled(&["crm"]).await;
    // Requests go out, and nothing of it can be written down.
    let mut held = installation.database.superuser().begin().await.unwrap();
    sqlx::query("lock table postbound.delivery_ledger in exclusive mode").execute(&mut *held).await.unwrap();
    emit(&installation, "user", 1, "updated").await;
    let stalled = |readiness: &postbound_tests::Readiness| readiness.state("worker.crm.0") == "stalled";
    let readiness = worker.until_ready("the stall shows", stalled).await;
    assert_eq!(readiness.status, 503);
    assert_eq!(readiness.state("worker"), "ready", "{readiness:?}");
    held.rollback().await.unwrap();
    worker.until_ready("it goes on", |readiness| readiness.status == 200).await;
    installation.until_settled(&["crm"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_target_shows_how_long_its_oldest_change_has_waited() {
    let installation = Installation::start(Options::default()).await;
    let _relay = installation.relay();
    let worker = installation.worker(&[]);
    installation.backend.fault(Fault { delay_ms: 8_000, times: Some(1), ..Fault::default() }).await;
    emit(&installation, "user", 1, "created").await;
    let waited = async |target: &str| {
        worker.metric("postbound_oldest_undelivered_seconds", &[&format!("target=\"{target}\"")]).await
    };
    eventually("the change that waits is seen", SOON, async || (waited("backend").await > 0.5).then_some(()))
        .await;
    assert!(waited("crm").await < 0.5, "nothing waits for the CRM");
    installation.until_settled(&["backend", "crm"]).await;
    eventually("nothing waits any more", SOON, async || (waited("backend").await == 0.0).then_some(())).await;
}
