//! Partitions go to the workers there are, and back when one goes, however it goes.

use super::{SOON, Stream, active_first, emit};
use nix::sys::signal::Signal;
use postbound_tests::{Installation, Options, Process, Role, eventually};
use std::time::Instant;

/// Partitions of both targets per worker alive, by process id.
async fn shares(installation: &Installation) -> Vec<(i32, i64)> {
    let workers = installation.store().live_workers().await.unwrap();
    let pid = |label: &str| label.rsplit(':').next().unwrap().parse().unwrap();
    workers.iter().map(|worker| (pid(&worker.label), worker.partitions)).collect()
}

async fn until_shared(installation: &Installation, among: &[&Process], partitions: i64) {
    let pids: Vec<_> = among.iter().map(|worker| worker.pid()).collect();
    eventually("all partitions are shared", SOON, async || {
        let shares = shares(installation).await;
        let theirs = || shares.iter().filter(|(pid, _)| pids.contains(pid));
        let all_have_some = theirs().filter(|(_, share)| *share > 0).count() == pids.len();
        (all_have_some && theirs().map(|(_, share)| share).sum::<i64>() == partitions).then_some(())
    })
    .await;
}

async fn until_delivered(worker: &Process, events: f64) {
    let delivered = async || {
        let count = worker.metric("postbound_deliveries_total", &[r#"outcome="delivered""#]).await;
        (count >= events).then_some(())
    };
    eventually("the worker delivers", SOON, delivered).await;
}

#[expect(clippy::print_stderr, reason = "the time is told, not claimed")]
fn tell(what: &str, since: Instant) {
    eprintln!("{what}: {:.1} s", since.elapsed().as_secs_f64());
}

/// Interrupts one of three workers in full flow.
async fn check(interrupt: impl AsyncFnOnce(&mut Process), resume: impl FnOnce(&Process)) -> Installation {
    let options = Options::every_event()
        .with("worker.lease", "4s")
        .with("targets.backend.timeout", "1s")
        .with("targets.crm.timeout", "1s")
        // A frozen worker's consumers stay until RabbitMQ misses its heartbeats.
        .with("broker.heartbeat", "1s");
    let installation = Installation::start(options).await;
    let [_active, _standby] = active_first([installation.relay(), installation.relay()]).await;
    let [mut victim, one, other] = [(); 3].map(|()| installation.worker(&[]));
    until_shared(&installation, &[&victim, &one, &other], 8).await;
    let stream = Stream::start(&installation).await;
    until_delivered(&victim, 100.0).await;

    let interrupted_at = Instant::now();
    interrupt(&mut victim).await;
    until_shared(&installation, &[&one, &other], 8).await;
    tell("the other workers have all partitions after", interrupted_at);
    let again = one.metric("postbound_deliveries_total", &[r#"outcome="delivered""#]).await + 300.0;
    until_delivered(&one, again).await;
    resume(&victim);
    stream.stop().await;
    installation.assert_converged_though_late().await;
    installation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_partitions_move_and_nothing_is_lost_or_reordered() {
    let installation = check(async |worker| worker.kill_9().await, |_| {}).await;
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_comes_back_from_a_freeze_disturbs_nothing() {
    // A request it had begun may leave the machine after the thaw: the fence cannot see that, the receiver's guard does.
    check(async |worker| worker.signal(Signal::SIGSTOP), |worker| worker.signal(Signal::SIGCONT)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_leases_ran_out_while_it_stood_still_begins_its_partitions_anew() {
    let options = Options::default().with("worker.lease", "4s").with("targets.backend.timeout", "1s");
    let installation = Installation::start(options.with("targets.crm.timeout", "1s")).await;
    let _relay = installation.relay();
    // There is nobody else to take them: the registry alone would not tell it that others might have had them.
    let worker = installation.worker(&[]);
    until_shared(&installation, &[&worker], 8).await;
    worker.signal(Signal::SIGSTOP);
    eventually("its leases have run out", SOON, async || {
        let expired =
            "select bool_and(expires_at < clock_timestamp() - interval '1 s') from postbound.worker";
        let expired: bool =
            sqlx::query_scalar(expired).fetch_one(installation.database.superuser()).await.unwrap();
        expired.then_some(())
    })
    .await;
    worker.signal(Signal::SIGCONT);
    eventually("it gives them up", SOON, async || worker.log().contains("leases ran out").then_some(()))
        .await;
    emit(&installation, "user", 20, "created").await;
    installation.assert_converged().await;
}

/// Of three workers on two partitions the last by id is spare in the end; until then a partition may be on its way.
async fn spare_of_three(installation: &Installation) -> i32 {
    eventually("three workers share two partitions", SOON, async || {
        let workers: Vec<(String, i64)> = sqlx::query_as(
            "select w.label, count(l.partition) from postbound.worker as w
             left join postbound.partition_lease as l on l.worker_id = w.worker_id
             group by w.worker_id order by w.started_at, w.worker_id",
        )
        .fetch_all(installation.database.superuser())
        .await
        .unwrap();
        let counts: Vec<_> = workers.iter().map(|(_, partitions)| *partitions).collect();
        (counts == [1, 1, 0]).then(|| workers[2].0.rsplit(':').next().unwrap().parse().unwrap())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_a_partition_says_it_is_spare_and_takes_over_when_one_goes() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    let mut owners = vec![installation.worker(&["backend"]), installation.worker(&["backend"])];
    until_shared(&installation, &[&owners[0], &owners[1]], 2).await;
    owners.push(installation.worker(&["backend"]));
    let spare_pid = spare_of_three(&installation).await;
    let spare = owners.iter().position(|worker| worker.pid() == spare_pid).unwrap();
    let spare = owners.remove(spare);
    let readiness = spare
        .until_ready("it says it is spare", |readiness| readiness.state("worker.backend") == "standby")
        .await;
    assert_eq!(readiness.status, 200);
    assert!(readiness.reason("worker.backend").contains("spare"), "{readiness:?}");
    let status = installation.status().await;
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.iter().filter(|worker| worker["partitions"] == 0).count(), 1, "{status}");

    let mut leaving = owners.remove(0);
    assert_eq!(leaving.terminate().await.code(), Some(0));
    spare.until_ready("the spare works", |readiness| readiness.state("worker.backend") == "ready").await;
    until_shared(&installation, &[&spare, &owners[0]], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_task_panics_while_it_is_drained_goes_to_the_next_worker() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    let failpoint = [("failpoint", "worker.drained!")];
    let dying = installation.spawn(Role::Worker, &["worker", "--target", "backend"], &failpoint);
    until_shared(&installation, &[&dying], 2).await;
    let next = installation.worker(&["backend"]);
    until_shared(&installation, &[&dying, &next], 2).await;
    assert!(dying.log().contains("panicked"), "{}", dying.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_configured_otherwise_than_registered_serves_nothing_of_that_target() {
    let installation = Installation::start(Options::default()).await;
    let _relay = installation.relay();
    let other = [("targets.crm.sync_source", "another")];
    let worker = installation.spawn(Role::Worker, &["worker"], &other);
    let readiness =
        worker.until_ready("it is not ready", |readiness| readiness.state("worker") == "not_ready").await;
    assert_eq!(readiness.status, 503);
    let reason = readiness.reason("worker");
    assert!(reason.contains("crm") && reason.contains("postbound topology apply"), "{reason}");

    emit(&installation, "user", 10, "created").await;
    installation.until_settled(&["backend"]).await;
    assert_eq!(installation.oracle().count("s3", None).await, 0);
    let owners = installation.store().partition_owners().await.unwrap();
    assert!(owners.iter().all(|partition| (partition.target == "crm") == partition.owner.is_none()));

    let _good = installation.worker(&["crm"]);
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_left_behind_by_a_new_registration_stops_serving_that_target() {
    let installation = Installation::start(Options::default()).await;
    let _relay = installation.relay();
    let old = installation.worker(&[]);
    emit(&installation, "user", 10, "created").await;
    installation.assert_converged().await;

    let changed = [("targets.crm.sync_source", "another")];
    let mut apply = installation.spawn(Role::Operator, &["topology", "apply"], &changed);
    assert!(apply.ended().await.success(), "{}", apply.log());
    let readiness = old
        .until_ready("it is not ready any more", |readiness| readiness.state("worker") == "not_ready")
        .await;
    assert!(readiness.reason("worker").contains("crm"), "{readiness:?}");
    emit(&installation, "user", 10, "updated").await;
    installation.until_settled(&["backend"]).await;
    assert_eq!(installation.oracle().count("s3", None).await, 10, "sent with settings nobody registered");

    let _new = installation.spawn(Role::Worker, &["worker"], &changed);
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_reach_rabbitmq_takes_no_partition() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    let nowhere =
        [("broker.url", "amqp://nobody:nothing@127.0.0.1:9/none"), ("broker.connect_timeout", "1s")];
    let lonely = installation.spawn(Role::Worker, &["worker"], &nowhere);
    lonely
        .until_ready("it says why it does nothing", |readiness| {
            readiness.reason("worker.backend").contains("no connection to RabbitMQ")
        })
        .await;
    let worker = installation.worker(&[]);
    until_shared(&installation, &[&worker], 4).await;
    let _relay = installation.relay();
    emit(&installation, "user", 20, "created").await;
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_other_settings_says_which() {
    let installation = Installation::start(Options::default()).await;
    let as_registered = installation.worker(&["crm"]);
    as_registered.until_ready("it serves the target", |readiness| readiness.status == 200).await;
    let others = [("targets.crm.sync_source", "hub"), ("targets.crm.api_key", "another-key-81c0")];
    let worker = installation.spawn(Role::Worker, &["worker", "--target", "crm"], &others);
    let told = "target crm is not served: it is registered with other settings: \
                sync_source is hub here, postbound registered; run: postbound topology apply";
    worker.until_ready("it says so", |readiness| readiness.reason("worker") == told).await;
    assert!(worker.log().contains("sync_source is hub here, postbound registered"), "{}", worker.log());

    let output = installation.run_with(Role::Operator, &["topology", "apply"], &others).await;
    assert!(output.status.success(), "{output:?}");
    worker.until_ready("it serves the target now", |readiness| readiness.status == 200).await;
    let told = "sync_source is postbound here, hub registered; restart with its new configuration";
    as_registered
        .until_ready("the other does not any more", |readiness| readiness.reason("worker").ends_with(told))
        .await;
    for (file, log) in installation.logs() {
        assert!(!log.contains("another-key-81c0"), "{file}");
    }
}
