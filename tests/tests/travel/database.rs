use super::{
    SOON, assert_told, emit, machine::TimeMachine, rebase, until_converged, until_halted, until_witnessed,
};
use postbound_tests::{Installation, Options, Process, Role, eventually};

/// Thirty users are delivered and vouched for by both sides, and that moment is remembered: there it will go back.
struct Past {
    machine: TimeMachine,
    installation: Installation,
    relay: Process,
    worker: Process,
    /// The last beat before.
    beat: i64,
}

impl Past {
    async fn remembered(options: Options) -> Self {
        let machine = TimeMachine::start().await;
        let installation = machine.installation(options).await;
        let (relay, worker) = (installation.relay(), installation.worker(&[]));
        emit(&installation, "user", 30, "created").await;
        until_converged(&installation).await;
        let beat = until_witnessed(&installation, 0).await;
        machine.remember().await;
        Self { machine, installation, relay, worker, beat }
    }
}

/// A history that will be lost: all users change twice, five are new, ten are deleted. Everything is delivered.
async fn lost_future(installation: &Installation) {
    emit(installation, "user", 30, "updated").await;
    emit(installation, "user", 10, "deleted").await;
    emit(installation, "lost", 5, "created").await;
    until_converged(installation).await;
}

/// What happens after: more changes than were lost, so that new ids go past the old ones. Most users do not change.
async fn another_future(installation: &Installation) {
    emit(installation, "user", 15, "updated").await;
    emit(installation, "user", 5, "updated").await;
    emit(installation, "new", 60, "created").await;
}

async fn published(relay: &Process) -> f64 {
    relay.metric("postbound_relay_published_total", &[]).await
}

/// Heals it, and sees that everybody agrees, also on what comes after.
async fn heal(installation: &Installation, relay: &Process) {
    let done = rebase(installation, &[]).await;
    assert_eq!(done["mending"], "begin_history", "{done}");
    assert_eq!(done["jobs"].as_array().unwrap().len(), 2, "{done}");
    let only_there = until_converged(installation).await;
    assert_eq!(only_there, ["lost-1", "lost-2", "lost-3", "lost-4", "lost-5"]);
    relay.until_ready("it publishes", |readiness| readiness.state("relay.witness") == "ready").await;
    emit(installation, "user", 30, "created").await;
    emit(installation, "lost", 5, "created").await;
    let only_there = until_converged(installation).await;
    assert!(only_there.is_empty(), "a user of the lost future who comes again is taken: {only_there:?}");
    let again = installation.run(Role::Operator, &["rebase", "--dry-run"]).await;
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing to mend"), "{again:?}");
    let letters: i64 = sqlx::query_scalar("select count(*) from postbound.open_dead_letter")
        .fetch_one(installation.database.superuser())
        .await
        .unwrap();
    assert_eq!(letters, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_promoted_too_early_halts_the_relay_that_saw_it_and_rebase_heals_it() {
    let Past { machine, installation, relay, worker: _worker, .. } =
        Past::remembered(Options::default()).await;
    lost_future(&installation).await;
    let before = published(&relay).await;
    machine.promote_what_is_remembered().await;
    another_future(&installation).await;

    let said = until_halted(&relay).await;
    assert!(said.contains("Postgres has gone back in time"), "{said}");
    assert_eq!(published(&relay).await.to_bits(), before.to_bits(), "nothing is published past it");
    assert_told(&installation, &relay, "gone back in time").await;
    heal(&installation, &relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_starts_after_a_restore_finds_it_by_rabbitmqs_witness() {
    let Past { machine, installation, mut relay, mut worker, beat } =
        Past::remembered(Options::default()).await;
    lost_future(&installation).await;
    until_witnessed(&installation, beat).await;
    relay.kill_9().await;
    // What is published and not delivered is in the queues when the database goes back.
    worker.kill_9().await;
    let relay = installation.relay();
    emit(&installation, "user", 30, "created").await;
    eventually("it is published", SOON, async || (published(&relay).await >= 60.0).then_some(())).await;
    until_witnessed(&installation, beat + 1).await;
    drop(relay);
    machine.go_back().await;
    another_future(&installation).await;

    let _worker = installation.worker(&[]);
    let relay = installation.relay();
    let said = until_halted(&relay).await;
    assert!(said.contains("Postgres has gone back in time") && said.contains("beat"), "{said}");
    assert_eq!(published(&relay).await.to_bits(), 0_f64.to_bits(), "nothing is published past it");
    heal(&installation, &relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_that_get_every_event_get_those_that_came_after() {
    let options = Options::every_event();
    let Past { machine, installation, relay, worker: _worker, .. } = Past::remembered(options).await;
    lost_future(&installation).await;
    machine.go_back().await;
    another_future(&installation).await;
    emit(&installation, "user", 30, "updated").await;
    until_halted(&relay).await;
    let done = rebase(&installation, &[]).await;
    assert_eq!(done["not_resynced"].as_array().unwrap().len(), 2, "{done}");
    // All of them changed since, so that all are sent what is newest without a resync.
    until_converged(&installation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_or_a_restart_that_loses_nothing_is_no_reason_to_stop() {
    let Past { machine, installation, relay, worker: _worker, .. } =
        Past::remembered(Options::default()).await;
    emit(&installation, "user", 30, "updated").await;
    until_converged(&installation).await;
    // The beat of the last changes has to be in what is remembered.
    relay.until_ready("it is there", |readiness| readiness.state("relay.witness") == "ready").await;
    drop(relay);
    let relay = installation.relay();
    relay.until_ready("it is there", |readiness| readiness.state("relay.witness") == "ready").await;
    std::fs::remove_dir_all(machine.postgres().log().with_file_name("remembered")).unwrap();
    machine.remember().await;
    machine.promote_what_is_remembered().await;
    emit(&installation, "user", 30, "updated").await;
    until_converged(&installation).await;
    relay.until_ready("it is ready", |readiness| readiness.status == 200).await;
    assert!(relay.log().contains("Postgres was promoted"), "{}", relay.log());
}
