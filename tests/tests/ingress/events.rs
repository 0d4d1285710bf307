//! `POST /v1/events`.

use super::{Door, SOON, TOKEN, count, options, said};
use nix::sys::signal::Signal;
use postbound_tests::{Installation, eventually};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use sqlx::Connection as _;
use std::os::unix::process::ExitStatusExt as _;

/// For one tenant alone.
const OF_ACME: &str = "events-token-of-tenant-acme";

fn created(user: &str) -> Value {
    json!({"userId": user, "action": "created", "data": {"email": "ada@example.com", "name": user}})
}

fn request(door: &Door<'_>, token: &str, key: Option<&str>, body: &Value) -> RequestBuilder {
    let request = door.post("/v1/events", body.to_string()).bearer_auth(token);
    match key {
        Some(key) => request.header("idempotency-key", format!("\"{key}\"")),
        None => request,
    }
}

async fn send(door: &Door<'_>, key: &str, body: &Value) -> Response {
    request(door, TOKEN, Some(key), body).send().await.unwrap()
}

async fn check(request: RequestBuilder, status: u16, slug: &str) {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let (told, body) = said(answer).await;
    assert_eq!((told, body["type"].as_str()), (status, Some(format!("/problems/{slug}").as_str())), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_written_once_per_idempotency_key() {
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    let first = send(&door, "k-1", &created("u 1/2")).await;
    assert_eq!(first.status(), 202);
    assert_eq!(first.headers()["location"], "/v1/users/default/u%201%2F2/sync");
    let (_, first) = said(first).await;
    assert_eq!((&first["version"], &first["status"]), (&json!(1), &json!("pending")));

    let again = send(&door, "k-1", &created("u 1/2")).await;
    assert_eq!(
        (again.status().as_u16(), &again.headers()["idempotency-replayed"]),
        (202, &"true".parse().unwrap())
    );
    assert_eq!(said(again).await.1, first);
    check(request(&door, TOKEN, Some("k-1"), &created("u-2")), 422, "idempotency-key-reused").await;
    check(request(&door, TOKEN, None, &created("u-2")), 400, "malformed-request").await;
    let unquoted = request(&door, TOKEN, None, &created("u-2")).header("idempotency-key", "k-2");
    check(unquoted, 400, "malformed-request").await;
    let log = door.log().await;
    assert_eq!((log.len(), log[0].event_id.to_string()), (1, first["eventId"].as_str().unwrap().to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_use_is_refused_until_the_first_request_is_done() {
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    send(&door, "k-0", &created("u-1")).await;
    // The first request waits for its user.
    let mut holder = sqlx::PgConnection::connect(&installation.database.superuser_url()).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    sqlx::query("select postbound.lock_user('default', 'u-1')").execute(&mut *transaction).await.unwrap();
    let update = json!({"userId": "u-1", "action": "updated", "data": {"email": "b@example.com"}});
    let waiting = tokio::spawn(request(&door, TOKEN, Some("k-1"), &update).send());
    eventually("the first one waits", SOON, async || {
        let blocked = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        (count(&installation, blocked).await == 1).then_some(())
    })
    .await;
    let second = send(&door, "k-1", &update).await;
    assert!(second.headers().contains_key("retry-after"));
    assert_eq!(said(second).await.0, 409);
    transaction.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 202);
    assert_eq!(said(send(&door, "k-1", &update).await).await.1["version"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_what_it_is_for_and_a_body_is_held_against_the_schema() {
    let options = options()
        .with("ingress.tokens.acme.token", OF_ACME)
        .with("ingress.tokens.acme.scopes", "events")
        .with("ingress.tokens.acme.tenants", "acme")
        .with("ingress.tokens.front.token", "status-token-of-the-tests")
        .with("ingress.tokens.front.scopes", "status");
    let installation = Installation::start(options).await;
    let door = Door::open(&installation).await;
    let body = created("u-1");
    let unsigned = door.post("/v1/events", body.to_string()).header("idempotency-key", "\"k\"");
    check(unsigned, 401, "unauthorized").await;
    check(request(&door, "wrong-token-of-somebody", Some("k"), &body), 401, "unauthorized").await;
    check(request(&door, "status-token-of-the-tests", Some("k"), &body), 403, "forbidden").await;
    check(request(&door, OF_ACME, Some("k"), &body), 403, "forbidden").await;
    let mut of_acme = body.clone();
    of_acme["tenantId"] = "acme".into();
    assert_eq!(request(&door, OF_ACME, Some("k"), &of_acme).send().await.unwrap().status(), 202);

    let invalid = json!({"userId": "u-1", "action": "updated", "data": {"email": "nobody", "title": 7}});
    let answer = request(&door, TOKEN, Some("k-1"), &invalid).send().await.unwrap();
    let (status, problem) = said(answer).await;
    let pointers: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect();
    assert_eq!((status, pointers), (422, vec!["/data/email", "/data/title"]), "{problem}");
    assert!(!problem.to_string().contains("nobody"), "{problem}");
    let plain = request(&door, TOKEN, Some("k-2"), &body).header("content-type", "text/plain");
    assert!([400, 415].contains(&plain.send().await.unwrap().status().as_u16()));
    check(
        request(&door, TOKEN, Some("k-3"), &json!({"userId": "u", "action": "gone"})),
        422,
        "invalid-content",
    )
    .await;
    check(
        request(&door, TOKEN, Some("k-4"), &json!({"userId": "", "action": "created"})),
        422,
        "invalid-content",
    )
    .await;
    assert_eq!(door.log().await.len(), 1);

    // A deleted user is not updated.
    for (key, action) in [("k-5", "deleted"), ("k-6", "updated")] {
        let body = json!({"tenantId": "acme", "userId": "u-1", "action": action});
        let answer = request(&door, OF_ACME, Some(key), &body).send().await.unwrap();
        assert_eq!(answer.status(), if action == "deleted" { 202 } else { 409 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_prefers_to_wait_is_told_the_ids_when_all_targets_have_the_change() {
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    let slow = request(&door, TOKEN, Some("k-1"), &created("u-1")).header("prefer", "wait=1");
    let answer = slow.send().await.unwrap();
    assert_eq!(answer.headers()["preference-applied"], "wait=1");
    let (status, body) = said(answer).await;
    assert_eq!(
        (status, &body["status"], &body["pending"]),
        (202, &json!("pending"), &json!(["backend", "crm"]))
    );

    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let body = eventually("it is everywhere", SOON, async || {
        let again = request(&door, TOKEN, Some("k-1"), &created("u-1")).header("prefer", "wait=3");
        let (status, body) = said(again.send().await.unwrap()).await;
        (status == 200).then_some(body)
    })
    .await;
    let linked: String =
        sqlx::query_scalar("select external_id from postbound.identity_link where target = 'crm'")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
    assert_eq!((&body["status"], &body["links"]["crm"]["id"]), (&json!("synced"), &json!(linked)));
    let quick = request(&door, TOKEN, Some("k-2"), &created("u-2")).header("prefer", "wait=5");
    let (status, body) = said(quick.send().await.unwrap()).await;
    assert_eq!((status, &body["version"]), (200, &json!(1)), "{body}");
}

async fn check_crash(place: &str) {
    let installation = Installation::start(options()).await;
    let mut door = Door::open_with(&installation, &[("failpoint", place)]).await;
    let unanswered = request(&door, TOKEN, Some("k-1"), &created("u-1")).send().await;
    assert!(unanswered.is_err(), "{unanswered:?}");
    let status = door.process.ended().await;
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "at {place}: {status:?}");
    let door = Door::open(&installation).await;
    let (status, body) = said(send(&door, "k-1", &created("u-1")).await).await;
    assert_eq!((status, &body["version"]), (202, &json!(1)), "at {place}");
    assert_eq!(door.log().await.len(), 1, "at {place}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_on_either_side_of_the_commit_leaves_one_change_when_the_caller_comes_again() {
    tokio::join!(check_crash("ingress.event_written"), check_crash("ingress.event_committed"));
}
