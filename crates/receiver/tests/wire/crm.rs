//! The guarded CRM (S3).

use std::time::Duration;

use postbound_receiver::RateLimit;
use serde_json::{Value, json};

use crate::stage::{Answer, Case, Stage};

fn user(id: &str, version: i64) -> Value {
    json!({
        "id": id, "kindeUserId": "kp_1", "email": format!("{id}@company.com"), "name": "User Full Name",
        "avatar": "https://avatar-url.com/image.jpg", "isActive": true, "isAdmin": false, "department": "Sales",
        "title": "Sales Manager", "lastActiveAt": "2025-08-19T10:00:00.000Z", "roles": ["user", "manager"],
        "permissions": ["read"], "allowedApplications": ["crm"], "subscriptionTier": "premium", "version": version
    })
}

fn batch(users: &[Value]) -> Value {
    json!({
        "operation": "user_sync",
        "tenant": {"id": "acme", "name": "Company Name", "subdomain": "company", "kindeOrgId": "org_1"},
        "users": users,
        "metadata": {"syncTime": "2025-08-19T10:00:00.000Z", "syncedBy": "tests", "syncType": "incremental",
                     "applicationCode": "crm"}
    })
}

/// `userId status code` of every result.
fn results(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let text = |result: &Value, name: &str| result[name].as_str().unwrap_or("-").to_owned();
    let line = |r: &Value| format!("{} {} {}", text(r, "userId"), text(r, "status"), text(r, "code"));
    body["results"].as_array().unwrap_or_else(|| panic!("{body}")).iter().map(line).collect()
}

#[tokio::test]
async fn the_answer_is_the_documents_and_a_sync_log_row_stands_for_it() {
    let stage = Stage::start(|_| ()).await;
    let answer = stage.crm(&[], &batch(&[user("u2", 1), user("u1", 1)])).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let body = answer.json();
    let (result, metadata) = (&body["results"][0], &body["metadata"]);
    assert_eq!(
        body,
        json!({
            "success": true, "message": "Successfully synced 2 users",
            "results": [
                {"userId": "u2", "status": "created", "crmUserId": result["crmUserId"],
                 "message": "User created successfully"},
                {"userId": "u1", "status": "created", "crmUserId": body["results"][1]["crmUserId"],
                 "message": "User created successfully"}
            ],
            "tenant": {"id": "acme", "name": "Company Name"},
            "metadata": {"operation": "user_sync", "syncedAt": metadata["syncedAt"], "totalUsers": 2,
                         "successful": 2, "failed": 0}
        })
    );
    assert!(result["crmUserId"].as_str().unwrap().starts_with("crm_"));

    let again = stage.crm(&[], &batch(&[user("u2", 2)])).await.json();
    assert_eq!(again["results"][0]["status"], "updated");
    assert_eq!(again["results"][0]["crmUserId"], result["crmUserId"]);
    let logs =
        stage.row("select jsonb_agg(to_jsonb(l) - 'id' - 'synced_at' order by id) from sync_logs l").await;
    let details = json!({"source": "tests", "syncType": "incremental", "failures": []});
    assert_eq!(
        logs,
        json!([
            {"tenant_id": "acme", "operation": "user_sync", "total_users": 2, "successful": 2, "failed": 0,
             "details": details},
            {"tenant_id": "acme", "operation": "user_sync", "total_users": 1, "successful": 1, "failed": 0,
             "details": details}
        ])
    );
}

#[tokio::test]
async fn one_bad_user_fails_alone_under_its_own_result() {
    let stage = Stage::start(|_| ()).await;
    let with = |id: &str, name: &str, value: Value| {
        let mut user = user(id, 1);
        user[name] = value;
        user
    };
    let answer = stage
        .crm(
            &[],
            &batch(&[
                user("good", 1),
                with("nameless", "name", Value::Null),
                with("typed", "roles", json!("manager")),
                with("versioned", "version", json!("one")),
                with("nul", "title", json!("a\0b")),
                with("long", "department", json!("d".repeat(101))),
                with("dated", "lastActiveAt", json!("yesterday-ish")),
                user("last", 1),
            ]),
        )
        .await;
    assert_eq!(
        results(&answer),
        [
            "good created -",
            "nameless failed invalid_user",
            "typed failed invalid_user",
            "versioned failed invalid_user",
            "nul failed invalid_user",
            "long failed invalid_user",
            "dated failed invalid_user",
            "last created -"
        ]
    );
    let metadata = answer.json()["metadata"].clone();
    assert_eq!((&metadata["successful"], &metadata["failed"]), (&json!(2), &json!(6)));
    let held = stage.row("select jsonb_agg(user_id order by user_id) from crm_users").await;
    assert_eq!(held, json!(["good", "last"]));
    let log = stage.log().await;
    assert_eq!(log[0], "good 1 applied 200");
    assert_eq!(log[5], "long 1 refused 200");
    let details = stage.row("select details from sync_logs").await.to_string();
    assert!(details.contains("nameless") && !details.contains("company.com"), "{details}");
}

#[tokio::test]
async fn each_users_version_is_guarded_by_itself() {
    let stage = Stage::start(|_| ()).await;
    stage.crm(&[], &batch(&[user("u1", 5), user("u2", 5), user("u3", 5)])).await;
    let answer = stage.crm(&[], &batch(&[user("u1", 4), user("u2", 5), user("u3", 6)])).await;
    assert_eq!(results(&answer), ["u1 failed stale_version", "u2 updated -", "u3 updated -"]);
    let stale = &answer.json()["results"][0];
    assert_eq!((&stale["error"], &stale["heldVersion"]), (&json!("stale version: held 5"), &json!(5)));
    assert!(stale["crmUserId"].as_str().unwrap().starts_with("crm_"));
    assert_eq!(stage.log().await[3..], ["u1 4 stale 200", "u2 5 duplicate 200", "u3 6 applied 200"]);
}

