//! Jobs whose queues change their number, or are full.

use super::{SOON, execute, items, until_items, until_job_is};
use crate::operators::letters;
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, Role, emit_states, eventually};
use serde_json::Value;

/// Makes a job with a command; gives its number.
async fn make(installation: &Installation, args: &[&str]) -> i64 {
    let output = installation.run(Role::Operator, &[args, &["--yes", "--json"]].concat()).await;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let job = answer["job"]["job_id"].as_i64().or_else(|| answer["jobs"][0]["job_id"].as_i64());
    job.unwrap_or_else(|| panic!("{answer}"))
}

async fn emit(installation: &Installation, prefix: &str, users: i32, action: &str) {
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", prefix), users, action).await;
}

async fn repartition(installation: &Installation, partitions: u16) {
    let args = ["topology", "apply", "--repartition"];
    let settings = [("topology.partitions", &*partitions.to_string())];
    let output = installation.run_with(Role::Operator, &args, &settings).await;
    assert!(output.status.success(), "{output:?}");
}

/// Writes down each time an item ends, and each time one that had ended becomes something else.
async fn note_endings(installation: &Installation) {
    execute(
        installation,
        "create table public.ending (job_id bigint, item bigint, was text, became text);
         create function public.note_ending() returns trigger language plpgsql security definer as $$ begin
             insert into public.ending values (old.job_id, old.item, old.state, new.state); return null; end $$;
         create trigger note_ending after update on postbound.job_item for each row
         when (old.state <> new.state and (old.settled_at is not null or new.settled_at is not null))
         execute function public.note_ending()",
    )
    .await;
}

async fn number(installation: &Installation, query: &str) -> i64 {
    let read = sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()));
    read.fetch_one(installation.database.superuser()).await.unwrap()
}

/// Changes the partitions twice while a job of 600 items runs; each ends once.
async fn check_each_item_ends_once(installation: &Installation, job: i64) {
    for (partitions, settled) in [(8, 50), (3, 250)] {
        until_items(installation, job, "delivered", settled).await;
        repartition(installation, partitions).await;
        emit(installation, "live", 50, "updated").await;
        installation.until_drained().await;
    }
    assert!(items(installation, job, "delivered").await < 600, "the partitions changed too late");
    execute(installation, "update postbound.job set rate_per_second = null").await;
    until_job_is(installation, job, "done").await;
    let ended = items(installation, job, "delivered").await + items(installation, job, "superseded").await;
    assert_eq!(ended, 600);
    let notes = "select count(*) from public.ending";
    assert_eq!(number(installation, notes).await, 600, "an item that had ended became something else");
    assert_eq!(number(installation, "select count(distinct item) from public.ending").await, 600);
}

