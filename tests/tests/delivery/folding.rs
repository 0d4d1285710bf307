//! States that wait give way to the newest; deletes never do.

use super::emit;
use postbound_tests::{Installation, Options, Role, emit_states};

/// Version and action, as the contract names them.
fn taken(steps: &[(i64, &str)]) -> Vec<(i64, String)> {
    steps.iter().map(|(version, action)| (*version, (*action).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_states_give_way_to_the_newest_but_a_delete_is_always_a_step_of_its_own() {
    let installation = Installation::start(Options::default().partitions(1)).await;
    // All of it waits in one queue before anyone works on it; each user's changes are in one message.
    for action in ["created", "updated", "deleted", "created", "updated"] {
        emit(&installation, "back", 1, action).await;
    }
    for action in ["created", "updated", "deleted"] {
        emit(&installation, "gone", 1, action).await;
    }
    for _ in 0..50 {
        emit(&installation, "hot", 10, "updated").await;
    }
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.assert_converged().await;

    let oracle = installation.oracle();
    assert_eq!(oracle.taken("s2", "back-1").await, taken(&[(3, "deleted"), (5, "created")]));
    assert_eq!(oracle.taken("s3", "back-1").await, taken(&[(3, "deleted"), (5, "synced")]));
    assert_eq!(oracle.taken("s2", "gone-1").await, taken(&[(3, "deleted")]));
    assert_eq!(oracle.taken("s3", "gone-1").await, taken(&[(3, "deleted")]));
    for contract in ["s2", "s3"] {
        let requests = oracle.count(contract, None).await;
        assert!(requests < 250, "{requests} of 508 changes were sent to {contract}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_wants_every_event_gets_every_event() {
    let installation = Installation::start(Options::every_event().partitions(1)).await;
    for action in ["created", "updated", "updated", "deleted", "created"] {
        emit(&installation, "user", 5, action).await;
    }
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.assert_converged().await;
    let steps = [(1, "created"), (2, "updated"), (3, "updated"), (4, "deleted"), (5, "created")];
    assert_eq!(installation.oracle().taken("s2", "user-3").await, taken(&steps));
    assert_eq!(installation.oracle().count("s3", Some("applied")).await, 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_deleted_as_soon_as_it_came_is_deleted_where_only_its_email_is_known() {
    // The samples' CRM finds users by e-mail, which a bare delete does not bear.
    let installation = Installation::start(Options::every_event().guardless()).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    let mut producer = installation.database.connect(Role::Producer).await;
    for round in 0..20 {
        let user = format!("brief-{round}");
        for action in ["created", "deleted"] {
            emit_states(&mut producer, ("t0", &user), 1, action).await;
        }
    }
    installation.until_settled(&["backend", "crm"]).await;
    installation.oracle().assert_equal_to_source("s3").await;
    assert_eq!(installation.oracle().count("s3", Some("refused")).await, 0);
}
