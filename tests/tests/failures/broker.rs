//! What RabbitMQ does with a message nobody acknowledges: it hands it out again, or gives it up.

use super::{SOON, emit};
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, Process, Role, eventually};
use serde_json::Value;

/// Hangs for these users, for longer than a test may take.
fn hangs(users: &[&str]) -> Fault {
    let for_users = users.iter().map(|user| (*user).to_owned()).collect();
    Fault { for_users, delay_ms: 600_000, drop_connection: true, ..Fault::default() }
}

/// Dies so often with the requests of `users` in hand and `others` delivered, each time with another worker; the queue
/// holds it against the message.
async fn die_with(installation: &Installation, users: &[&str], others: i64, times: u32) {
    for _ in 0..times {
        installation.backend.fault(hangs(users)).await;
        let mut worker = installation.worker(&["backend"]);
        until_under_way(installation, users.len()).await;
        until_taken(installation, others).await;
        worker.kill_9().await;
        installation.end_leases().await;
    }
}

async fn until_under_way(installation: &Installation, requests: usize) {
    eventually("they are under way", SOON, async || {
        (installation.backend.fault_hits().await == requests as u64).then_some(())
    })
    .await;
}

async fn parked(installation: &Installation) -> Vec<String> {
    sqlx::query_scalar("select user_id from postbound.parked_user where target = 'backend' order by user_id")
        .fetch_all(installation.database.superuser())
        .await
        .unwrap()
}

async fn ready(installation: &Installation, queue: &str) -> u32 {
    installation.vhost.queue(queue).await.unwrap().messages_ready
}

/// Until the backend took the newest state of so many users.
async fn until_taken(installation: &Installation, users: i64) {
    eventually(&format!("{users} are delivered"), SOON, async || {
        let held: i64 =
            sqlx::query_scalar("select count(*) from postbound.delivery_ledger where delivered_version > 0")
                .fetch_one(installation.database.superuser())
                .await
                .unwrap();
        (held == users).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_message_that_takes_its_workers_down_each_state_ends_alone() {
    let options = Options::default().partitions(1).with("targets.backend.guards_versions", "true");
    let installation = Installation::start(options).await;
    emit(&installation, "good", 8, "created").await;
    emit(&installation, "late", 1, "created").await;
    emit(&installation, "poison", 1, "created").await;
    let relay = installation.relay();
    let queue = "postbound.backend.g1.p000";
    eventually("they are one message", SOON, async || (ready(&installation, queue).await == 1).then_some(()))
        .await;
    die_with(&installation, &["late-1", "poison-1"], 8, 3).await;

    // The fourth stores what is left before it tries it: whatever it dies of next, the message is not in the way.
    installation.backend.fault(hangs(&["poison-1"])).await;
    let mut worker: Process = installation.worker(&["backend"]);
    until_under_way(&installation, 1).await;
    until_taken(&installation, 9).await;
    assert_eq!(parked(&installation).await, ["poison-1"], "the poison one alone is held up");
    worker.kill_9().await;
    installation.end_leases().await;
    eventually("its consumer is gone", SOON, async || {
        (installation.vhost.queue(queue).await?.consumers == 0).then_some(())
    })
    .await;
    assert_eq!(ready(&installation, queue).await, 0, "the message was acknowledged");

    let _heir = installation.worker(&["backend"]);
    emit(&installation, "good", 8, "updated").await;
    eventually("others go on", SOON, async || {
        let newest: i64 =
            sqlx::query_scalar("select count(*) from postbound.delivery_ledger where delivered_version = 2")
                .fetch_one(installation.database.superuser())
                .await
                .unwrap();
        (newest == 8).then_some(())
    })
    .await;
    installation.backend.behave().await;
    sqlx::query("update postbound.parked_user set next_attempt_at = now()")
        .execute(installation.database.superuser())
        .await
        .unwrap();
    installation.until_settled(&["backend"]).await;
    assert_eq!(parked(&installation).await, Vec::<String>::new());
    let oracle = installation.oracle();
    oracle.assert_sound().await;
    oracle.assert_equal_to_source("s2").await;
    drop(relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_rabbitmq_gives_up_is_split_into_letters_of_what_was_not_delivered() {
    let installation = Installation::start(Options::every_event().partitions(1)).await;
    let relay = installation.relay();
    let queue = "postbound.backend.g1.p000";
    emit(&installation, "one", 1, "created").await;
    let mut worker = installation.worker(&["backend"]);
    until_taken(&installation, 1).await;
    worker.terminate().await;
    drop(relay);

    // One message: what comes after the delivered event, of its user and of another. And a copy of the delivered one.
    installation.store().rewind_cursor("backend").await.unwrap();
    emit(&installation, "one", 1, "updated").await;
    emit(&installation, "one", 1, "deleted").await;
    emit(&installation, "two", 1, "created").await;
    let _relay = installation.relay();
    let messages = eventually("all is in the queue", SOON, async || {
        let messages = installation.vhost.peek(&installation.http, queue).await;
        let body = messages.iter().map(Value::to_string).collect::<String>();
        ["one-1", "two-1"].iter().all(|user| body.contains(user)).then_some(messages.len())
    })
    .await;
    installation.vhost.reject(&installation.http, queue, messages).await;
    let mut worker = installation.worker(&["backend"]);
    let letters = eventually("three letters are in the archive", SOON, async || {
        let letters = installation.letters("backend").await;
        (letters.len() >= 3).then_some(letters)
    })
    .await;
    let mut told: Vec<_> = letters
        .iter()
        .map(|letter| (letter.user_id.as_str(), letter.version, letter.class.as_str(), letter.is_open))
        .collect();
    told.sort_unstable();
    let expected = [("one-1", 2, "broker", true), ("one-1", 3, "broker", true), ("two-1", 1, "broker", true)];
    assert_eq!(told, expected, "what was delivered is no letter");
    assert_eq!(letters[0].reason, "rejected");

    // Each is sent, in order, by a replay; and later changes go out as ever.
    let args = ["dead-letters", "replay", "--target", "backend", "--yes", "--json"];
    let output = installation.run(Role::Operator, &args).await;
    assert!(output.status.success(), "{output:?}");
    eventually("they are replayed", SOON, async || {
        installation.letters("backend").await.iter().all(|letter| !letter.is_open).then_some(())
    })
    .await;
    emit(&installation, "one", 1, "created").await;
    installation.until_settled(&["backend"]).await;
    let taken = installation.oracle().taken("s2", "one-1").await;
    let versions: Vec<i64> = taken.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, [1, 2, 3, 4]);
    installation.oracle().assert_no_gap("s2").await;
    assert!(worker.terminate().await.success());
}
