//! Many writers on few users: nothing that was rolled back, nothing out of order, and every target ends up equal.

use postbound_tests::{Crowd, Installation, Options, Role, emit_states};

/// The crowd changes users while one transaction, older than all of theirs, stays open and commits last.
async fn check(options: Options, bare_deletes: bool) {
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _workers = [installation.worker(&[]), installation.worker(&[])];
    let mut oldest = installation.database.connect(Role::Producer).await;
    sqlx::raw_sql("begin").execute(&mut oldest).await.unwrap();
    emit_states(&mut oldest, ("t0", "slow"), 5, "created").await;

    let crowd = Crowd { clients: 20, transactions: 25, users: 30, bare_deletes };
    crowd.run(&installation.database).await;
    assert_eq!(installation.oracle().taken("s2", "slow-1").await, [], "it is not committed yet");
    sqlx::raw_sql("commit").execute(&mut oldest).await.unwrap();

    installation.assert_converged().await;
    assert_eq!(installation.oracle().taken("s2", "slow-1").await, [(1, "created".to_owned())]);
    installation.assert_no_complaints();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_on_hot_users_leaves_no_ghost_no_gap_and_no_reorder() {
    check(Options::every_event(), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_without_any_guard_of_their_own_still_get_everything_once_and_in_order() {
    check(Options::every_event().guardless(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_on_hot_users_is_folded_into_the_newest_states() {
    check(Options::default(), true).await;
}
