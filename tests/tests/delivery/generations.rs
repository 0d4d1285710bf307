//! The number of partitions changes while everything runs, and nobody can tell from what arrives.

use super::{SOON, Stream, active_first, emit};
use nix::sys::signal::Signal;
use postbound_store::{Generation, Registration, Saved};
use postbound_tests::{Installation, Options, Role, eventually};
use std::process::Output;
use uuid::Uuid;

/// `topology apply` with another number of partitions.
async fn apply(installation: &Installation, partitions: u16, flags: &[&str]) -> Output {
    let args = [&["topology", "apply"], flags].concat();
    installation.run_with(Role::Operator, &args, &[("topology.partitions", &partitions.to_string())]).await
}

async fn repartition(installation: &Installation, partitions: u16) -> String {
    let output = apply(installation, partitions, &["--repartition"]).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Partitions per target that have an owner.
async fn owned(installation: &Installation, target: &str) -> usize {
    let owners = installation.store().partition_owners().await.unwrap();
    owners.iter().filter(|partition| partition.target == target && partition.owner.is_some()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_change_under_a_live_stream_and_every_event_arrives_in_order() {
    let installation = Installation::start(Options::every_event()).await;
    let _relay = installation.relay();
    let _workers = [installation.worker(&[]), installation.worker(&[])];
    let stream = Stream::start(&installation).await;
    emit(&installation, "user", 50, "created").await;
    for partitions in [8, 3] {
        let said = repartition(&installation, partitions).await;
        assert!(said.contains(&format!("to {partitions} partitions")), "{said}");
        emit(&installation, "user", 50, "updated").await;
        installation.until_drained().await;
        for target in ["backend", "crm"] {
            eventually("the new partitions have owners", SOON, async || {
                (owned(&installation, target).await == usize::from(partitions)).then_some(())
            })
            .await;
        }
    }
    stream.stop().await;
    installation.assert_converged().await;
    let status = installation.status().await;
    assert_eq!(status["draining"], serde_json::Value::Null, "{status}");

    let pruned = apply(&installation, 3, &["--prune"]).await;
    let said = String::from_utf8_lossy(&pruned.stdout).into_owned();
    for target in ["backend", "crm"] {
        // Live and backfill, of four and then of eight partitions.
        assert!(said.contains(&format!("{target}: 24 queues of past generations deleted")), "{said}");
        let queue = |name: &str| format!("postbound.{target}.{name}");
        assert_eq!(installation.vhost.queue(&queue("g1.p003")).await, None);
        assert_eq!(installation.vhost.queue(&queue("g2.p007.backfill")).await, None);
        assert!(installation.vhost.queue(&queue("g3.p002.backfill")).await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_number_of_partitions_is_refused_unless_asked_for_and_while_it_changes() {
    let installation = Installation::start(Options::default()).await;
    let before = installation.store().registered_targets().await.unwrap();
    let refused = apply(&installation, 8, &[]).await;
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("put it back to 4") && said.contains("topology apply --repartition"), "{said}");
    assert_eq!(installation.store().registered_targets().await.unwrap(), before);
    assert_eq!(installation.vhost.queue("postbound.crm.g2.p000").await, None);

    repartition(&installation, 8).await;
    let twice = apply(&installation, 16, &["--repartition"]).await;
    assert_eq!(twice.status.code(), Some(1), "{twice:?}");
    let said = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(said.contains("it still changes them from 4 to 8"), "{said}");
    assert_eq!(installation.vhost.queue("postbound.crm.g3.p000").await, None);
    let again = apply(&installation, 8, &["--repartition"]).await;
    assert!(again.status.success(), "to what it changes to already: {again:?}");

    let status = installation.status().await;
    assert_eq!(status["draining"][0]["target"], "backend", "{status}");
    assert_eq!(status["draining"][0]["relay_moved_on"], false, "{status}");
    let shown = installation.run(Role::Operator, &["topology", "show"]).await;
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in ["crm changes its partitions", "postbound.crm.g1.p003", "postbound.crm.g2.p007.backfill"] {
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_old_queues_is_delivered_before_anything_in_the_new_ones() {
    let installation = Installation::start(Options::every_event()).await;
    let relay = installation.relay();
    emit(&installation, "user", 60, "created").await;
    let published = async |events: f64| {
        let published = relay.metric("postbound_relay_published_total", &[r#"target="backend""#]).await;
        (published >= events).then_some(())
    };
    eventually("the first changes are in the old queues", SOON, async || published(60.0).await).await;
    repartition(&installation, 8).await;
    emit(&installation, "user", 60, "updated").await;
    eventually("the next changes are in the new ones", SOON, async || published(120.0).await).await;

    let _workers = [installation.worker(&[]), installation.worker(&[])];
    installation.assert_converged().await;
    let mixed: Vec<(String, i64)> = sqlx::query_as(
        "select user_id, version from receiver.request_log as r
         where contract = 's2' and version = 2
           and id < (select max(id) from receiver.request_log where contract = 's2' and version = 1)",
    )
    .fetch_all(installation.database.superuser())
    .await
    .unwrap();
    assert!(mixed.is_empty(), "delivered while the old queues were not empty: {mixed:?}");
    installation.until_drained().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_frozen_while_the_partitions_change_leaves_nothing_behind_that_is_missed() {
    let installation = Installation::start(Options::every_event()).await;
    let [active, standby] = active_first([installation.relay(), installation.relay()]).await;
    let _workers = [installation.worker(&[]), installation.worker(&[])];
    let stream = Stream::start(&installation).await;
    eventually("the stream is in full flow", SOON, async || {
        (installation.oracle().count("s2", None).await > 100).then_some(())
    })
    .await;
    active.signal(Signal::SIGSTOP);
    repartition(&installation, 8).await;
    let drained: i64 = sqlx::query_scalar("select count(*) from postbound.drained_partition")
        .fetch_one(installation.database.superuser())
        .await
        .unwrap();
    let targets = installation.store().draining_targets().await.unwrap();
    let left = targets.len() < 2 || targets.iter().any(|target| target.relay_moved_on);
    assert!(drained == 0 || left, "a partition was given up while a relay could publish to it");

    installation.until_drained().await;
    active.signal(Signal::SIGCONT);
    standby.until_ready("it publishes", |readiness| readiness.state("relay.crm") == "ready").await;
    stream.stop().await;
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_queue_that_vanished_is_not_taken_for_an_empty_one() {
    let installation = Installation::start(Options::every_event()).await;
    let relay = installation.relay();
    emit(&installation, "user", 60, "created").await;
    eventually("the changes are in the old queues", SOON, async || {
        let published = relay.metric("postbound_relay_published_total", &[r#"target="crm""#]).await;
        (published >= 60.0).then_some(())
    })
    .await;
    repartition(&installation, 8).await;
    let queue = "postbound.crm.g1.p000";
    installation.vhost.delete_queue(queue).await;
    let worker = installation.worker(&[]);
    let readiness = worker
        .until_ready("it says which queue is missing", |readiness| {
            readiness.reason("worker.crm.0").contains("is missing")
        })
        .await;
    assert!(readiness.reason("worker.crm.0").contains(queue), "{readiness:?}");
    eventually("the others are drained", SOON, async || {
        let targets = installation.store().draining_targets().await.unwrap();
        (targets.len() == 1 && targets[0].drained == 3).then_some(())
    })
    .await;

    let output = apply(&installation, 8, &[]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("crm: 1 queues had vanished"), "{said}");
    installation.until_drained().await;
    installation.assert_converged().await;
    for contract in ["s2", "s3"] {
        assert_eq!(installation.oracle().count(contract, None).await, 60, "each user once, at {contract}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_message_in_a_drained_queue_is_told_and_its_queue_is_kept() {
    let installation = Installation::start(Options::every_event().partitions(2)).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    repartition(&installation, 1).await;
    installation.until_drained().await;
    installation.vhost.publish(&installation.http, "postbound.crm", "g1.p001", "[]").await;
    let findings =
        installation.run_with(Role::Operator, &["doctor", "--json"], &[("topology.partitions", "1")]).await;
    let findings = String::from_utf8_lossy(&findings.stdout).into_owned();
    assert!(findings.contains("of past generations not empty"), "{findings}");

    let pruned = apply(&installation, 1, &["--prune"]).await;
    let said = String::from_utf8_lossy(&pruned.stdout).into_owned();
    assert!(said.contains("backend: 4 queues of past generations deleted"), "{said}");
    assert!(said.contains("crm: 3 queues of past generations deleted"), "{said}");
    assert!(said.contains("are kept: postbound.crm.g1.p001;"), "{said}");
    installation.vhost.delete_queue("postbound.crm.g1.p001").await;
    apply(&installation, 1, &["--prune"]).await;
    assert!(installation.store().past_partitions("crm").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_backfill_queue_is_declared_again_and_nothing_is_rewound() {
    let installation = Installation::start(Options::default()).await;
    let queue = "postbound.crm.g1.p003.backfill";
    installation.vhost.delete_queue(queue).await;
    let shown = installation.run(Role::Operator, &["topology", "show"]).await;
    assert_eq!(shown.status.code(), Some(4), "{shown:?}");
    let said = installation.apply_topology().await;
    assert!(said.contains("crm: 1 backfill queues were missing"), "{said}");
    assert!(said.contains("crm: 1 queues created") && !said.contains("published again"), "{said}");
    assert!(installation.vhost.queue(queue).await.is_some());
    assert_eq!(installation.store().cursor_rewinds("crm").await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_while_the_partitions_change_loses_nothing() {
    let options = Options::every_event()
        .with("worker.lease", "4s")
        .with("targets.backend.timeout", "1s")
        .with("targets.crm.timeout", "1s");
    let installation = Installation::start(options).await;
    let [mut active, _standby] = active_first([installation.relay(), installation.relay()]).await;
    let [mut victim, _other] = [installation.worker(&[]), installation.worker(&[])];
    let stream = Stream::start(&installation).await;
    eventually("the stream is in full flow", SOON, async || {
        (installation.oracle().count("s2", None).await > 100).then_some(())
    })
    .await;
    repartition(&installation, 8).await;
    victim.kill_9().await;
    installation.vhost.cut_connections().await;
    installation.until_drained().await;
    let _late = installation.worker(&[]);
    repartition(&installation, 2).await;
    active.kill_9().await;
    installation.until_drained().await;
    stream.stop().await;
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_relay_no_partition_is_given_up() {
    let installation = Installation::start(Options::every_event()).await;
    let mut relay = installation.relay();
    let _worker = installation.worker(&[]);
    emit(&installation, "user", 20, "created").await;
    installation.assert_converged().await;
    relay.kill_9().await;
    repartition(&installation, 8).await;
    emit(&installation, "user", 20, "updated").await;
    let heartbeat = async || -> sqlx::types::time::OffsetDateTime {
        sqlx::query_scalar("select max(expires_at) from postbound.worker")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap()
    };
    let at = heartbeat().await;
    eventually("the worker has looked several times", SOON, async || {
        (heartbeat().await > at + std::time::Duration::from_secs(3)).then_some(())
    })
    .await;
    let targets = installation.store().draining_targets().await.unwrap();
    assert!(targets.len() == 2 && targets.iter().all(|target| target.drained == 0), "{targets:?}");
    assert_eq!(owned(&installation, "crm").await, 4);

    let _next = installation.relay();
    installation.assert_converged().await;
    installation.until_drained().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_target_one_generation_is_leased_at_a_time() {
    let installation = Installation::start(Options::default()).await;
    let [store, workers, relay] =
        [Role::Operator, Role::Worker, Role::Relay].map(|role| installation.database.store(role));
    let [one, other] = [Uuid::new_v4(), Uuid::new_v4()];
    for worker in [one, other] {
        workers.heartbeat(worker, "test", &["crm".to_owned()], SOON).await.unwrap();
    }
    let [old, new] = [(1, 4), (2, 8)].map(|(number, partitions)| Generation { number, partitions });
    let balance =
        async |worker, generation| workers.balance_partitions(worker, "crm", generation).await.unwrap();
    assert_eq!(balance(one, old).await.owned.len(), 2);
    assert_eq!(balance(other, old).await.owned.len(), 2);
    let crm = store.registered_targets().await.unwrap().remove(1);
    let claimed = relay.claim_cursor("crm", 1).await.unwrap().unwrap();
    assert!(relay.enter_generation("crm", 1, 1).await.unwrap());
    let wanted = Registration { partitions: 8, ..crm.registration };
    assert!(store.repartition_target(&wanted, 1).await.unwrap());
    assert!(!store.repartition_target(&wanted, 2).await.unwrap(), "while the first one is drained");
    assert!(balance(one, new).await.owned.is_empty(), "before the old one is drained");

    let saved = relay.save_cursor("crm", 1, &claimed).await.unwrap();
    assert_eq!(saved, Saved::Fenced, "what is confirmed from now on counts for the new one only");
    assert!(!relay.enter_generation("crm", 1, 1).await.unwrap(), "a relay that knows the old one only");
    assert!(!relay.enter_generation("crm", 0, 2).await.unwrap(), "a relay that was replaced");
    assert!(relay.enter_generation("crm", 1, 2).await.unwrap());
    let retire =
        async |worker, partition| workers.retire_partition(worker, "crm", 1, partition).await.unwrap();
    for partition in [0, 1] {
        assert!(!retire(one, partition).await);
    }
    assert!(balance(one, old).await.owned.is_empty(), "drained ones are not given out again");
    assert!(!retire(other, 2).await);
    assert!(retire(one, 3).await, "the last one, whoever saw that it is empty");
    // The other worker has not given its lease back yet.
    assert!(balance(one, new).await.owned.is_empty());
    workers.release_partition(other, "crm", 1, 3).await.unwrap();
    assert_eq!(balance(one, new).await.owned.len(), 4);
    assert_eq!(balance(other, old).await.owned.len(), 0, "the old one is past");
    assert_eq!(store.past_partitions("crm").await.unwrap().len(), 4);
}
