//! A change that came from a target is not told to that target, unless it lacks something from before (decision 14).

use super::{Door, SOON, count, options};
use postbound_client::{Change, emit};
use postbound_receiver::Fault;
use postbound_tests::{Installation, Role, answers, eventually};
use serde_json::{Value, json};

const REQUESTS: &str = "select count(*) from receiver.request_log where contract = 's2' and user_id = 'u-1'";

async fn change(installation: &Installation, change: Change, state: Value) {
    let mut producer = installation.database.connect(Role::Producer).await;
    emit(&mut producer, &change.data(&state).unwrap()).await.unwrap();
}

fn said_by_backend(data: &Value) -> Value {
    let mut body = json!({"event": "user.updated", "data": {"frontendUserId": "u-1"}});
    body["data"].as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_targets_own_change_goes_to_every_other_target_and_its_echo_stops_there() {
    let installation = Installation::start(options()).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let door = Door::open(&installation).await;
    let state = json!({"email": "u-1@example.com", "displayName": "Ada", "role": "user"});
    change(&installation, Change::created("default", "u-1"), state).await;
    installation.until_settled(&["backend", "crm"]).await;
    let before = count(&installation, REQUESTS).await;

    let (_, answer) = door.backend("m-1", &said_by_backend(&json!({"displayName": "Countess"}))).await;
    assert_eq!(
        (answer["outcome"].as_str(), answer["version"].as_i64()),
        (Some("applied"), Some(2)),
        "{answer}"
    );
    // The same again under another id: an echo.
    let (_, answer) = door.backend("m-2", &said_by_backend(&json!({"displayName": "Countess"}))).await;
    assert_eq!(answer["outcome"], "echo");
    installation.until_settled(&["backend", "crm"]).await;
    assert_eq!(count(&installation, REQUESTS).await, before, "the backend was sent its own change");
    let crm =
        "select count(*) from receiver.crm_users where user_id = 'u-1' and name = 'Countess' and version = 2";
    assert_eq!(count(&installation, crm).await, 1);
    let log = door.log().await;
    assert_eq!(log[1].data["email"], "u-1@example.com", "a partial change is merged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_with_an_older_change_still_on_its_way_gets_the_merged_state_back() {
    let options = options().with("targets.backend.retry.schedule", "[\"500ms\"]");
    let installation = Installation::start(options).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let door = Door::open(&installation).await;
    let state = |role: &str| json!({"email": "u-1@example.com", "displayName": "Ada", "role": role});
    change(&installation, Change::created("default", "u-1"), state("user")).await;
    installation.until_settled(&["backend", "crm"]).await;

    installation.backend.fault(Fault { for_users: vec!["u-1".to_owned()], ..answers(503, &[]) }).await;
    change(&installation, Change::updated("default", "u-1"), state("admin")).await;
    eventually("the older change was refused", SOON, async || {
        (installation.backend.fault_hits().await > 0).then_some(())
    })
    .await;
    let (_, answer) = door.backend("m-1", &said_by_backend(&json!({"displayName": "Countess"}))).await;
    assert_eq!(answer["version"], 3, "{answer}");
    installation.backend.behave().await;
    installation.until_settled(&["backend", "crm"]).await;
    let merged = "select count(*) from receiver.backend_users where user_id = 'u-1' and version = 3
        and display_name = 'Countess' and role = 'admin'";
    assert_eq!(count(&installation, merged).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_by_a_target_keeps_its_reason_and_no_later_word_brings_the_user_back() {
    let installation = Installation::start(options()).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let door = Door::open(&installation).await;
    let state = json!({"email": "u-1@example.com", "displayName": "Ada"});
    change(&installation, Change::created("default", "u-1"), state).await;
    let delete =
        json!({"event": "user.deleted", "data": {"frontendUserId": "u-1", "reason": "left the company"}});
    let (status, answer) = door.backend("m-1", &delete).await;
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("applied")));
    let (status, answer) = door.backend("m-2", &said_by_backend(&json!({"displayName": "Late"}))).await;
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("deleted")));
    let log = door.log().await;
    assert_eq!((log.len(), log[1].action.as_str()), (2, "deleted"));
    assert_eq!(log[1].data["reason"], "left the company");
    installation.until_settled(&["backend", "crm"]).await;
    let gone = "select count(*) from receiver.crm_users where user_id = 'u-1' and not is_active";
    assert_eq!(count(&installation, gone).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_changes_with_the_senders_time_the_older_never_overwrites_the_newer() {
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    change(&installation, Change::created("default", "u-1"), json!({"email": "u-1@example.com"})).await;
    let at = |time: &str, title: &str| said_by_backend(&json!({"title": title, "updatedAt": time}));
    let (_, answer) = door.backend("m-2", &at("2026-01-01T00:00:02Z", "newer")).await;
    assert_eq!(answer["outcome"], "applied");
    let (_, answer) = door.backend("m-1", &at("2026-01-01T00:00:01Z", "older")).await;
    assert_eq!(answer["outcome"], "older");
    let log = door.log().await;
    assert_eq!((log.len(), &log[1].data["title"]), (2, &json!("newer")));
    // A delete is final, though its time be that of the last change before it.
    let mut delete = at("2026-01-01T00:00:01Z", "older");
    delete["event"] = json!("user.deleted");
    let (_, answer) = door.backend("m-3", &delete).await;
    assert_eq!(answer["outcome"], "applied", "{answer}");
    assert_eq!(door.log().await[2].action, "deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_of_what_another_producer_wrote_and_replaced_stops_there() {
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    let state = |name: &str| json!({"email": "u-1@example.com", "displayName": name});
    change(&installation, Change::created("default", "u-1"), state("One")).await;
    for name in ["Two", "Three"] {
        change(&installation, Change::updated("default", "u-1"), state(name)).await;
    }
    for (message, version) in [("m-1", Value::Null), ("m-2", json!(1))] {
        let mut echo = said_by_backend(&state("One"));
        echo["data"]["version"] = version;
        let (status, answer) = door.backend(message, &echo).await;
        assert_eq!((status, answer["outcome"].as_str()), (200, Some("echo")), "{echo}");
    }
    assert_eq!(door.log().await.len(), 3, "an older state came back");
    // Its own change is one, and so is taking that back: it was sent version 3, and not its own change.
    for (message, name, version) in [("m-3", "Four", 4), ("m-4", "Three", 5)] {
        let own = said_by_backend(&json!({"displayName": name, "version": 3}));
        let (_, answer) = door.backend(message, &own).await;
        assert_eq!(
            (answer["outcome"].as_str(), &answer["version"]),
            (Some("applied"), &json!(version)),
            "{name}"
        );
    }
    assert_eq!(door.log().await[4].data["displayName"], "Three");
}
