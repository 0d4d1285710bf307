//! What is no news to a target is not sent to it, and counts as held.

use super::hook::Hook;
use super::{HURRIED, Town};
use serde_json::json;

async fn settings(hook: &Hook, filter: &str) -> Town {
    let url = hook.url();
    Town::start("hook", |_| {
        format!("adapter = \"webhook\"\nurl = \"{url}\"\nallow_private_addresses = true\n{filter}\n{HURRIED}")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_of_nothing_the_target_watches_is_not_sent_to_it() {
    let hook = Hook::start(|_| json!({})).await;
    let mut town = settings(&hook, "changed_fields = [\"email\", \"/plan/name\"]").await;
    let mut expected = Vec::new();
    for (action, data, is_news) in [
        ("created", r#"{"email": "a@example.com", "title": "x"}"#, true),
        ("updated", r#"{"email": "a@example.com", "title": "y"}"#, false),
        ("updated", r#"{"email": "a@example.com", "plan": {"seats": 2}}"#, false),
        ("updated", r#"{"email": "b@example.com", "plan": {"seats": 2}}"#, true),
        ("updated", r#"{"email": "b@example.com", "plan": {"name": "pro"}}"#, true),
        ("updated", r#"{"email": "b@example.com", "plan": {"name": "pro", "seats": 3}}"#, false),
        ("deleted", "{}", true),
        ("created", r#"{"email": "b@example.com", "plan": {"name": "pro"}}"#, true),
        ("updated", r#"{"email": "b@example.com", "plan": {"name": "pro"}, "title": "z"}"#, false),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (action, data, is_news))| (action, data, is_news.then_some(index + 1)))
    {
        if expected.len() == 3 {
            // What is known of the target outlives the worker.
            town.worker.terminate().await;
            town.worker = town.installation.worker(&[]);
        }
        town.emit("t0", "u1", action, data).await;
        town.installation.until_settled(&["hook", "backend"]).await;
        expected.extend(is_news.map(|version| version.to_string()));
        let sent: Vec<String> =
            hook.taken().iter().map(|request| request.header("postbound-user-version").to_owned()).collect();
        assert_eq!(sent, expected, "{action} {data}");
    }
    let held = "select delivered_version from postbound.delivery_ledger where target = 'hook'";
    assert_eq!(town.ask(held).await, "9");
    assert_eq!(town.ask("select version from postbound.held_fields").await, "9");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_other_tenants_are_never_sent_to_a_target_of_one() {
    let hook = Hook::start(|_| json!({})).await;
    let town = settings(&hook, "tenants = [\"t0\"]").await;
    for tenant in ["t0", "t1", "t2"] {
        town.emit(tenant, "u1", "created", r#"{"email": "u1@example.com"}"#).await;
        town.emit(tenant, "u1", "deleted", "{}").await;
    }
    town.installation.until_settled(&["hook", "backend"]).await;
    let tenants: Vec<_> = hook.asked().iter().map(|request| request.json()["tenantid"].clone()).collect();
    assert!(!tenants.is_empty() && tenants.iter().all(|tenant| tenant == "t0"), "{tenants:?}");
    assert_eq!(
        town.ask("select count(distinct tenant_id) from receiver.request_log where contract = 's2'").await,
        "3"
    );
}
