//! The guarded backend (S2).

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};

use crate::stage::{Case, Stage};

fn user(id: &str, action: &str, email: &str) -> Value {
    json!({
        "id": id, "email": email, "username": "johndoe", "displayName": "John Doe",
        "avatar": "https://example.com/avatar.jpg", "role": "user", "isActive": true, "action": action
    })
}

async fn held(stage: &Stage) -> Value {
    stage
        .row(
            "select to_jsonb(u) - 'created_at' - 'updated_at' || jsonb_build_object('deleted_at', deleted_at is not null)
               from backend_users u",
        )
        .await
}

#[tokio::test]
async fn a_user_is_created_updated_and_soft_deleted() {
    let stage = Stage::start(|_| ()).await;
    let answer = stage
        .backend(
            &[("postbound-user-version", "1"), ("postbound-tenant", "acme")],
            &user("u1", "created", "a@x.io"),
        )
        .await;
    assert_eq!((answer.status, answer.json()), (200, json!({"success": true, "id": "u1", "version": 1})));
    assert_eq!(
        held(&stage).await,
        json!({
            "tenant_id": "acme", "user_id": "u1", "email": "a@x.io", "username": "johndoe",
            "display_name": "John Doe", "avatar": "https://example.com/avatar.jpg", "role": "user",
            "is_active": true, "version": 1, "deleted_at": false
        })
    );

    let headers = [("postbound-user-version", "2"), ("postbound-tenant", "acme")];
    stage.backend(&headers, &user("u1", "updated", "b@x.io")).await;
    let row = held(&stage).await;
    assert_eq!((&row["email"], &row["version"]), (&json!("b@x.io"), &json!(2)));

    let headers = [("postbound-user-version", "3"), ("postbound-tenant", "acme")];
    let answer = stage.backend(&headers, &json!({"id": "u1", "action": "deleted", "email": null})).await;
    assert_eq!(answer.status, 200);
    let row = held(&stage).await;
    assert_eq!(
        (&row["email"], &row["is_active"], &row["deleted_at"], &row["version"]),
        (&json!("b@x.io"), &json!(false), &json!(true), &json!(3))
    );
    assert_eq!(stage.log().await, ["u1 1 applied 200", "u1 2 applied 200", "u1 3 applied 200"]);
}

#[tokio::test]
async fn an_older_version_is_refused_with_the_held_one_and_an_equal_one_changes_nothing() {
    let stage = Stage::start(|_| ()).await;
    stage.backend(&[("postbound-user-version", "5")], &user("u1", "created", "new@x.io")).await;

    let stale = stage.backend(&[("postbound-user-version", "4")], &user("u1", "updated", "old@x.io")).await;
    assert_eq!((stale.status, stale.header("content-type")), (409, Some("application/problem+json")));
    let problem = stale.json();
    assert!(problem["type"].as_str().unwrap().ends_with("/stale-version"));
    assert_eq!(problem["heldVersion"], 5);

    let equal = stage.backend(&[("postbound-user-version", "5")], &user("u1", "updated", "other@x.io")).await;
    assert_eq!((equal.status, equal.json()["success"].clone()), (200, json!(true)));
    assert_eq!(held(&stage).await["email"], "new@x.io");
    assert_eq!(stage.log().await, ["u1 5 applied 200", "u1 4 stale 409", "u1 5 duplicate 200"]);
}

#[tokio::test]
async fn a_tombstone_withstands_older_changes_and_yields_to_a_newer_creation() {
    let stage = Stage::start(|_| ()).await;
    // The delete is the first thing heard of the user.
    stage.backend(&[("postbound-user-version", "7")], &json!({"id": "u1", "action": "deleted"})).await;
    let late = stage.backend(&[("postbound-user-version", "6")], &user("u1", "created", "a@x.io")).await;
    assert_eq!(late.status, 409);
    assert_eq!(held(&stage).await["deleted_at"], true);

    stage.backend(&[("postbound-user-version", "8")], &user("u1", "created", "a@x.io")).await;
    let row = held(&stage).await;
    assert_eq!(
        (&row["deleted_at"], &row["is_active"], &row["version"]),
        (&json!(false), &json!(true), &json!(8))
    );
}

