//! Queues that are missing or full stop the one target they belong to, and say so.

use super::{SOON, emit};
use postbound_tests::{Installation, Options, Role, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_queue_stops_its_target_alone_and_topology_apply_brings_everything_again() {
    let installation = Installation::start(Options::default()).await;
    let relay = installation.relay();
    let worker = installation.worker(&[]);
    emit(&installation, "early", 20, "created").await;
    installation.assert_converged().await;

    let queue = "postbound.crm.g1.p000";
    installation.vhost.delete_queue(queue).await;
    emit(&installation, "late", 40, "created").await;
    installation.until_settled(&["backend"]).await;
    for (process, component) in [(&relay, "relay.crm"), (&worker, "worker.crm.0")] {
        let readiness = process
            .until_ready("it says which queue is missing", |readiness| {
                readiness.state(component) == "not_ready"
                    && readiness.reason(component).contains("is missing")
            })
            .await;
        let reason = readiness.reason(component);
        assert!(reason.contains(queue) && reason.contains("postbound topology apply"), "{reason}");
        assert_eq!(readiness.status, 503);
    }
    assert_eq!(relay.readyz().await.state("relay.backend"), "ready");
    let shown = installation.run(Role::Operator, &["topology", "show"]).await;
    assert_eq!(shown.status.code(), Some(4), "{shown:?}");

    let said = installation.apply_topology().await;
    assert!(said.contains("crm: 1 queues created"), "{said}");
    installation.assert_converged().await;
    relay.until_ready("the relay is ready again", |readiness| readiness.status == 200).await;
    worker.until_ready("the worker is ready again", |readiness| readiness.status == 200).await;
    for contract in ["s2", "s3"] {
        assert_eq!(installation.oracle().count(contract, None).await, 60, "each user once, at {contract}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_stops_its_target_alone_until_a_worker_drains_it() {
    let options =
        Options::every_event().with("topology.queue_messages_max", "5").with("relay.message_events_max", "1");
    let installation = Installation::start(options).await;
    let relay = installation.relay();
    let _worker = installation.worker(&["backend"]);
    for _ in 0..5 {
        emit(&installation, "user", 30, "updated").await;
    }
    installation.until_settled(&["backend"]).await;
    let full = |readiness: &postbound_tests::Readiness| readiness.reason("relay.crm").contains("is full");
    let readiness = relay.until_ready("it says that a queue is full", full).await;
    assert_eq!((readiness.status, readiness.state("relay.crm")), (200, "standby"));
    assert_eq!(installation.oracle().count("s3", None).await, 0);
    let lags = installation.store().stream_lags().await.unwrap();
    assert!(lags.iter().any(|lag| lag.stream == "crm" && lag.rows > 100), "{lags:?}");

    let _late = installation.worker(&["crm"]);
    installation.assert_converged().await;
    relay.until_ready("it goes on", |readiness| readiness.state("relay.crm") == "ready").await;
    eventually("nothing lags", SOON, async || {
        let lags = installation.store().stream_lags().await.unwrap();
        lags.iter().all(|lag| lag.rows == 0).then_some(())
    })
    .await;
}
