//! A target gets what it asked for, what is meant for it, and not what came from it.

use super::emit;
use postbound_client::{Change, emit as emit_change};
use postbound_tests::{Installation, Options, Role};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_get_the_actions_they_want_the_events_meant_for_them_and_no_echo() {
    let options = Options::every_event()
        .partitions(1)
        .with("targets.crm.actions", "created,deleted")
        .with("targets.crm.origin", "zopkit");
    let installation = Installation::start(options).await;
    let mut producer = installation.database.connect(Role::Producer).await;
    let state = json!({"email": "user@example.com", "name": "v1", "avatar": "https://example.com/1"});
    let created = |user: &str| Change::created("t0", user).data(&state).unwrap();
    for change in [
        created("of-all"),
        created("for-backend").targets(["backend"]),
        created("for-nobody").targets(Vec::<String>::new()),
        created("from-crm").origin("zopkit"),
        created("from-backend").origin("backend"),
    ] {
        emit_change(&mut producer, &change).await.unwrap();
    }
    emit(&installation, "filtered", 1, "created").await;
    emit(&installation, "filtered", 1, "updated").await;
    // In the one partition it comes last: when it is there, all before it were given their chance.
    emit(&installation, "filtered", 1, "deleted").await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    let oracle = installation.oracle();
    for contract in ["s2", "s3"] {
        postbound_tests::eventually("the last one is there", super::SOON, async || {
            let taken = oracle.taken(contract, "filtered-1").await;
            taken.iter().any(|(version, _)| *version == 3).then_some(())
        })
        .await;
    }
    let sent = async |contract: &str| -> Vec<(String, i64)> {
        sqlx::query_as(
            "select user_id, version from receiver.request_log where contract = $1 order by user_id collate \"C\", version",
        )
        .bind(contract)
        .fetch_all(installation.database.superuser())
        .await
        .unwrap()
    };
    let of = |steps: &[(&str, i64)]| -> Vec<(String, i64)> {
        steps.iter().map(|(user, version)| ((*user).to_owned(), *version)).collect()
    };
    let to_backend = [("filtered-1", 1), ("filtered-1", 2), ("filtered-1", 3)];
    let to_backend = [&to_backend[..], &[("for-backend", 1), ("from-crm", 1), ("of-all", 1)]].concat();
    let to_crm = [("filtered-1", 1), ("filtered-1", 3), ("from-backend", 1), ("of-all", 1)];
    for (contract, expected) in [("s2", of(&to_backend)), ("s3", of(&to_crm))] {
        // Users do not wait for each other: those before the last may be under way still.
        let all_there = || async { (sent(contract).await.len() >= expected.len()).then_some(()) };
        postbound_tests::eventually("so many are there", super::SOON, all_there).await;
        assert_eq!(sent(contract).await, expected);
    }
}
