//! Webhooks are signed as Standard Webhooks has it, over a rotation too, and told in their order.

use super::hook::{Hook, Request};
use super::{HURRIED, SOON, Town};
use crate::ingress::clients::{python, run};
use postbound_target::signature::{HeaderNames, Rejection, SigningKey, Verifier};
use postbound_tests::eventually;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use tokio::process::Command;

const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Verifies what stdin holds with the library named first.
const VERIFY: &str = r#"
import json, sys
library, secret = sys.argv[1:]
given = json.load(sys.stdin)
getattr(__import__(library), "Webhook")(secret).verify(given["body"], given["headers"])
print("verified")
"#;

fn verify(request: &Request, secret: &str) -> Result<String, Rejection> {
    let keys = vec![SigningKey::parse(secret).unwrap()];
    let verifier = Verifier { keys, names: HeaderNames::Standard, body_bytes_max: 1 << 20 };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    verifier.verify(&request.headers, &request.body, now).map(str::to_owned)
}

/// The libraries receivers use take it, too.
async fn verify_with(library: &str, secret: &str, request: &Request) {
    let headers: BTreeMap<&str, &str> = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| (name, request.header(name)))
        .into();
    let given = json!({ "headers": headers, "body": String::from_utf8_lossy(&request.body) }).to_string();
    let mut command = Command::new(python().await);
    assert_eq!(
        run(command.args(["-c", VERIFY, library, secret]), &given).await.trim(),
        "verified",
        "{library}"
    );
}

/// Emits until a request is signed as wanted.
async fn until_signed(town: &Town, hook: &Hook, what: &str, wanted: impl Fn(&Request) -> bool) -> Request {
    eventually(what, SOON, async || {
        town.emit("t0", "u1", "updated", r#"{"email": "u1@example.com"}"#).await;
        town.installation.until_settled(&["hook"]).await;
        hook.taken().into_iter().next_back().filter(|request| wanted(request))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_rotate_without_a_request_that_neither_side_can_verify() {
    let hook = Hook::start(|_| json!({})).await;
    let town = Town::start("hook", |installation| {
        let file = installation.path("hook.secrets");
        std::fs::write(&file, OLD).unwrap();
        format!(
            "adapter = \"webhook\"\nurl = \"{}\"\nallow_private_addresses = true\nsigning_secrets_file = \"{}\"\n{HURRIED}",
            hook.url(),
            file.display()
        )
    })
    .await;
    let rotate = |secrets: &str| {
        let draft = town.installation.path("hook.draft");
        std::fs::write(&draft, secrets).unwrap();
        std::fs::rename(&draft, town.installation.path("hook.secrets")).unwrap();
    };
    let old =
        until_signed(&town, &hook, "the old secret signs", |request| verify(request, OLD).is_ok()).await;
    assert_eq!(verify(&old, NEW), Err(Rejection::Mismatch));
    rotate(&format!("{NEW}\n{OLD}\n"));
    let both = until_signed(&town, &hook, "both sign", |request| verify(request, NEW).is_ok()).await;
    let id = verify(&both, OLD).unwrap();
    for (library, secret) in [("standardwebhooks", OLD), ("standardwebhooks", NEW), ("svix", NEW)] {
        verify_with(library, secret, &both).await;
    }
    rotate(NEW);
    until_signed(&town, &hook, "the new one alone signs", |request| verify(request, OLD).is_err()).await;

    // The whole of a CloudEvent, under the id of the signature.
    let event = both.json();
    assert_eq!(both.header("content-type"), "application/cloudevents+json");
    assert_eq!((event["id"].as_str(), event["specversion"].as_str()), (Some(id.as_str()), Some("1.0")));
    assert_eq!((&event["subject"], &event["tenantid"]), (&json!("u1"), &json!("t0")));
    assert_eq!(event["data"], json!({ "email": "u1@example.com" }));
    assert_eq!(event["userversion"], both.header("postbound-user-version"));
    for request in hook.taken() {
        assert!(verify(&request, OLD).is_ok() || verify(&request, NEW).is_ok(), "nobody could verify it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_wants_every_event_gets_each_in_order_though_it_refuses_some() {
    let hook = Hook::start(|_| json!({})).await;
    hook.refuse(&[500, 429, 502, 400]);
    let town = Town::start("hook", |_| {
        format!(
            "adapter = \"webhook\"\nurl = \"{}\"\nallow_addresses = [\"127.0.0.0/8\"]\ncoalesce = false\n{HURRIED}",
            hook.url()
        )
    })
    .await;
    town.emit("t0", "u1", "created", r#"{"n": 1}"#).await;
    for n in 2..=20 {
        town.emit("t0", "u1", "updated", &format!(r#"{{"n": {n}}}"#)).await;
    }
    town.emit("t0", "u1", "deleted", "{}").await;
    town.installation.until_settled(&["hook"]).await;
    let versions: Vec<Value> =
        hook.taken().iter().map(|request| request.json()["userversion"].clone()).collect();
    assert_eq!(versions, (1..=21).map(|version| json!(version.to_string())).collect::<Vec<_>>());
    let types: Vec<Value> = hook.taken().iter().map(|request| request.json()["type"].clone()).collect();
    assert_eq!(
        (&types[0], &types[1], &types[20]),
        (&json!("user.created"), &json!("user.updated"), &json!("user.deleted"))
    );
    assert!(hook.asked().len() >= 25, "the refused ones were tried again");
}
