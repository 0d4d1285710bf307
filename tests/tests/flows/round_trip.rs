//! Flow 4: what is changed in the backend comes back to us and goes to everybody else.

use super::town::{Habits, TENANT, clerk_delete, clerk_user};
use super::{SOON, Town};
use crate::operators::done;
use postbound_client::{Change, emit};
use postbound_tests::{Role, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_4_a_change_in_the_backend_reaches_the_directory_and_every_other_target() {
    let town = Town::start(Habits { workflow: true, echo: false }).await;
    town.register("u-1", "Ada").await;
    let (_, themed) = town.ask(Method::PUT, "/api/users", &json!({"id": "u-1", "theme": "dark"})).await;
    assert_eq!(themed["theme"], "dark");
    town.until_at_rest().await;
    let told = town.requests("s2").await;
    let (status, session) =
        town.ask(Method::POST, "/api/sessions", &json!({"userId": "u-1", "sessionId": "sess_1"})).await;
    assert_eq!((status, &session["active"]), (201, &json!(true)), "{session}");

    town.in_backend(Method::PUT, "u-1", &json!({"displayName": "Countess", "role": "editor"})).await;
    town.until_one(
        "the CRM has it",
        "select count(*) from receiver.crm_users where user_id = 'u-1' and name = 'Countess'",
    )
    .await;
    town.until_at_rest().await;
    let user = town.user("u-1").await;
    assert_eq!((&user["displayName"], &user["role"]), (&json!("Countess"), &json!("editor")), "{user}");
    assert_eq!((&user["theme"], &user["email"]), (&json!("dark"), &json!("u-1@example.com")), "{user}");
    assert_eq!(town.requests("s2").await, told, "the backend was told its own change");

    town.in_backend(Method::DELETE, "u-1?reason=left%20the%20company", &Value::Null).await;
    let gone = "select count(*) from receiver.crm_users where user_id = 'u-1' and deleted_at is not null and not is_active";
    town.until_one("the CRM has soft-deleted the user", gone).await;
    town.until_at_rest().await;
    let user = town.user("u-1").await;
    assert_eq!((&user["isActive"], &user["reason"]), (&json!(false), &json!("left the company")), "{user}");
    assert!(user["deletedAt"].is_string(), "{user}");
    let (_, session) = town.ask(Method::GET, "/api/sessions/sess_1", &Value::Null).await;
    assert_eq!(
        (&session["active"], &session["endReason"]),
        (&json!(false), &json!("user_deleted")),
        "{session}"
    );
    for login in [json!({"userId": "u-1"}), json!({"email": "U-1@example.com"})] {
        let (status, refusal) = town.ask(Method::POST, "/api/sessions", &login).await;
        assert_eq!((status, &refusal["type"]), (403, &json!("/problems/user-deleted")), "{refusal}");
    }
    assert_eq!(town.requests("s2").await, told, "the backend was told its own delete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_erased_user_the_directory_keeps_the_tombstone_alone() {
    let town = Town::start(Habits::default()).await;
    town.clerk("msg_1", &clerk_user("user.created", "user_1", "Ada", 1_000)).await;
    town.ask(Method::POST, "/api/sessions", &json!({"userId": "user_1"})).await;
    town.clerk("msg_2", &clerk_delete("user_1")).await;
    town.until_at_rest().await;
    done(&town.installation, &["users", "erase", TENANT, "user_1", "--yes"]).await;
    let traces = "select (select count(*) from directory.users as u where u::text ~ 'Ada|example')
        + (select count(*) from directory.sessions)";
    assert_eq!(town.number(traces).await, 0);
    let (_, answer) = town.clerk("msg_3", &clerk_user("user.updated", "user_1", "Ada", 2_000)).await;
    assert_eq!(answer["outcome"], "deleted", "{answer}");
    assert_eq!(town.number(traces).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_producer_has_just_written_is_what_a_change_is_merged_into() {
    let mut town = Town::start(Habits::default()).await;
    // Nobody brings `user_state` up to date: what is newest stands in the log alone.
    town.relay.kill_9().await;
    let mut producer = town.installation.database.connect(Role::Producer).await;
    let mut write = async |change: Change, state: Value| {
        emit(&mut producer, &change.data(&state).unwrap()).await.unwrap();
    };
    write(Change::created(TENANT, "u-1"), json!({"email": "a@example.com", "displayName": "One"})).await;
    write(Change::updated(TENANT, "u-1"), json!({"email": "a@example.com", "displayName": "Two"})).await;
    let (status, user) = town.ask(Method::POST, "/api/users", &json!({"id": "u-1", "theme": "dark"})).await;
    assert_eq!((status, &user["version"], &user["displayName"]), (200, &json!(3), &json!("Two")), "{user}");
    let state = json!({"email": "a@example.com", "displayName": "Three", "theme": "dark"});
    write(Change::updated(TENANT, "u-1"), state).await;
    let (status, user) = town.ask(Method::PUT, "/api/users", &json!({"id": "u-1", "phone": "1"})).await;
    assert_eq!((status, &user["version"], &user["displayName"]), (200, &json!(5), &json!("Three")), "{user}");

    // Later, with a relay, it is shown as well.
    let _relay = town.installation.relay();
    let state = json!({"email": "a@example.com", "displayName": "Four", "theme": "dark"});
    write(Change::updated(TENANT, "u-1"), state).await;
    eventually("the directory shows it", SOON, async || {
        let user = town.user("u-1").await;
        (user["displayName"] == "Four" && user["version"] == 6).then_some(())
    })
    .await;
    // Its word counts for sessions, and for who is found by an address.
    let login = json!({"email": "a@example.com"});
    let (status, session) = town.ask(Method::POST, "/api/sessions", &login).await;
    assert_eq!((status, &session["active"]), (201, &json!(true)), "{session}");
    let state = json!({"email": "b@example.com", "displayName": "Five", "isActive": false});
    write(Change::updated(TENANT, "u-1"), state).await;
    eventually("the directory shows it", SOON, async || {
        (town.user("u-1").await["displayName"] == "Five").then_some(())
    })
    .await;
    let session = format!("/api/sessions/{}", session["id"].as_str().unwrap());
    let (_, session) = town.ask(Method::GET, &session, &Value::Null).await;
    assert_eq!(session["active"], false, "{session}");
    let (status, refusal) = town.ask(Method::POST, "/api/sessions", &login).await;
    assert_eq!(status, 404, "whoever has the address now is not this user: {refusal}");

    write(Change::deleted(TENANT, "u-1"), json!({})).await;
    assert_eq!(town.user("u-1").await["isActive"], false);
    let (status, refusal) = town.ask(Method::PUT, "/api/users", &json!({"id": "u-1", "phone": "2"})).await;
    assert_eq!(status, 409, "{refusal}");
    let (status, refusal) = town.ask(Method::POST, "/api/sessions", &json!({"userId": "u-1"})).await;
    assert_eq!(status, 403, "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_by_any_producer_ends_sessions_for_good_and_no_sign_in_slips_past_it() {
    let town = Town::start(Habits::default()).await;
    town.register("u-1", "Ada").await;
    let sign_in = async |id: &str| {
        town.ask(Method::POST, "/api/sessions", &json!({"userId": "u-1", "sessionId": id})).await
    };
    assert_eq!(sign_in("sess_1").await.0, 201);
    let mut producer = town.installation.database.connect(Role::Producer).await;

    // A sign-in that comes while the delete is not committed yet has to wait for it.
    let mut deleting = producer.begin().await.unwrap();
    emit(&mut deleting, &Change::deleted(TENANT, "u-1")).await.unwrap();
    let committed = async {
        let waiting = "select count(*) from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock'";
        town.until_one("the sign-in waits", waiting).await;
        deleting.commit().await.unwrap();
    };
    let ((status, refusal), ()) = tokio::join!(sign_in("sess_2"), committed);
    assert_eq!((status, &refusal["type"]), (403, &json!("/problems/user-deleted")), "{refusal}");

    // Somebody else gets the id.
    let state = json!({"email": "b@example.com", "displayName": "Brook"});
    emit(&mut producer, &Change::created(TENANT, "u-1").data(&state).unwrap()).await.unwrap();
    let (_, session) = town.ask(Method::GET, "/api/sessions/sess_1", &Value::Null).await;
    assert_eq!(
        (&session["active"], &session["endReason"]),
        (&json!(false), &json!("user_deleted")),
        "{session}"
    );
    assert_eq!(sign_in("sess_1").await.0, 403);
    let (status, session) = sign_in("sess_3").await;
    assert_eq!((status, &session["active"]), (201, &json!(true)), "{session}");
}
