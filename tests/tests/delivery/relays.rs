//! One relay is active, another takes over, and nobody can tell from what arrives.

use super::{SOON, active_first};
use nix::sys::signal::Signal;
use postbound_tests::{Installation, Options, Process, Role, emit_states, eventually};
use std::time::Instant;

/// Many small messages, so that a batch has a middle to be hit.
fn options() -> Options {
    Options::every_event().with("relay.message_events_max", "1").with("relay.page_rows", "200")
}

async fn until_published(relay: &Process, events: f64) {
    eventually("the stream is in full flow", SOON, async || {
        let published = relay.metric("postbound_relay_published_total", &[r#"target="crm""#]).await;
        (published >= events).then_some(())
    })
    .await;
}

async fn until_taken_over(installation: &Installation, takeovers: i64) {
    let store = installation.store();
    eventually("another relay is active", SOON, async || {
        let relay = store.relay_status().await.unwrap();
        (relay.takeovers > takeovers && relay.holder.is_some()).then_some(())
    })
    .await;
}

#[expect(clippy::print_stderr, reason = "the time is told, not claimed")]
fn tell(what: &str, since: Instant) {
    eprintln!("{what}: {:.1} s", since.elapsed().as_secs_f64());
}

/// Interrupts the active relay within one batch of some thousand changes, while a transaction is open that is older.
async fn check(interrupt: impl AsyncFnOnce(&mut Process), resume: impl FnOnce(&Process)) {
    let installation = Installation::start(options()).await;
    let mut oldest = installation.database.connect(Role::Producer).await;
    sqlx::raw_sql("begin").execute(&mut oldest).await.unwrap();
    emit_states(&mut oldest, ("t0", "slow"), 5, "created").await;
    let mut producer = installation.database.connect(Role::Producer).await;
    sqlx::raw_sql("begin").execute(&mut producer).await.unwrap();
    for _ in 0..20 {
        emit_states(&mut producer, ("t1", "user"), 100, "updated").await;
    }
    sqlx::raw_sql("commit").execute(&mut producer).await.unwrap();
    let _workers = [installation.worker(&[]), installation.worker(&[])];
    let [mut active, standby] = active_first([installation.relay(), installation.relay()]).await;
    until_published(&active, 300.0).await;

    let takeovers = installation.store().relay_status().await.unwrap().takeovers;
    let interrupted_at = Instant::now();
    interrupt(&mut active).await;
    let confirmed: Option<i64> =
        sqlx::query_scalar("select confirmed_id from postbound.stream_cursor where stream = 'crm'")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
    assert!(confirmed.is_some_and(|id| (6..2005).contains(&id)), "not within the batch: {confirmed:?}");
    sqlx::raw_sql("commit").execute(&mut oldest).await.unwrap();
    until_taken_over(&installation, takeovers).await;
    tell("another relay is active after", interrupted_at);
    emit_states(&mut producer, ("t1", "user"), 100, "updated").await;
    until_published(&standby, 100.0).await;
    resume(&active);
    installation.assert_converged().await;
    assert_eq!(installation.oracle().taken("s2", "slow-1").await, [(1, "created".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_killed_within_a_batch_loses_nothing_not_even_what_commits_late() {
    check(async |relay| relay.kill_9().await, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_stopped_hands_over_at_once() {
    check(
        async |relay| {
            let stopped_at = Instant::now();
            assert_eq!(relay.terminate().await.code(), Some(0), "{}", relay.log());
            tell("the relay ended after", stopped_at);
        },
        |_| {},
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_comes_back_from_a_freeze_disturbs_nothing() {
    check(async |relay| relay.signal(Signal::SIGSTOP), |relay| relay.signal(Signal::SIGCONT)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_frozen_within_a_transaction_does_not_keep_the_cursor_from_the_next() {
    let installation = Installation::start(Options::default()).await;
    let frozen = installation.database.store(Role::Relay);
    let mut transaction = frozen.pool().begin().await.unwrap();
    sqlx::query("select from postbound.stream_cursor where stream = 'user_state' for update")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let _processes = (installation.relay(), installation.worker(&[]));
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t1", "user"), 10, "created").await;
    installation.assert_converged().await;
    sqlx::query("select").execute(&mut *transaction).await.expect_err("it was ended");
}
