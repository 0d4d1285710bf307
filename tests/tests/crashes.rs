//! A process dies between two steps that no transaction holds together; the next one makes up for it.
//!
//! Each test has a process abort at a named place (see `postbound-failpoint`), at its first pass or in the middle of its
//! work, then starts another, and holds what the targets saw against all that was promised.

use super::delivery::{SOON, emit};
use nix::sys::signal::Signal;
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, Process, Role, answers, eventually};
use std::os::unix::process::ExitStatusExt as _;

fn refuses(user: &str, status: u16) -> Fault {
    Fault { for_users: vec![user.to_owned()], ..answers(status, &[]) }
}

/// Letters after two tries a second apart.
fn impatient() -> Options {
    Options::default()
        .with("targets.backend.retry.schedule", "[\"100ms\"]")
        .with("targets.backend.retry.permanent_attempts", "2")
        .with("targets.backend.breaker.pause_min", "100ms")
}

/// Leases are as short as requests allow: these tests wait for them to end.
fn hasty(options: Options) -> Options {
    options
        .with("relay.message_events_max", "5")
        .with("worker.lease", "6s")
        .with("targets.backend.timeout", "3s")
        .with("targets.crm.timeout", "3s")
}

fn dying(installation: &Installation, role: Role, command: &str, place: &str) -> Process {
    installation.spawn(role, &[command], &[("failpoint", place)])
}

/// It ended there and nowhere else.
async fn until_dead_at(process: &mut Process, place: &str) {
    let status = process.ended().await;
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "at {place}: {status:?}");
}

/// Changes to 30 users in small messages, three times each, one of them deleted.
async fn change(installation: &Installation) {
    emit(installation, "user", 30, "created").await;
    emit(installation, "user", 30, "updated").await;
    emit(installation, "user", 1, "deleted").await;
}

async fn check_relay(options: Options, place: &str) {
    let installation = Installation::start(hasty(options)).await;
    let _worker = installation.worker(&[]);
    let mut relay = dying(&installation, Role::Relay, "relay", place);
    change(&installation).await;
    until_dead_at(&mut relay, place).await;
    emit(&installation, "user", 30, "created").await;
    let _relay = installation.relay();
    installation.assert_converged().await;
}