#[tokio::test]
async fn without_a_version_there_is_no_guard_and_the_held_version_stays() {
    let stage = Stage::start(|_| ()).await;
    stage.backend(&[("postbound-user-version", "5")], &user("u1", "created", "a@x.io")).await;
    let answer = stage.backend(&[], &user("u1", "updated", "b@x.io")).await;
    assert_eq!(answer.json(), json!({"success": true, "id": "u1"}));
    let row = held(&stage).await;
    assert_eq!(
        (&row["email"], &row["version"], &row["tenant_id"]),
        (&json!("b@x.io"), &json!(5), &json!("default"))
    );
}

#[tokio::test]
async fn one_tenants_users_and_keys_are_not_anothers() {
    let stage = Stage::start(|_| ()).await;
    for tenant in ["acme", "umbrella"] {
        let headers =
            [("x-tenant-id", tenant), ("idempotency-key", "\"k\""), ("postbound-user-version", "1")];
        let answer = stage.backend(&headers, &user("u1", "created", tenant)).await;
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, None), "{tenant}");
    }
    let emails = stage.row("select jsonb_agg(email order by tenant_id) from backend_users").await;
    assert_eq!(emails, json!(["acme", "umbrella"]));
}

#[tokio::test]
async fn a_repeated_key_gets_the_stored_answer_and_another_body_under_it_is_refused() {
    let stage = Stage::start(|_| ()).await;
    let headers = [("idempotency-key", "\"k1\""), ("postbound-user-version", "1")];
    let first = stage.backend(&headers, &user("u1", "created", "a@x.io")).await;
    let again = stage.backend(&headers, &user("u1", "created", "a@x.io")).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(again.text, first.text);

    let other = stage.backend(&headers, &user("u1", "created", "b@x.io")).await;
    assert_eq!(other.status, 422);
    assert!(other.json()["type"].as_str().unwrap().ends_with("/idempotency-key-reused"));
    assert_eq!(stage.log().await, ["u1 1 applied 200", "u1 1 replayed 200", "u1 1 key_conflict 422"]);
}

#[tokio::test]
async fn only_successes_are_remembered() {
    let stage = Stage::start(|_| ()).await;
    stage.backend(&[("postbound-user-version", "5")], &user("u1", "created", "a@x.io")).await;
    let headers = [("idempotency-key", "\"k1\""), ("postbound-user-version", "4")];
    for _ in 0..2 {
        let stale = stage.backend(&headers, &user("u1", "updated", "b@x.io")).await;
        assert_eq!((stale.status, stale.header("idempotency-replayed")), (409, None));
    }
    let invalid = [("idempotency-key", "\"k2\""), ("postbound-user-version", "6")];
    assert_eq!(stage.backend(&invalid, &user("u1", "updated", "")).await.status, 422);
    assert_eq!(stage.backend(&invalid, &user("u1", "updated", "c@x.io")).await.status, 200);
}

#[tokio::test]
async fn a_key_in_use_is_answered_409_until_it_is_free() {
    let stage = Stage::start(|_| ()).await;
    let mut other = stage.pool.begin().await.unwrap();
    sqlx::query("select claim_idempotency_key('s2', 'default', 'k1', '')")
        .execute(&mut *other)
        .await
        .unwrap();
    let headers = [("idempotency-key", "\"k1\"")];
    let busy = stage.backend(&headers, &user("u1", "created", "a@x.io")).await;
    assert_eq!((busy.status, busy.header("retry-after")), (409, Some("1")));
    assert!(busy.json()["type"].as_str().unwrap().ends_with("/idempotency-key-in-progress"));

    other.rollback().await.unwrap();
    assert_eq!(stage.backend(&headers, &user("u1", "created", "a@x.io")).await.status, 200);
    assert_eq!(stage.log().await, ["u1 - in_progress 409", "u1 - applied 200"]);
}

