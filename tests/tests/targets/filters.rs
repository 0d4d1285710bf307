//! What is no news to a target is not sent to it, and counts as held.

use super::hook::Hook;
use super::{HURRIED, SOON, Town};
use postbound_tests::{Role, eventually};
use serde_json::{Value, json};

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
    town.installation.until_settled(&["hook", "backend", "crm"]).await;
    let tenants: Vec<_> = hook.asked().iter().map(|request| request.json()["tenantid"].clone()).collect();
    assert!(!tenants.is_empty() && tenants.iter().all(|tenant| tenant == "t0"), "{tenants:?}");
    assert_eq!(
        town.ask("select count(distinct tenant_id) from receiver.request_log where contract = 's2'").await,
        "3"
    );
    // They are not even published to it, and it counts as behind with nobody.
    let published = async |target: &str| {
        town.relay.metric("postbound_relay_published_total", &[&format!("target=\"{target}\"")]).await
    };
    assert_eq!((published("hook").await, published("backend").await), (2.0, 6.0));
    let of_others =
        "select count(*) from postbound.delivery_ledger where target = 'hook' and tenant_id <> 't0'";
    assert_eq!(town.ask(of_others).await, "0");
    let states = "select string_agg(state, ' ' order by target) from postbound.sync_state('t1', 'u1')";
    assert_eq!(town.ask(states).await, "in_sync in_sync in_sync");

    // Nor do jobs send them, and nothing of them is missing there when they are erased.
    let command = async |args: &[&str]| -> Value {
        let output = town.installation.run(Role::Operator, &[args, &["--json"]].concat()).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let resync = command(&["resync", "--target", "hook", "--all", "--dry-run"]).await;
    assert_eq!((&resync["users"], &resync["skipped"]), (&json!(1), &json!(2)));
    let stale = command(&["reconcile", "--target", "hook", "--older-than", "0s", "--dry-run"]).await;
    assert_eq!(stale[0]["stale_users"], json!(0), "{stale}");
    command(&["users", "erase", "t1", "u1", "--yes"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_before_a_tenant_was_taken_out_is_not_sent_after_it() {
    let hook = Hook::start(|_| json!({})).await;
    let mut town = settings(&hook, "tenants = [\"t0\", \"t1\"]").await;
    town.worker.terminate().await;
    for tenant in ["t0", "t1"] {
        town.emit(tenant, "u1", "created", r#"{"email": "u1@example.com"}"#).await;
    }
    eventually("both are published", SOON, async || {
        let published = town.relay.metric("postbound_relay_published_total", &["target=\"hook\""]).await;
        (published == 2.0).then_some(())
    })
    .await;
    let path = town.installation.path("postbound.toml");
    let toml = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, toml.replace(r#"["t0", "t1"]"#, r#"["t0"]"#)).unwrap();
    town.installation.apply_topology().await;
    town.worker = town.installation.worker(&[]);
    eventually("both are settled", SOON, async || {
        let settled = town.ask("select count(*) from postbound.delivery_ledger where target = 'hook'").await;
        (settled == "2").then_some(())
    })
    .await;
    let tenants: Vec<_> = hook.asked().iter().map(|request| request.json()["tenantid"].clone()).collect();
    assert_eq!(tenants, ["t0"]);
}
