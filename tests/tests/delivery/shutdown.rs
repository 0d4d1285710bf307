//! SIGTERM: what is under way is settled and the leases are given back; a second one ends it at once.

use super::{SOON, emit};
use nix::sys::signal::Signal;
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, Process, eventually};
use std::time::{Duration, Instant};

/// A worker with one request under way that takes `delay`.
async fn with_a_slow_request(delay: Duration, lease: &str) -> (Installation, Process, Process) {
    let options = Options::default()
        .with("worker.lease", lease)
        .with("targets.backend.timeout", "5s")
        .with("targets.crm.timeout", "5s");
    let installation = Installation::start(options).await;
    let relay = installation.relay();
    let worker = installation.worker(&["backend"]);
    let delay_ms = u64::try_from(delay.as_millis()).unwrap();
    installation.backend.fault(Fault { delay_ms, times: Some(1), ..Fault::default() }).await;
    emit(&installation, "user", 1, "created").await;
    eventually("the request is under way", SOON, async || {
        (installation.backend.fault_hits().await == 1).then_some(())
    })
    .await;
    (installation, relay, worker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_settles_what_is_under_way_and_gives_its_partitions_back() {
    let (installation, _relay, mut worker) = with_a_slow_request(Duration::from_millis(1500), "30s").await;
    assert_eq!(worker.terminate().await.code(), Some(0), "{}", worker.log());
    let counts = installation.store().target_counts().await.unwrap();
    let backend = counts.iter().find(|counts| counts.target == "backend").unwrap();
    assert_eq!((backend.in_sync, backend.pending), (1, 0), "the outcome is in the ledger");

    let ended_at = Instant::now();
    let next = installation.worker(&["backend"]);
    let label = format!(":{}", next.pid());
    eventually("the next worker owns all partitions", SOON, async || {
        let owners = installation.store().partition_owners().await.unwrap();
        let of_backend = owners.iter().filter(|partition| partition.target == "backend");
        let owned = |owner: &Option<String>| owner.as_ref().is_some_and(|owner| owner.ends_with(&label));
        (of_backend.filter(|partition| owned(&partition.owner)).count() == 4).then_some(())
    })
    .await;
    assert!(ended_at.elapsed() < Duration::from_secs(20), "the lease was waited for");
    emit(&installation, "user", 1, "updated").await;
    installation.until_settled(&["backend"]).await;
    let expected = [(1, "created".to_owned()), (2, "updated".to_owned())];
    assert_eq!(installation.oracle().taken("s2", "user-1").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_worker_at_once_and_what_was_under_way_is_delivered_by_another() {
    let (installation, _relay, mut worker) = with_a_slow_request(Duration::from_millis(4500), "8s").await;
    worker.signal(Signal::SIGTERM);
    eventually("it drains", SOON, async || worker.log().contains("draining").then_some(())).await;
    let signalled_at = Instant::now();
    assert_eq!(worker.terminate().await.code(), Some(5), "{}", worker.log());
    assert!(signalled_at.elapsed() < Duration::from_secs(3));

    let _next = installation.worker(&[]);
    emit(&installation, "user", 1, "updated").await;
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_targets_are_away_ends_in_time_and_keeps_nothing() {
    let mut installation = Installation::start(Options::default()).await;
    let _relay = installation.relay();
    let mut worker = installation.worker(&[]);
    installation.backend.stop().await;
    installation.crm.stop().await;
    emit(&installation, "user", 50, "created").await;
    eventually("both targets are known to be away", SOON, async || {
        (worker.log().matches("connection_refused").count() >= 2).then_some(())
    })
    .await;
    let signalled_at = Instant::now();
    assert_eq!(worker.terminate().await.code(), Some(0), "{}", worker.log());
    assert!(signalled_at.elapsed() < Duration::from_secs(5));

    installation.backend.start_again().await;
    installation.crm.start_again().await;
    let _next = installation.worker(&[]);
    installation.assert_converged().await;
    assert_eq!(installation.oracle().count("s2", None).await, 50);
}
