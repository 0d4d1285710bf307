use crate::server::{Server, answer};
use crate::states::{backend, brief, deliver, settings, state, updated};
use postbound_event::Action;
use postbound_target::AdapterSettings;

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
async fn a_request_names_its_tenant_unless_told_not_to() {
    let server = Server::start(|_| answer(200, &[], "")).await;
    for (send_tenant_header, expected) in [(true, Some("acme")), (false, None)] {
        let adapter = AdapterSettings::BackendSync { send_tenant_header };
        deliver(settings(&server.url(), adapter), &[updated("u1", 7)]).await;
        assert_eq!(server.last().header("postbound-tenant"), expected);
        for absent in ["x-tenant-id", "x-sync-source"] {
            assert_eq!(server.last().header(absent), None, "{absent}");
        }
    }
}

#[tokio::test]
async fn a_body_that_says_otherwise_does_not_undo_a_success() {
    for body in [r#"{"success":false}"#, r#"{"code":"stale_version","heldVersion":9}"#] {
        let server = Server::start(move |_| answer(200, &[], body)).await;
        let outcomes = deliver(settings(&server.url(), backend()), &[updated("u1", 7)]).await;
        assert_eq!(brief(&outcomes[0]), "delivered", "{body}");
    }
}

#[tokio::test]
async fn each_of_several_states_has_its_own_outcome() {
    let server = Server::start(|request| {
        answer(if request.header("postbound-user-version") == Some("2") { 422 } else { 200 }, &[], "")
    })
    .await;
    let states =
        [updated("u1", 1), updated("u2", 2), state("u3", 3, Action::Updated, "[]"), updated("u4", 4)];
    let outcomes = deliver(settings(&server.url(), backend()), &states).await;
    let expected = ["delivered", "permanent http_422", "permanent data_invalid", "delivered"];
    assert_eq!(outcomes.iter().map(brief).collect::<Vec<_>>(), expected);
    assert_eq!(server.received().len(), 3);
}
