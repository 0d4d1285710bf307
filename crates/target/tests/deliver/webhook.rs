//! Any endpoint: what is sent there, what of its answer is kept, and where requests do not go.

use crate::server::{Server, answer, half};
use crate::states::{arc, brief, deliver, detail, settings, state, updated, webhook, webhook_of};
use postbound_event::Action;
use postbound_target::{
    AdapterSettings, AddressPolicy, Delivery, SecretFn, Target, TargetError, TargetSettings, TlsFiles,
};
use serde_json::{Value, json};

/// The one request that a state makes at a server that is content with anything.
async fn sent(adapter: AdapterSettings, delivery: Delivery) -> crate::server::Received {
    let server = Server::start(|_| answer(200, &[], "")).await;
    let outcomes = deliver(settings(&server.url(), adapter), &[delivery]).await;
    assert_eq!(brief(&outcomes[0]), "delivered");
    server.last()
}

#[tokio::test]
async fn a_state_goes_out_as_a_cloud_event_with_its_data_untouched() {
    let odd = r#"{"n":123456789012345678901234567890, "name":"J\u00f6 \"x\""}"#;
    let request = sent(webhook(), state("u\"1", 7, Action::Created, odd)).await;
    assert_eq!(
        request.body,
        format!(
            r#"{{"specversion":"1.0","id":"00000000-0000-0000-0000-000000000007","source":"/postbound","type":"user.created","subject":"u\"1","time":"2025-08-19T10:00:07.123987Z","datacontenttype":"application/json","tenantid":"acme","userversion":"7","data":{odd}}}"#
        )
    );
    assert_eq!(request.header("postbound-tenant"), Some("acme"));
    let deleted = sent(webhook(), state("u1", 8, Action::Deleted, "{}")).await;
    let event: Value = serde_json::from_str(&deleted.body).unwrap();
    assert_eq!((&event["type"], &event["data"]), (&json!("user.deleted"), &json!({})));
}

