use super::{
    BACKEND, BACKEND_BEFORE, BACKEND_PATH, CLERK, CLERK_PATH, Door, clerk_user, count, now, options, said,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use postbound_target::signature::{SigningKey, sign};
use postbound_tests::Installation;
use reqwest::RequestBuilder;
use serde_json::json;

/// Nothing of what was refused is anywhere in the database.
async fn assert_no_trace(installation: &Installation) {
    let tables = "select (select count(*) from postbound.inbound_message) + (select count(*) from postbound.inbound_waiting)
        + (select count(*) from postbound.change_log) + (select count(*) from postbound.user_head)
        + (select count(*) from directory.users)";
    assert_eq!(count(installation, tables).await, 0);
}

async fn check(request: RequestBuilder, status: u16, says: &str) {
    let sent = format!("{request:?}");
    let answer = request.send().await.unwrap();
    let problem = answer.headers()["content-type"] == "application/problem+json";
    let (told, body) = said(answer).await;
    assert_eq!((told, problem), (status, true), "{body} to {sent}");
    assert!(body["detail"].as_str().unwrap().contains(says), "{body} to {sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_stale_requests_are_refused_each_with_its_status_and_leave_no_trace() {
    let installation = Installation::start(options().with("ingress.body_bytes_max", "4KiB")).await;
    let door = Door::open(&installation).await;
    let body = clerk_user("user.created", "user_1", "Ada", 1000).to_string();
    let keys = [SigningKey::parse(CLERK).unwrap()];
    let at = now();
    let good = sign(&keys, "msg_1", at, body.as_bytes());
    let with = |headers: &[(&str, &str)]| {
        let request = door.post(CLERK_PATH, body.clone());
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    let signed = |at: i64| door.signed("svix", CLERK, CLERK_PATH, ("msg_1", at, &body));
    let stamp = at.to_string();

    for (missing, headers) in [
        ("svix-id", [("svix-timestamp", stamp.as_str()), ("svix-signature", good.as_str())]),
        ("svix-timestamp", [("svix-id", "msg_1"), ("svix-signature", good.as_str())]),
        ("svix-signature", [("svix-id", "msg_1"), ("svix-timestamp", stamp.as_str())]),
    ] {
        check(with(&headers), 401, missing).await;
    }
    check(with(&[]), 401, "webhook-id").await;
    check(signed(at - 301), 401, "from now").await;
    check(signed(at + 400), 401, "from now").await;
    check(door.signed("svix", BACKEND, CLERK_PATH, ("msg_1", at, &body)), 401, "no signature matches").await;
    check(signed(at).header("webhook-id", "msg_1"), 400, "mixed").await;
    check(signed(at).header("svix-id", "msg_1"), 400, "more than once").await;
    for stamp in ["", "+1", "-1", "1.0", "soon"] {
        let headers = [("svix-id", "msg_1"), ("svix-timestamp", stamp), ("svix-signature", &good)];
        check(with(&headers), 400, "timestamp").await;
    }
    let dotted = [("svix-id", "msg.1"), ("svix-timestamp", &stamp), ("svix-signature", &good)];
    check(with(&dotted), 400, "full stop").await;
    for signature in ["v1,", "v1,g0hM9SsE", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="] {
        let headers = [("svix-id", "msg_1"), ("svix-timestamp", &stamp), ("svix-signature", signature)];
        check(with(&headers), 401, "v1 signature").await;
    }
    let many = vec![good.as_str(); 17].join(" ");
    let headers = [("svix-id", "msg_1"), ("svix-timestamp", &stamp), ("svix-signature", many.as_str())];
    check(with(&headers), 400, "too many").await;
    // Parsed and written anew, it is another body.
    let spaced = body.replace("\":", "\": ");
    let headers = [("svix-id", "msg_1"), ("svix-timestamp", &stamp), ("svix-signature", good.as_str())];
    let rewritten =
        headers.iter().fold(door.post(CLERK_PATH, spaced), |r, (name, value)| r.header(*name, *value));
    check(rewritten, 401, "no signature matches").await;
    let long = format!("{{\"type\":\"{}\"}}", "x".repeat(5000));
    check(door.signed("svix", CLERK, CLERK_PATH, ("msg_1", at, &long)), 413, "4096").await;

    // Signed, and yet not what the contract says.
    for (body, status, says) in [
        ("{\"type\":", 400, "not JSON"),
        ("[]", 422, "`type` is missing"),
        ("{\"type\":\"user.updated\"}", 422, "`data`"),
        ("{\"type\":\"user.updated\",\"data\":{\"updated_at\":1}}", 422, "data.id"),
        ("{\"type\":\"user.updated\",\"data\":{\"id\":\"u\"}}", 422, "updated_at"),
    ] {
        check(door.signed("svix", CLERK, CLERK_PATH, ("msg_2", at, body)), status, says).await;
    }
    let nobody = json!({"event": "user.updated", "data": {"email": "a@example.com"}}).to_string();
    check(door.signed("webhook", BACKEND, BACKEND_PATH, ("msg_3", at, &nobody)), 422, "frontendUserId").await;
    let endless = json!({"event": "user.updated", "data": {"frontendUserId": "x".repeat(600)}}).to_string();
    check(door.signed("webhook", BACKEND, BACKEND_PATH, ("msg_4", at, &endless)), 422, "longer than 512")
        .await;
    assert_no_trace(&installation).await;
    let refused =
        door.process.metric("postbound_ingress_webhooks_total", &["outcome=\"unauthorized\""]).await;
    assert!(refused >= 10.0, "{refused}");
    let log = door.process.log();
    assert!(log.contains("ingress.webhook.refused"), "{log}");
    assert!(!log.contains("Lovelace") && !log.contains("user_1"), "user data is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_of_several_secrets_may_have_signed_and_a_forger_uses_up_nobodys_rate() {
    let options = options()
        .with("ingress.sources.backend.rate_limit.requests", "2")
        .with("ingress.sources.backend.rate_limit.per", "1h");
    let installation = Installation::start(options).await;
    let door = Door::open(&installation).await;
    let body = json!({"event": "user.greeted", "data": {}}).to_string();
    for _ in 0..5 {
        check(door.signed("webhook", CLERK, BACKEND_PATH, ("msg_0", now(), &body)), 401, "no signature")
            .await;
    }
    for (id, secret) in [("msg_1", BACKEND), ("msg_2", BACKEND_BEFORE)] {
        let answer = door.signed("webhook", secret, BACKEND_PATH, (id, now(), &body)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let answer = door.signed("webhook", BACKEND, BACKEND_PATH, ("msg_3", now(), &body)).send().await.unwrap();
    assert_eq!(answer.status(), 429);
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3600).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_may_sign_with_an_hmac_in_a_header_of_its_own_and_have_a_path_and_tenants_of_its_own() {
    const SECRET: &str = "a secret that is long enough";
    let source = |key: &str| format!("ingress.sources.backend.{key}");
    let options = options()
        .with(&source("verification"), "header-hmac")
        .with(&source("signing_secrets"), SECRET)
        .with(&source("signature_header"), "X-Hub-Signature-256")
        .with(&source("signature_prefix"), "sha256=")
        .with(&source("path"), "/hooks/backend")
        .with(&source("tenant_pointer"), "/data/organization")
        .with("ingress.sources.other.kind", "backend-sync")
        .with("ingress.sources.other.verification", "header-hmac")
        .with("ingress.sources.other.signing_secrets", SECRET)
        .with("ingress.sources.other.signature_encoding", "base64")
        .with("ingress.sources.other.id_header", "X-Delivery");
    let installation = Installation::start(options).await;
    let door = Door::open(&installation).await;
    let mut producer = installation.database.connect(postbound_tests::Role::Producer).await;
    let change =
        postbound_client::Change::created("acme", "u-1").data(&json!({"email": "a@example.com"})).unwrap();
    postbound_client::emit(&mut producer, &change).await.unwrap();

    let body = json!({"event": "user.updated", "data": {"frontendUserId": "u-1", "organization": "acme", "title": "Dr"}});
    let body = body.to_string();
    let mac = hmac_sha256(SECRET.as_bytes(), body.as_bytes());
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let hook =
        |signature: &str| door.post("/hooks/backend", body.clone()).header("x-hub-signature-256", signature);
    check(hook(&hex), 401, "prefix").await;
    check(hook(&format!("sha256={}", hex.replace('a', "b"))), 401, "does not match").await;
    check(door.post("/hooks/backend", body.clone()), 401, "is missing").await;
    let (status, answer) = said(hook(&format!("sha256={hex}")).send().await.unwrap()).await;
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("applied")), "{answer}");
    let (_, answer) = said(hook(&format!("sha256={}", hex.to_uppercase())).send().await.unwrap()).await;
    assert_eq!(answer["outcome"], "repeated");
    let log = door.log().await;
    assert_eq!((log[1].tenant_id.as_str(), &log[1].data["title"]), ("acme", &json!("Dr")));

    let other = door.post(BACKEND_PATH, body.clone()).header("x-delivery", "7");
    let (status, answer) =
        said(other.header("x-webhook-signature", STANDARD.encode(mac)).send().await.unwrap()).await;
    assert_eq!(
        (status, answer["outcome"].as_str()),
        (202, Some("waiting")),
        "no such user in its tenant: {answer}"
    );
}

/// RFC 2104, with what the tests have at hand.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    assert!(key.len() <= 64);
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}