#[tokio::test]
async fn a_deleted_user_stays_as_a_tombstone_under_its_crm_id() {
    let stage = Stage::start(|_| ()).await;
    let created = stage.crm(&[], &batch(&[user("u1", 1)])).await.json();
    let delete = json!({"id": "u1", "isActive": false, "deleted": true, "version": 2});
    assert_eq!(results(&stage.crm(&[], &batch(&[delete])).await), ["u1 updated -"]);
    let held = "select jsonb_build_array(is_active, deleted_at is not null, version, email) from crm_users";
    assert_eq!(stage.row(held).await, json!([false, true, 2, "u1@company.com"]));

    let late = stage.crm(&[], &batch(&[user("u1", 1)])).await;
    assert_eq!(results(&late), ["u1 failed stale_version"]);
    let back = stage.crm(&[], &batch(&[user("u1", 3)])).await.json();
    assert_eq!(back["results"][0]["crmUserId"], created["results"][0]["crmUserId"]);
    assert_eq!(stage.row(held).await, json!([true, false, 3, "u1@company.com"]));
}

#[tokio::test]
async fn a_repeated_key_gets_the_stored_answer_unless_a_user_had_failed() {
    let stage = Stage::start(|_| ()).await;
    let key = [("idempotency-key", "\"k1\"")];
    let first = stage.crm(&key, &batch(&[user("u1", 1)])).await;
    let again = stage.crm(&key, &batch(&[user("u1", 1)])).await;
    assert_eq!((again.text, again.headers.contains_key("idempotency-replayed")), (first.text, true));
    assert_eq!(stage.crm(&key, &batch(&[user("u1", 2)])).await.status, 422);

    stage.inject(&json!({"per_user_fail": ["u3"], "times": 1})).await;
    let key = [("idempotency-key", "\"k2\"")];
    let both = batch(&[user("u2", 1), user("u3", 1)]);
    assert_eq!(results(&stage.crm(&key, &both).await), ["u2 created -", "u3 failed fault"]);
    assert_eq!(results(&stage.crm(&key, &both).await), ["u2 updated -", "u3 created -"]);
    assert_eq!(
        stage.log().await,
        [
            "u1 1 applied 200",
            "u1 1 replayed 200",
            "u1 2 key_conflict 422",
            "u2 1 applied 200",
            "u3 1 fault 200",
            "u2 1 duplicate 200",
            "u3 1 applied 200"
        ]
    );
}

#[tokio::test]
async fn what_is_wrong_with_the_request_refuses_it_whole() {
    let stage = Stage::start(|config| config.api_key = Some("s3cret".to_owned())).await;
    let good = batch(&[user("u1", 1)]);
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let many: Vec<Value> = (0..101).map(|n| user(&format!("u{n}"), 1)).collect();
    let key = ("x-internal-api-key", "s3cret");
    let cases: Vec<Case<Value>> = vec![
        ("no key", vec![], good.clone(), 401),
        ("wrong key", vec![("x-internal-api-key", "s3cret2")], good.clone(), 401),
        ("no tenant header", vec![key, ("x-tenant-id", "")], good.clone(), 400),
        ("another tenant", vec![key, ("x-tenant-id", "umbrella")], good.clone(), 400),
        ("no source", vec![key, ("x-sync-source", "")], good.clone(), 400),
        ("no tenant", vec![key], with("tenant", Value::Null), 400),
        ("no tenant name", vec![key], with("tenant", json!({"id": "acme"})), 400),
        ("no operation", vec![key], with("operation", Value::Null), 400),
        ("no users", vec![key], with("users", Value::Null), 400),
        ("a user without id", vec![key], with("users", json!([{"name": "n"}])), 400),
        ("another operation", vec![key], with("operation", json!("user_merge")), 422),
        ("empty users", vec![key], with("users", json!([])), 422),
        ("too many users", vec![key], with("users", json!(many)), 422),
        ("a user twice", vec![key], with("users", json!([user("u1", 1), user("u1", 2)])), 422),
    ];
    for (name, headers, body, status) in cases {
        let answer = stage.crm(&headers, &body).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text);
        let problem = answer.json();
        assert_eq!((&problem["status"], &problem["success"]), (&json!(status), &json!(false)), "{name}");
        assert!(problem["error"].is_string() && problem["timestamp"].is_string(), "{name}");
    }
    assert_eq!(stage.row("select to_jsonb(count(*)) from crm_users").await, 0);
    assert_eq!(stage.row("select to_jsonb(count(*)) from request_log where outcome <> 'refused'").await, 0);
}

#[tokio::test]
async fn past_the_rate_limit_the_answer_is_429_with_the_seconds_to_wait() {
    let limit = RateLimit { requests: 2, per: Duration::from_secs(900) };
    let stage = Stage::start(|config| config.rate_limit = Some(limit)).await;
    for version in 1..=2 {
        assert_eq!(stage.crm(&[], &batch(&[user("u1", version)])).await.status, 200);
    }
    let limited = stage.crm(&[], &batch(&[user("u1", 3)])).await;
    assert_eq!(limited.status, 429);
    let wait: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((800..=900).contains(&wait), "{wait}");
    assert_eq!(stage.log().await.len(), 2);
}