#[tokio::test]
async fn bad_requests_are_told_apart() {
    let stage = Stage::start(|config| config.body_bytes_max = 2_000).await;
    let good = user("u1", "created", "a@x.io").to_string();
    let with = |name: &str, value: Value| {
        let mut body = user("u1", "created", "a@x.io");
        body[name] = value;
        body.to_string()
    };
    let cases: Vec<Case<String>> = vec![
        ("not JSON", vec![], "{".to_owned(), 400),
        ("not an object", vec![], "[]".to_owned(), 400),
        ("no id", vec![], with("id", Value::Null), 400),
        ("blank id", vec![], with("id", json!(" ")), 400),
        ("no action", vec![], with("action", Value::Null), 400),
        ("isActive as text", vec![], with("isActive", json!("yes")), 400),
        ("unquoted key", vec![("idempotency-key", "k")], good.clone(), 400),
        ("version zero", vec![("postbound-user-version", "0")], good.clone(), 400),
        ("signed version", vec![("postbound-user-version", "+1")], good.clone(), 400),
        (
            "two versions",
            vec![("postbound-user-version", "1"), ("postbound-user-version", "2")],
            good.clone(),
            400,
        ),
        ("too large", vec![], with("displayName", json!("x".repeat(2_000))), 413),
        ("not declared as JSON", vec![("content-type", "text/plain")], good.clone(), 415),
        ("unknown action", vec![], with("action", json!("merged")), 422),
        ("no email", vec![], with("email", Value::Null), 422),
        ("empty email", vec![], with("email", json!("")), 422),
        ("NUL", vec![], with("username", json!("a\0b")), 422),
        ("unknown field", vec![], with("shoeSize", json!(44)), 200),
    ];
    for (name, headers, body, status) in cases {
        let answer = stage.send("POST", "/internal/users/sync", &headers, body).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text);
        if status != 200 {
            let problem = answer.json();
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{name}");
            assert_eq!((&problem["status"], &problem["success"]), (&json!(status), &json!(false)), "{name}");
            assert!(problem["title"].is_string() && problem["detail"].is_string(), "{name}");
        }
    }
    let applied = stage.row("select to_jsonb(count(*)) from request_log where outcome <> 'refused'").await;
    assert_eq!(applied, 1);
}

#[tokio::test]
async fn the_key_is_asked_for_where_one_is_configured() {
    let stage = Stage::start(|config| config.backend_api_key = Some("s3cret".to_owned())).await;
    let cases: [(&[(&str, &str)], u16); 6] = [
        (&[], 401),
        (&[("authorization", "Bearer wrong")], 401),
        (&[("authorization", "s3cret")], 401),
        (&[("x-internal-api-key", "s3cret"), ("x-internal-api-key", "s3cret")], 401),
        (&[("authorization", "Bearer s3cret")], 200),
        (&[("x-internal-api-key", "s3cret")], 200),
    ];
    for (headers, status) in cases {
        let answer = stage.backend(headers, &user("u1", "created", "a@x.io")).await;
        assert_eq!(answer.status, status, "{headers:?}");
    }
    assert_eq!(stage.log().await.len(), 2);
}

#[tokio::test]
async fn a_signature_is_asked_for_where_secrets_are_configured_and_a_forged_one_leaves_no_trace() {
    let secrets = ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];
    let stage = Stage::start(|config| config.signing_secrets = secrets.map(str::to_owned).into()).await;
    let body = user("u1", "created", "a@x.io");
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let signed = |key: &str, at: i64, text: &str| {
        let base64 = base64::engine::general_purpose::STANDARD;
        let key = base64.decode(key.trim_start_matches("whsec_")).unwrap();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("msg_1.{at}.{text}").as_bytes());
        format!("v1,{}", base64.encode(mac.finalize().into_bytes()))
    };
    let text = body.to_string();
    let forged = signed("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", now, &text);
    let cases = [
        (now, forged, 401),
        (now, signed(secrets[0], now, "{}"), 401),
        (now - 400, signed(secrets[0], now - 400, &text), 401),
        (now, signed(secrets[0], now, &text), 200),
        (now + 100, signed(secrets[1], now + 100, &text), 200),
    ];
    assert_eq!(stage.backend(&[], &body).await.status, 401);
    for (at, signature, status) in cases {
        let at = at.to_string();
        let headers =
            [("webhook-id", "msg_1"), ("webhook-timestamp", &at), ("webhook-signature", &signature)];
        assert_eq!(stage.backend(&headers, &body).await.status, status, "{headers:?}");
    }
    assert_eq!(stage.log().await.len(), 2);
}