/// At its first pass and in the middle of its work.
async fn check_relay_at(place: &str) {
    let later = format!("{place}:4");
    tokio::join!(check_relay(Options::default(), place), check_relay(Options::every_event(), &later));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_dies_after_a_publish_and_before_its_confirm_loses_nothing() {
    Box::pin(check_relay_at("relay.published")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_dies_after_a_confirm_and_before_it_moved_its_cursor_loses_nothing() {
    Box::pin(check_relay_at("relay.confirmed")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_dies_after_it_moved_its_cursor_loses_nothing() {
    let place = "relay.cursor_saved";
    tokio::join!(check_relay(Options::default(), place), check_relay(Options::every_event(), place));
}

async fn check_job(place: &str) {
    let installation = Installation::start(hasty(Options::default())).await;
    let _worker = installation.worker(&[]);
    let mut relay = dying(&installation, Role::Relay, "relay", place);
    change(&installation).await;
    installation.until_settled(&["backend", "crm"]).await;
    let arguments = ["resync", "--target", "backend", "--all", "--yes"];
    let resync = installation.run(Role::Operator, &arguments).await;
    assert!(resync.status.success(), "{resync:?}");
    until_dead_at(&mut relay, place).await;
    let _relay = installation.relay();
    until_jobs_are_done(&installation).await;
    let items: Vec<(String, i64)> =
        sqlx::query_as("select state, count(*) from postbound.job_item group by state")
            .fetch_all(installation.database.superuser())
            .await
            .unwrap();
    assert_eq!(items, [("delivered".to_owned(), 30)]);
    installation.assert_converged().await;
}

async fn until_jobs_are_done(installation: &Installation) {
    eventually("the jobs are done", SOON, async || {
        let done: bool = sqlx::query_scalar("select bool_and(state = 'done') from postbound.job")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
        done.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_dies_before_it_wrote_down_what_it_sent_of_a_job_sends_each_item_to_its_end() {
    check_job("relay.job_confirmed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_dies_after_it_wrote_down_what_it_sent_of_a_job_sends_each_item_to_its_end() {
    check_job("relay.job_marked").await;
}

/// Of 30 users the backend refuses `refused`, until the worker is dead.
async fn check_worker(options: Options, refused: Option<&str>, place: &str) {
    let installation = Installation::start(hasty(options)).await;
    if let Some(user) = refused {
        installation.backend.fault(refuses(user, 422)).await;
    }
    let _relay = installation.relay();
    let mut worker = dying(&installation, Role::Worker, "worker", place);
    change(&installation).await;
    until_dead_at(&mut worker, place).await;
    emit(&installation, "user", 30, "created").await;
    installation.backend.behave().await;
    let _worker = installation.worker(&[]);
    installation.assert_converged().await;
}

/// At its first pass and in the middle of its work, with receivers that check versions and with those that do not.
async fn check_worker_at(place: &str) {
    let later = format!("{place}:9");
    tokio::join!(
        check_worker(Options::default(), None, place),
        check_worker(Options::every_event(), None, &later),
        check_worker(Options::default().guardless(), None, place),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_before_it_sends_loses_nothing() {
    Box::pin(check_worker_at("worker.sending")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_after_an_answer_and_before_the_ledger_has_it_loses_nothing() {
    Box::pin(check_worker_at("worker.sent")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_after_the_ledger_and_before_the_acknowledgement_sends_nothing_twice() {
    let place = "worker.settled";
    tokio::join!(
        check_worker(Options::default(), None, place),
        check_worker(Options::every_event(), None, "worker.settled:3"),
        check_worker(Options::default().guardless(), None, place),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_after_parking_and_before_the_acknowledgement_keeps_one_state_a_user() {
    let place = "worker.parked";
    tokio::join!(
        check_worker(Options::default(), Some("user-7"), place),
        check_worker(Options::every_event(), Some("user-7"), place),
        check_worker(Options::default().guardless(), Some("user-7"), place),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_users_in_the_hands_of_a_worker_that_dies_are_the_next_ones_at_once() {
    let quick = |options: Options| options.with("targets.backend.retry.schedule", "[\"100ms\"]");
    let place = "worker.due_taken";
    tokio::join!(
        check_worker(quick(Options::default()), Some("user-7"), place),
        check_worker(quick(Options::every_event()), Some("user-7"), place),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_as_the_probe_of_a_closed_target_leaves_the_next_probe_to_another() {
    let place = "worker.probe_claimed";
    let installation = Installation::start(hasty(impatient())).await;
    installation.backend.fault(answers(503, &[("Retry-After", "1")])).await;
    let _relay = installation.relay();
    let mut worker = dying(&installation, Role::Worker, "worker", place);
    change(&installation).await;
    until_dead_at(&mut worker, place).await;
    installation.backend.behave().await;
    let _worker = installation.worker(&[]);
    installation.assert_converged().await;
    assert_eq!(installation.letters("backend").await, []);
}

/// The worker dies at this place of a letter's way; the letter is there once, and the user's newest state goes out.
async fn check_letter(place: &str) {
    let installation = Installation::start(hasty(impatient())).await;
    installation.backend.fault(refuses("bad-1", 422)).await;
    let _relay = installation.relay();
    let mut worker = dying(&installation, Role::Worker, "worker", place);
    emit(&installation, "bad", 1, "created").await;
    // It is given up only while others get through.
    let dead = async {
        until_dead_at(&mut worker, place).await;
    };
    let others = async {
        loop {
            emit(&installation, "other", 4, "updated").await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { () = dead => {}, () = others => {} }
    let _worker = installation.worker(&[]);
    let letters = eventually("the letter is in the archive", SOON, async || {
        emit(&installation, "other", 4, "updated").await;
        Some(installation.letters("backend").await).filter(|letters| !letters.is_empty())
    })
    .await;
    let letters: Vec<_> = letters.iter().map(|letter| (letter.user_id.as_str(), letter.version)).collect();
    assert_eq!(letters, [("bad-1", 1)]);
    installation.backend.behave().await;
    emit(&installation, "bad", 1, "updated").await;
    installation.assert_converged().await;
    assert!(installation.letters("backend").await.iter().all(|letter| !letter.is_open));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_after_a_dead_letter_and_before_the_ledger_has_it_makes_one_letter() {
    check_letter("worker.letter_confirmed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_after_archiving_a_letter_and_before_the_acknowledgement_makes_one_letter() {
    check_letter("worker.archived").await;
}
