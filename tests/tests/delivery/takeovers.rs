//! A partition's next owner gets what the last one left behind, in its order: whatever RabbitMQ says of the queue, and
//! however few messages it would take ahead.

use super::{SOON, emit};
use nix::sys::signal::Signal;
use postbound_broker::{Broker, BrokerOptions, ConsumingChannel};
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, Process, Role, eventually};
use std::time::Duration;

const QUEUE: &str = "postbound.backend.g1.p000";
const BACKFILL: &str = "postbound.backend.g1.p000.backfill";

/// One partition, a message for each event, and every event counts.
async fn start() -> Installation {
    let options = Options::every_event()
        .partitions(1)
        .with("relay.message_events_max", "1")
        // What hangs is in the hands of its worker until that dies.
        .with("targets.backend.timeout", "60s")
        .with("worker.lease", "80s")
        // Who stands still keeps its connection.
        .with("broker.heartbeat", "60s");
    Installation::start(options).await
}

fn worker(installation: &Installation, prefetch: &str) -> Process {
    let settings = [("targets.backend.prefetch_messages", prefetch)];
    installation.spawn(Role::Worker, &["worker", "--target", "backend"], &settings)
}

/// The user's states of so many versions.
async fn emit_versions(installation: &Installation, count: usize, first: &'static str) {
    for action in std::iter::once(first).chain(std::iter::repeat("updated")).take(count) {
        emit(installation, "user", 1, action).await;
    }
}

/// From now on the backend keeps requests, and never executes them.
async fn hang(installation: &Installation) {
    let fault = Fault { delay_ms: 600_000, drop_connection: true, ..Fault::default() };
    installation.backend.fault(fault).await;
}

async fn until_under_way(installation: &Installation) {
    eventually("a request is under way", SOON, async || {
        (installation.backend.fault_hits().await > 0).then_some(())
    })
    .await;
}

/// Until so many messages are ready, for so many consumers.
async fn until_holds(installation: &Installation, ready: u32, consumers: u32) {
    let what = format!("{ready} messages are ready for {consumers} consumers");
    eventually(&what, SOON, async || {
        let queue = installation.vhost.queue(QUEUE).await?;
        ((queue.messages_ready, queue.consumers) == (ready, consumers)).then_some(())
    })
    .await;
}

async fn until_reason(worker: &Process, words: &str) {
    worker.until_ready(words, |readiness| readiness.reason("worker.backend.0").contains(words)).await;
}

/// All versions of the user arrive, each once and in its turn.
async fn assert_all_arrive(installation: &Installation, versions: i64) {
    installation.until_settled(&["backend"]).await;
    let taken = installation.oracle().taken("s2", "user-1").await;
    let versions: Vec<i64> = (1..=versions).collect();
    assert_eq!(taken.iter().map(|(version, _)| *version).collect::<Vec<_>>(), versions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_do_not_answer_are_not_taken_for_ones_nobody_consumes() {
    let installation = start().await;
    let _relay = installation.relay();
    hang(&installation).await;
    let mut frozen = worker(&installation, "1");
    emit_versions(&installation, 1, "created").await;
    until_under_way(&installation).await;
    frozen.signal(Signal::SIGSTOP);
    installation.backend.behave().await;

    // Of queues that do not answer RabbitMQ says that they have no consumer.
    for queue in [QUEUE, BACKFILL] {
        installation.vhost.suspend_queue(queue).await;
    }
    let heir = worker(&installation, "16");
    installation.end_leases().await;
    until_reason(&heir, "waiting for RabbitMQ to say in time").await;
    for queue in [QUEUE, BACKFILL] {
        installation.vhost.resume_queue(queue).await;
    }
    until_reason(&heir, "waiting for the last consumer").await;
    emit_versions(&installation, 4, "updated").await;
    until_holds(&installation, 4, 1).await;
    frozen.kill_9().await;
    assert_all_arrive(&installation, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_would_take_fewer_messages_ahead_than_the_last_one_keeps_them_in_order() {
    let installation = start().await;
    let _relay = installation.relay();
    emit_versions(&installation, 8, "created").await;
    until_holds(&installation, 8, 0).await;
    for prefetch in ["8", "2"] {
        hang(&installation).await;
        let mut dies = worker(&installation, prefetch);
        until_under_way(&installation).await;
        dies.kill_9().await;
        installation.end_leases().await;
        until_holds(&installation, 8, 0).await;
    }
    installation.backend.behave().await;
    let mut heir = worker(&installation, "2");
    assert_all_arrive(&installation, 8).await;

    // The queue is empty: nobody can have given back anything, and fewer will do.
    until_holds(&installation, 0, 1).await;
    heir.terminate().await;
    let next = worker(&installation, "2");
    next.until_ready("it serves", |readiness| readiness.state("worker.backend.0") == "ready").await;
    let ahead: i32 =
        sqlx::query_scalar("select messages from postbound.partition_prefetch where target = 'backend'")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
    assert_eq!(ahead, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_start_nobody_waits_for_any_more_goes_away() {
    let installation = start().await;
    let broker = Broker::new(&BrokerOptions {
        url: installation.vhost.url().to_owned(),
        password: None,
        heartbeat: SOON,
        connect_timeout: SOON,
        ca_file: None,
        client_certificate: None,
    });
    let link = broker.unwrap().connect("test").await.unwrap();
    installation.vhost.suspend_queue(QUEUE).await;
    let channel = ConsumingChannel::open(&link, 1).await.unwrap();
    let started = tokio::time::timeout(Duration::from_millis(100), channel.consume(QUEUE)).await;
    assert!(started.is_err(), "the queue cannot answer");
    installation.vhost.resume_queue(QUEUE).await;
    // The queue hears of this one after the other.
    let _consumer = ConsumingChannel::open(&link, 1).await.unwrap().consume(QUEUE).await.unwrap();
    until_holds(&installation, 0, 1).await;
}