#[tokio::test]
async fn a_template_makes_body_and_headers_and_no_value_breaks_out_of_them() {
    let template = r#"{"properties": {"email": "{{/data/email}}", "phone": "{{/data/phone?}}",
        "label": "{{/user}} of {{/tenant/name}} ({{/action}})"}, "v": "{{/version}}", "fixed": [1, true]}"#;
    let data = r#"{"email": "\", \"admin\": true, \"x\": \"", "roles": ["a"]}"#;
    let request = sent(webhook_of(template), state("u1", 3, Action::Updated, data)).await;
    assert_eq!(
        serde_json::from_str::<Value>(&request.body).unwrap(),
        json!({ "properties": { "email": "\", \"admin\": true, \"x\": \"", "label": "u1 of Acme Inc (updated)" },
                "v": 3, "fixed": [1, true] })
    );
    assert_eq!(request.header("x-user"), Some("acme u1"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    // A line break would begin another header.
    let server = Server::start(|_| answer(200, &[], "")).await;
    let broken = state("u1\r\nX-Admin: yes", 3, Action::Updated, "{}");
    let outcomes = deliver(settings(&server.url(), webhook_of("{}")), &[broken]).await;
    assert_eq!(brief(&outcomes[0]), "permanent request_invalid");
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn the_targets_own_id_is_taken_from_its_answer_where_it_stands() {
    for (body, expected) in [
        (r#"{"contact": {"id": "c-1"}}"#, "delivered as c-1"),
        (r#"{"contact": {"id": 71}}"#, "delivered as 71"),
        (r#"{"contact": {"id": ""}}"#, "delivered"),
        (r#"{"contact": {}, "id": "other"}"#, "delivered"),
        ("<html>", "delivered"),
        ("", "delivered"),
    ] {
        let server = Server::start(move |_| answer(201, &[], body)).await;
        let outcomes = deliver(settings(&server.url(), webhook_of("{}")), &[updated("u1", 1)]).await;
        assert_eq!(brief(&outcomes[0]), expected, "{body}");
    }
    let cut = Server::start(|_| half(200, r#"{"contact": {"id": "c-1"}"#)).await;
    let outcomes = deliver(settings(&cut.url(), webhook_of("{}")), &[updated("u1", 1)]).await;
    assert_eq!(brief(&outcomes[0]), "delivered", "an id that was not heard whole is none");
}

#[tokio::test]
async fn basic_credentials_are_sent_as_one_header_and_never_told() {
    let server =
        Server::start(|_| answer(403, &[("content-type", "text/plain")], "no: the-password is wrong")).await;
    let settings = TargetSettings {
        basic_user: Some("postbound".to_owned()),
        basic_password: SecretFn::fixed(arc("the-password")),
        ..settings(&server.url(), webhook())
    };
    let outcomes = deliver(settings, &[updated("u1", 1)]).await;
    // base64 of postbound:the-password
    assert_eq!(server.last().header("authorization"), Some("Basic cG9zdGJvdW5kOnRoZS1wYXNzd29yZA=="));
    assert!(!detail(&outcomes[0]).contains("the-password"), "{outcomes:?}");
}

#[tokio::test]
async fn a_guarded_target_is_not_reached_inside_by_address_or_by_name() {
    let server = Server::start(|_| answer(200, &[], "")).await;
    let port = server.address.port();
    let guarded = |host: &str, networks: &[&str]| TargetSettings {
        addresses: AddressPolicy::Public { and: networks.iter().map(|net| net.parse().unwrap()).collect() },
        ..settings(&format!("http://{host}:{port}/?hidden"), webhook())
    };
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1"] {
        let outcomes = deliver(guarded(host, &["10.0.0.0/8"]), &[updated("u1", 1)]).await;
        assert_eq!(brief(&outcomes[0]), "whole_target address_refused", "{host}");
        let words = detail(&outcomes[0]);
        assert!(words.contains("loopback") && words.contains("allow_addresses"), "{words}");
        assert!(!words.contains("hidden"), "{words}");
        let probe = Target::new(guarded(host, &[])).unwrap().probe().await.unwrap_err();
        assert!(probe.starts_with("address_refused: "), "{probe}");
    }
    assert!(server.received().is_empty(), "nothing was sent");
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let outcomes = deliver(guarded(host, &["127.0.0.0/8"]), &[updated("u1", 1)]).await;
        assert_eq!(brief(&outcomes[0]), "delivered", "{host}");
    }
}

#[tokio::test]
async fn a_name_without_any_address_stays_a_matter_of_dns_under_guard() {
    let guarded = TargetSettings {
        addresses: AddressPolicy::Public { and: Vec::new() },
        ..settings(&format!("http://{}.invalid/", "n".repeat(64)), webhook())
    };
    let outcomes = deliver(guarded, &[updated("u1", 1)]).await;
    assert_eq!(brief(&outcomes[0]), "whole_target dns");
}

#[test]
fn files_that_are_no_certificates_are_refused_by_name_and_never_quoted() {
    let folder = std::env::temp_dir().join(format!("postbound-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let garbage = folder.join("garbage.pem");
    std::fs::write(&garbage, "s3cret no pem").unwrap();
    let missing = folder.join("missing.pem");
    for (tls, words) in [
        (TlsFiles { ca: Some(garbage.clone()), client: None }, "the ca_file of target the-target"),
        (TlsFiles { ca: Some(missing.clone()), client: None }, "missing.pem: No such file"),
        (
            TlsFiles { ca: None, client: Some((garbage.clone(), garbage.clone())) },
            "no certificate and its key",
        ),
        (TlsFiles { ca: None, client: Some((garbage, missing)) }, "the client_key_file"),
    ] {
        let error: TargetError =
            Target::new(TargetSettings { tls, ..settings("https://host/", webhook()) }).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(words) && !told.contains("s3cret"), "{told}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
