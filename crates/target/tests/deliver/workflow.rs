//! Seeds 000 and 001: the trigger of a registration, and the ids that come back.

use crate::server::{Server, answer, half};
use crate::states::{brief, deliver, detail, settings, state, workflow};
use postbound_event::Action;
use postbound_target::{AdapterSettings, WorkflowSettings};
use serde_json::{Value, json};

const SEED: &str = r#"{"email": "user@example.com", "firstName": "Max", "lastName": "Mustermann",
    "phone": "+49 123 456789", "convexUserId": "convex_user_123", "source": "haffnet_website",
    "registrationDate": "2025-11-23T06:29:19Z", "username": "no", "password": "no"}"#;

async fn body(adapter: AdapterSettings, data: &str) -> Value {
    let server = Server::start(|_| answer(200, &[], "")).await;
    let outcomes = deliver(settings(&server.url(), adapter), &[state("u1", 3, Action::Created, data)]).await;
    assert_eq!(brief(&outcomes[0]), "delivered");
    assert_eq!(server.last().header("postbound-tenant"), Some("acme"));
    serde_json::from_str(&server.last().body).unwrap()
}

#[tokio::test]
async fn the_body_is_that_of_the_contract_and_holds_nothing_else() {
    let expected = json!({
        "trigger": "user_registration",
        "inputData": {
            "eventType": "account_created",
            "source": "haffnet_website",
            "customerData": {
                "email": "user@example.com", "firstName": "Max", "lastName": "Mustermann", "phone": "+49 123 456789",
            },
            "metadata": {
                "convexUserId": "convex_user_123", "registrationDate": "2025-11-23T06:29:19Z", "platform": "web",
                "authProvider": "email",
            },
        },
    });
    assert_eq!(body(workflow(), SEED).await, expected);
}

#[tokio::test]
async fn what_the_data_does_not_say_is_configured_or_left_out() {
    let bare = body(workflow(), r#"{"email": "a@example.com", "phone": null, "source": " "}"#).await;
    assert_eq!(bare["inputData"]["source"], "website");
    assert_eq!(bare["inputData"]["customerData"], json!({ "email": "a@example.com" }));
    let metadata = json!({ "convexUserId": "u1", "registrationDate": "2025-08-19T10:00:03.123987Z",
                           "platform": "web", "authProvider": "email" });
    assert_eq!(bare["inputData"]["metadata"], metadata);

    let own = AdapterSettings::WorkflowTrigger(WorkflowSettings {
        trigger: "signup".to_owned(),
        event_type: "joined".to_owned(),
        source: "app".to_owned(),
        platform: "ios".to_owned(),
        auth_provider: "password".to_owned(),
        ..WorkflowSettings::default()
    });
    let configured = body(own.clone(), "{}").await;
    let input = &configured["inputData"];
    assert_eq!(
        (&configured["trigger"], &input["eventType"], &input["source"]),
        (&json!("signup"), &json!("joined"), &json!("app"))
    );
    assert_eq!(
        (&input["metadata"]["platform"], &input["metadata"]["authProvider"]),
        (&json!("ios"), &json!("password"))
    );
    for provider in ["google", "facebook", "line", "password"] {
        let said =
            body(own.clone(), &format!(r#"{{"authProvider": "{provider}", "platform": "web"}}"#)).await;
        assert_eq!(said["inputData"]["metadata"]["authProvider"], provider);
        assert_eq!(said["inputData"]["metadata"]["platform"], "web");
    }
}

#[tokio::test]
async fn the_ids_of_the_answer_become_links_as_far_as_there_are_any() {
    let check = async |adapter: AdapterSettings, body: &'static str, expected: &str| {
        let server = Server::start(move |_| answer(200, &[], body)).await;
        let outcomes =
            deliver(settings(&server.url(), adapter), &[state("u1", 1, Action::Created, "{}")]).await;
        assert_eq!(brief(&outcomes[0]), expected, "{body}");
    };
    let both =
        r#"{"success": true, "frontendUserId": "frontend_user_456", "crmContactId": "crm_contact_789"}"#;
    check(workflow(), both, "delivered frontendUserId=frontend_user_456 crmContactId=crm_contact_789").await;
    check(workflow(), r#"{"frontendUserId": null, "crmContactId": 7}"#, "delivered crmContactId=7").await;
    check(workflow(), "accepted", "delivered").await;
    let nested = WorkflowSettings {
        links: vec![("user".into(), "/result/user/id".to_owned())],
        ..WorkflowSettings::default()
    };
    check(
        AdapterSettings::WorkflowTrigger(nested),
        r#"{"result": {"user": {"id": "x"}}, "frontendUserId": "y"}"#,
        "delivered user=x",
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_was_cut_is_a_trigger_all_the_same() {
    let server = Server::start(|_| half(200, r#"{"frontendUserId": "f"#)).await;
    let outcomes =
        deliver(settings(&server.url(), workflow()), &[state("u1", 1, Action::Created, "{}")]).await;
    assert_eq!(brief(&outcomes[0]), "delivered");
}

#[tokio::test]
async fn an_answer_that_says_it_failed_did_so_under_any_success_status() {
    let body = r#"{"success": false, "error": "the contact of user@example.com was not made"}"#;
    let server = Server::start(move |_| answer(200, &[], body)).await;
    let outcomes =
        deliver(settings(&server.url(), workflow()), &[state("u1", 1, Action::Created, SEED)]).await;
    assert_eq!(brief(&outcomes[0]), "transient success_false");
    assert_eq!(detail(&outcomes[0]), "the contact of *** was not made");
}
