//! What holds when requests come at once.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_of_one_user_sent_at_once_apply_in_rising_order_and_the_highest_stays() {
    let stage = Arc::new(Stage::start(|_| ()).await);
    let mut requests = JoinSet::new();
    for n in 0..60_i64 {
        let (stage, version) = (Arc::clone(&stage), (n * 37) % 60 + 1);
        requests.spawn(async move {
            let body = json!({"id": "u1", "email": format!("{version}@x.io"), "action": "updated"});
            stage.backend(&[("postbound-user-version", &version.to_string())], &body).await.status
        });
    }
    for status in requests.join_all().await {
        assert!(matches!(status, 200 | 409), "{status}");
    }
    let applied =
        stage.row("select jsonb_agg(version order by id) from request_log where outcome = 'applied'").await;
    let applied: Vec<i64> = serde_json::from_value(applied).unwrap();
    assert!(applied.is_sorted_by(|a, b| a < b), "{applied:?}");
    assert_eq!(applied.last(), Some(&60));
    assert_eq!(stage.row("select to_jsonb(email) from backend_users").await, "60@x.io");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_sent_many_times_at_once_is_applied_once() {
    let stage = Arc::new(Stage::start(|_| ()).await);
    let mut requests = JoinSet::new();
    for _ in 0..40 {
        let stage = Arc::clone(&stage);
        requests.spawn(async move {
            let body = json!({"id": "u1", "email": "a@x.io", "action": "created"});
            stage.backend(&[("idempotency-key", "\"k\"")], &body).await.status
        });
    }
    for status in requests.join_all().await {
        assert!(matches!(status, 200 | 409), "{status}");
    }
    assert_eq!(stage.row("select to_jsonb(count(*)) from request_log where outcome = 'applied'").await, 1);
    let hashes = stage.row("select to_jsonb(count(distinct body_sha256)) from request_log").await;
    assert_eq!(hashes, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_name_the_same_users_in_other_orders_do_not_deadlock() {
    let stage = Arc::new(Stage::start(|config| config.rate_limit = None).await);
    let mut requests = JoinSet::new();
    for round in 1..=60_i64 {
        let stage = Arc::clone(&stage);
        requests.spawn(async move {
            let mut users: Vec<Value> = (0..20)
                .map(|n| json!({"id": format!("u{n}"), "email": "a@x.io", "name": "N", "version": round}))
                .collect();
            if round % 2 == 0 {
                users.reverse();
            }
            // One name throughout: a changed one would lock the tenant's row and line the batches up.
            let tenant = json!({"id": "acme", "name": "Company"});
            stage.crm(&[], &json!({"operation": "user_sync", "tenant": tenant, "users": users})).await.status
        });
    }
    assert_eq!(requests.join_all().await, vec![200; 60]);
    assert_eq!(stage.row("select jsonb_agg(distinct version) from crm_users").await, json!([60]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_twice_at_once_on_one_schema_is_safe() {
    let stage = Stage::start(|_| ()).await;
    let mut starts = JoinSet::new();
    for _ in 0..4 {
        let config = postbound_receiver::ReceiverConfig::new(&stage.database_url);
        starts.spawn(async move { postbound_receiver::Receiver::connect(config).await.map(drop) });
    }
    for started in starts.join_all().await {
        started.unwrap();
    }
}
