use super::{SOON, assert_told, emit, rebase, until_halted, until_witnessed};
use postbound_tests::{Installation, Options, Process, Role, eventually};

const USERS: i32 = 10_000;

/// A relay that has put ten thousand events into queues nobody reads.
async fn full_queues() -> (Installation, Process) {
    let installation = Installation::start(Options::default()).await;
    let relay = installation.relay();
    emit(&installation, "user", USERS, "created").await;
    eventually("everything is in the queues", SOON, async || {
        let published = relay.metric("postbound_relay_published_total", &[]).await;
        (published >= f64::from(USERS) * 2.0).then_some(())
    })
    .await;
    until_witnessed(&installation, 0).await;
    (installation, relay)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_virtual_host_deleted_with_ten_thousand_events_in_it_costs_none_of_them() {
    let (installation, relay) = full_queues().await;
    installation.vhost.make_anew().await;
    let said = until_halted(&relay).await;
    assert!(said.contains("RabbitMQ has lost messages") && said.contains("topology apply"), "{said}");
    assert_told(&installation, &relay, "RabbitMQ has lost messages").await;

    let said = installation.apply_topology().await;
    assert!(said.contains("RabbitMQ's witness had vanished"), "{said}");
    let _worker = installation.worker(&[]);
    installation.assert_converged().await;
    for contract in ["s2", "s3"] {
        assert_eq!(installation.oracle().count(contract, None).await, i64::from(USERS), "each user once");
    }
    relay.until_ready("the relay is ready again", |readiness| readiness.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_were_emptied_with_the_witness_are_missed_though_they_are_there() {
    let (installation, mut relay) = full_queues().await;
    assert!(relay.terminate().await.success());
    installation.vhost.purge().await;
    let relay = installation.relay();
    let said = until_halted(&relay).await;
    assert!(said.contains("its witness is gone"), "{said}");
    let done = rebase(&installation, &[]).await;
    assert_eq!(done["mending"], "republish_log", "{done}");
    let _worker = installation.worker(&[]);
    installation.assert_converged().await;
    let again = installation.run(Role::Operator, &["rebase"]).await;
    assert!(again.status.success(), "nothing to ask: {again:?}");
}
