//! What commands answer, to people by exit code and to scripts by JSON.

use super::emit;
use postbound_tests::{Installation, Options, Role};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_check_exits_with_0_for_a_good_configuration_and_3_for_a_wrong_one() {
    let installation = Installation::configure(Options::default()).await;
    let good = installation.run(Role::Viewer, &["config", "check"]).await;
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(String::from_utf8_lossy(&good.stdout).contains("targets: backend, crm"), "{good:?}");

    std::fs::write(installation.path("wrong.toml"), "[topology]\npartitions = 0\npartition = 4\n").unwrap();
    let wrong = installation.run(Role::Viewer, &["config", "check", "--config", "wrong.toml"]).await;
    assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    for part in ["wrong.toml", "topology.partitions", "topology.partition", "broker.url"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let relay = installation.run(Role::Relay, &["relay", "--config", "wrong.toml"]).await;
    assert_eq!(relay.status.code(), Some(3), "every role refuses it: {relay:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topology_show_tells_every_queue_and_exits_with_4_when_one_is_missing() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    emit(&installation, "user", 10, "created").await;
    let show = async || {
        let output = installation.run(Role::Operator, &["topology", "show", "--json"]).await;
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let queue =
        |name: &str, exists: bool| json!({"queue": name, "exists": exists, "messages": 0, "consumers": 0});
    let of_target = |target: &str, last_exists: bool| {
        json!({"target": target, "exchange": format!("postbound.{target}"), "queues": [
            queue(&format!("postbound.{target}.g1.p000"), true),
            queue(&format!("postbound.{target}.g1.p000.backfill"), true),
            queue(&format!("postbound.{target}.g1.p001"), last_exists),
            queue(&format!("postbound.{target}.g1.p001.backfill"), true),
            queue(&format!("postbound.{target}.dead"), true),
        ]})
    };
    assert_eq!(show().await, (Some(0), json!([of_target("backend", true), of_target("crm", true)])));
    installation.vhost.delete_queue("postbound.crm.g1.p001").await;
    assert_eq!(show().await, (Some(4), json!([of_target("backend", true), of_target("crm", false)])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_scripts_where_everything_stands() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    let relay = installation.relay();
    let worker = installation.worker(&["backend"]);
    emit(&installation, "user", 10, "created").await;
    installation.until_settled(&["backend"]).await;
    let status = installation.status().await;
    let parts = ["log_partition_days_ahead", "partitions", "relay", "streams", "targets", "workers"];
    assert_eq!(keys(&status), parts.into());
    let holder = status["relay"]["holder"].as_str().unwrap();
    assert!(holder.contains(&relay.pid().to_string()), "{holder}");
    assert_eq!(status["relay"]["takeovers"], 1);
    assert_eq!(
        status["targets"],
        json!([
            {"target": "backend", "in_sync": 10, "pending": 0, "dead": 0},
            {"target": "crm", "in_sync": 0, "pending": 10, "dead": 0},
        ])
    );
    let streams: Vec<_> =
        status["streams"].as_array().unwrap().iter().map(|s| s["stream"].as_str()).collect();
    assert_eq!(streams, [Some("backend"), Some("crm"), Some("user_state")]);
    assert_eq!(keys(&status["streams"][0]), ["rows", "seconds", "stream"].into());
    let owner = status["workers"][0]["label"].as_str().unwrap();
    assert!(owner.ends_with(&format!(":{}", worker.pid())), "{owner}");
    assert_eq!(keys(&status["workers"][0]), ["label", "partitions", "started_at", "targets"].into());
    assert_eq!(
        status["partitions"],
        json!([
            {"target": "backend", "partition": 0, "owner": owner},
            {"target": "backend", "partition": 1, "owner": owner},
            {"target": "crm", "partition": 0, "owner": null},
            {"target": "crm", "partition": 1, "owner": null},
        ])
    );
    assert!(status["log_partition_days_ahead"].as_i64().unwrap() >= 13);
}
