use crate::server::{Server, answer};
use crate::states::{NOW, backend, brief, deliver, detail, settings, signed, state, tenant, updated};
use axum::http::Method;
use postbound_event::Action;
use postbound_target::{AdapterSettings, Clock, Target, TargetSettings};
use time::macros::datetime;

async fn check_body(action: Action, data: &str, body: &str) {
    let server = Server::start(|_| answer(200, &[], "")).await;
    let outcomes = deliver(settings(&server.url(), backend()), &[state("u1", 3, action, data)]).await;
    assert_eq!(brief(&outcomes[0]), "delivered");
    assert_eq!(server.last().body, body, "{action} of {data}");
}

#[tokio::test]
async fn the_body_has_exactly_the_fields_of_the_contract() {
    use Action::{Created, Deleted, Updated};
    check_body(
        Created,
        r#"{"id": "other", "email": "user@example.com", "username": "johndoe", "displayName": "John Doe",
            "avatar": "https://example.com/a.jpg", "role": "admin", "isActive": false, "password": "no", "name": "no"}"#,
        r#"{"id":"u1","email":"user@example.com","username":"johndoe","displayName":"John Doe","avatar":"https://example.com/a.jpg","role":"admin","isActive":false,"action":"created"}"#,
    )
    .await;
    let empty = r#"{"id":"u1","email":"","username":"","displayName":"","avatar":"","role":"user","isActive":true,"action":"updated"}"#;
    check_body(Updated, "{}", empty).await;
    let nulls =
        r#"{"email":null,"username":null,"displayName":null,"avatar":null,"role":null,"isActive":null}"#;
    check_body(Updated, nulls, empty).await;
    let deleted = empty.replace("true", "false").replace("updated", "deleted");
    check_body(Deleted, "{}", &deleted).await;
    check_body(Deleted, r#"{"isActive":true}"#, &deleted).await;
    let shown = |name: &str| empty.replace(r#""displayName":"""#, &format!(r#""displayName":{name}"#));
    check_body(Updated, r#"{"name":"Jo \"D\" \u00fc","firstName":"X"}"#, &shown(r#""Jo \"D\" \u00fc""#))
        .await;
    check_body(Updated, r#"{"displayName":" ","firstName":"J\u00f6","lastName":"D"}"#, &shown(r#""Jö D""#))
        .await;
    check_body(Updated, r#"{"firstName":null,"lastName":"D"}"#, &shown(r#""D""#)).await;
    let picture = empty.replace(r#""avatar":"""#, r#""avatar":"i""#);
    check_body(Updated, r#"{"avatar":"","imageUrl":"i"}"#, &picture).await;
}

#[tokio::test]
async fn an_id_goes_into_the_body_escaped() {
    let server = Server::start(|_| answer(200, &[], "")).await;
    deliver(settings(&server.url(), backend()), &[state("u\"\\1ü", 1, Action::Updated, "{}")]).await;
    assert!(server.last().body.starts_with(r#"{"id":"u\"\\1ü","#));
}

#[tokio::test]
async fn a_request_says_who_what_and_which_version() {
    let server = Server::start(|_| answer(200, &[], "")).await;
    let mut delivery = updated("u1", 7);
    delivery.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    deliver(signed(&server.url(), backend()), &[delivery]).await;
    let request = server.last();
    assert_eq!(request.method, Method::POST);
    let check = |name: &str, value: &str| assert_eq!(request.header(name), Some(value), "{name}");
    check("content-type", "application/json");
    check("user-agent", concat!("postbound/", env!("CARGO_PKG_VERSION")));
    check("postbound-event-id", "00000000-0000-0000-0000-000000000007");
    check("postbound-user-version", "7");
    check("postbound-tenant", "acme");
    check("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    check("x-internal-api-key", "the-api-key");
    check("authorization", "Bearer the-token");
    check("x-extra", "extra-value");
    check("webhook-id", "00000000-0000-0000-0000-000000000007");
    check("webhook-timestamp", &NOW.to_string());
    let key = request.header("idempotency-key").unwrap();
    assert_eq!((key.len(), &key[..1], &key[65..]), (66, "\"", "\""));
    for absent in ["referer", "x-tenant-id", "x-sync-source", "accept-encoding"] {
        assert_eq!(request.header(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn what_is_not_configured_is_not_sent() {
    let server = Server::start(|_| answer(200, &[], "")).await;
    let silent = AdapterSettings::BackendSync { send_tenant_header: false };
    let mut delivery = updated("u1", 7);
    delivery.traceparent = Some("broken\n".to_owned());
    deliver(settings(&server.url(), silent), &[delivery]).await;
    let request = server.last();
    for absent in ["postbound-tenant", "traceparent", "x-internal-api-key", "authorization", "webhook-id"] {
        assert_eq!(request.header(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn a_retry_repeats_bytes_and_key_and_only_its_signature_tells_the_time() {
    let server = Server::start(|_| answer(503, &[], "")).await;
    let first = signed(&server.url(), backend());
    let later = TargetSettings { clock: Clock::new(|| datetime!(2030-01-01 0:00 UTC)), ..first.clone() };
    deliver(first, &[updated("u1", 1)]).await;
    deliver(later, &[updated("u1", 1)]).await;
    let [first, later] = <[_; 2]>::try_from(server.received()).unwrap();
    assert_eq!(first.body, later.body);
    for (name, value) in &first.headers {
        let changes = ["webhook-timestamp", "webhook-signature"].contains(&name.as_str());
        assert_eq!(later.headers.get(name) != Some(value), changes, "{name}");
    }
}

async fn check(status: u16, headers: &'static [(&str, &str)], body: &'static str, outcome: &str) {
    let server = Server::start(move |_| answer(status, headers, body)).await;
    let outcomes = deliver(settings(&server.url(), backend()), &[updated("u1", 7)]).await;
    assert_eq!(brief(&outcomes[0]), outcome, "{status} {headers:?} {body}");
    assert_eq!(server.received().len(), 1, "there is one attempt and no more");
}

#[tokio::test]
async fn an_answer_is_taken_for_what_its_status_says() {
    check(200, &[], "", "delivered").await;
    check(204, &[], "", "delivered").await;
    check(299, &[], "<html>", "delivered").await;
    check(200, &[], r#"{"success":false}"#, "delivered").await;
    check(400, &[], "", "permanent http_400").await;
    check(401, &[], "", "whole_target http_401").await;
    check(404, &[], "", "whole_target http_404").await;
    check(422, &[], "", "permanent http_422").await;
    check(500, &[], "", "transient http_500").await;
    check(504, &[], "", "unknown http_504").await;
    check(599, &[], "", "transient http_5xx").await;
}

#[tokio::test]
async fn a_retry_after_is_kept_whatever_the_status() {
    check(429, &[("retry-after", "120")], "", "whole_target http_429 after 120 s").await;
    check(503, &[("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")], "", "whole_target http_503 after 30 s")
        .await;
    check(503, &[("retry-after", "999999999")], "", "whole_target http_503 after 86400 s").await;
    check(503, &[("retry-after", "soon")], "", "transient http_503").await;
    check(409, &[("retry-after", "1")], "", "transient http_409 after 1 s").await;
}

#[tokio::test]
async fn a_refused_version_is_stale_only_if_the_answer_says_so() {
    let stale = r#"{"type":"/problems/stale-version","heldVersion":9}"#;
    check(409, &[("content-type", "application/problem+json")], stale, "stale Some(9)").await;
    check(412, &[], r#"{"code":"stale_version"}"#, "stale None").await;
    check(422, &[], stale, "permanent http_422").await;
    check(412, &[], "stale_version", "permanent http_412").await;
    let in_progress = r#"{"type":"/problems/idempotency-key-in-progress"}"#;
    check(409, &[], in_progress, "transient http_409").await;
}

#[tokio::test]
async fn more_states_than_fit_go_out_one_by_one_in_order() {
    let server = Server::start(|request| {
        answer(if request.header("postbound-user-version") == Some("2") { 422 } else { 200 }, &[], "")
    })
    .await;
    let target = Target::new(settings(&server.url(), backend())).unwrap();
    assert_eq!(target.batch_users_max(), 1);
    let states =
        [updated("u1", 1), updated("u2", 2), state("u3", 3, Action::Updated, "[]"), updated("u4", 4)];
    let outcomes: Vec<String> = target.deliver(&states, &tenant()).await.iter().map(brief).collect();
    let expected = ["delivered", "permanent http_422", "permanent data_invalid", "delivered"];
    assert_eq!(outcomes, expected);
    assert_eq!(target.deliver(&[], &tenant()).await, []);
    assert_eq!(server.received().len(), 3);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server =
        Server::start(|_| answer(307, &[("location", "http://else.example/x?token=s3cret")], "")).await;
    let outcomes = deliver(signed(&server.url(), backend()), &[updated("u1", 1)]).await;
    assert_eq!(brief(&outcomes[0]), "whole_target redirect");
    assert_eq!(detail(&outcomes[0]), "to host else.example");
    let itself = Server::start(|_| answer(302, &[("location", "/sync")], "")).await;
    deliver(settings(&itself.url(), backend()), &[updated("u1", 1)]).await;
    assert_eq!(itself.received().len(), 1);
}