fn patient() -> Options {
    // What reached an old queue late is missed, and sent again.
    Options::default().with("relay.job_lost_after", "3s")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_item_of_a_resync_ends_once_while_the_partitions_change() {
    let installation = Installation::start(patient()).await;
    note_endings(&installation).await;
    let (_relay, _workers) = (installation.relay(), [installation.worker(&[]), installation.worker(&[])]);
    emit(&installation, "user", 600, "created").await;
    installation.assert_converged().await;
    let job = make(&installation, &["resync", "--target", "crm", "--all", "--rate", "40"]).await;
    check_each_item_ends_once(&installation, job).await;
    installation.until_settled(&["backend", "crm"]).await;
    installation.oracle().assert_one_body_per_key().await;
    for contract in ["s2", "s3"] {
        installation.oracle().assert_equal_to_source(contract).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_item_of_a_replay_ends_once_while_the_partitions_change() {
    let installation = Installation::start(patient()).await;
    note_endings(&installation).await;
    let (_relay, _workers) = (installation.relay(), [installation.worker(&[]), installation.worker(&[])]);
    execute(&installation, &letters("backend", 600, "http_500", "transient", 500)).await;
    let job = make(&installation, &["dead-letters", "replay", "--target", "backend", "--rate", "40"]).await;
    check_each_item_ends_once(&installation, job).await;
    let held = "select count(*) from receiver.backend_users where user_id like 'u-%' and version = 5";
    assert_eq!(number(&installation, held).await, 600);
    assert_eq!(number(&installation, "select count(*) from postbound.open_dead_letter").await, 0);
    installation.oracle().assert_one_body_per_key().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_in_a_queue_that_is_still_to_be_drained_are_not_taken_for_lost() {
    let installation =
        Installation::start(Options::default().partitions(1).with("relay.job_lost_after", "1s")).await;
    let relay = installation.relay();
    let mut worker = installation.worker(&[]);
    emit(&installation, "user", 20, "created").await;
    installation.assert_converged().await;
    worker.terminate().await;
    let job = make(&installation, &["resync", "--target", "backend", "--all"]).await;
    until_items(&installation, job, "sent", 20).await;
    repartition(&installation, 2).await;
    let renewed = async || -> sqlx::types::time::OffsetDateTime {
        sqlx::query_scalar("select expires_at from postbound.relay_lease")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap()
    };
    let at = renewed().await;
    eventually("the relay had time to look for lost ones several times", SOON, async || {
        (renewed().await > at + std::time::Duration::from_secs(6)).then_some(())
    })
    .await;
    assert_eq!(items(&installation, job, "sent").await, 20);
    assert!(!relay.log().contains("lost on their way"), "{}", relay.log());

    let _worker = installation.worker(&[]);
    until_job_is(&installation, job, "done").await;
    installation.until_drained().await;
    assert_eq!(
        installation.oracle().count("s2", None).await,
        40,
        "each user once, and once more for the job"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_backfill_queue_holds_up_its_job_alone_until_it_is_drained() {
    let options = Options::default()
        .partitions(1)
        .with("topology.queue_messages_max", "2")
        .with("relay.message_events_max", "5")
        .with("targets.backend.concurrency", "2");
    let installation = Installation::start(options).await;
    note_endings(&installation).await;
    let relay = installation.relay();
    let mut worker = installation.worker(&[]);
    emit(&installation, "user", 100, "created").await;
    installation.assert_converged().await;
    worker.terminate().await;
    let job = make(&installation, &["resync", "--target", "backend", "--all"]).await;
    let full = |readiness: &postbound_tests::Readiness| {
        readiness.reason("relay.jobs.backend").contains("p000.backfill is full; waiting for its workers")
    };
    let readiness = relay.until_ready("it says which queue is full", full).await;
    assert_eq!((readiness.status, readiness.state("relay.jobs.backend")), (200, "standby"));
    assert_eq!(readiness.state("relay.backend"), "ready");
    emit(&installation, "early", 3, "created").await;
    let store = installation.store();
    eventually("live changes are published", SOON, async || {
        store.stream_lags().await.unwrap().iter().all(|lag| lag.rows == 0).then_some(())
    })
    .await;

    // Users of the job take their time, one after the other: half of the concurrency is for live changes.
    let for_users = (1..=100).map(|user| format!("user-{user}")).collect();
    installation.backend.fault(Fault { for_users, delay_ms: 200, ..Fault::default() }).await;
    let _worker = installation.worker(&[]);
    emit(&installation, "late", 3, "created").await;
    let live = "select count(*) from postbound.delivery_ledger
                where target = 'backend' and (user_id like 'early-%' or user_id like 'late-%')";
    eventually("live changes are delivered", SOON, async || {
        (number(&installation, live).await == 6).then_some(())
    })
    .await;
    let waiting = items(&installation, job, "waiting").await;
    assert!(waiting > 0, "all of the job went out before");

    installation.backend.behave().await;
    until_job_is(&installation, job, "done").await;
    assert_eq!(items(&installation, job, "delivered").await, 100);
    assert_eq!(number(&installation, "select count(*) from public.ending").await, 100);
    installation.until_settled(&["backend", "crm"]).await;
    installation.oracle().assert_one_body_per_key().await;
}
