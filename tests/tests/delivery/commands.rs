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
            {"target": "backend", "in_sync": 10, "pending": 0, "dead": 0, "parked_users": 0, "open_letters": 0, "closed": []},
            {"target": "crm", "in_sync": 0, "pending": 10, "dead": 0, "parked_users": 0, "open_letters": 0, "closed": []},
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whose_newest_state_a_target_does_not_want_is_not_pending_there() {
    let options = Options::default().partitions(1).with("targets.crm.actions", "created,deleted");
    let installation = Installation::start(options).await;
    emit(&installation, "user", 3, "created").await;
    emit(&installation, "user", 1, "updated").await;
    let pending = async || {
        let status = installation.status().await;
        let of = |target: usize| status["targets"][target]["pending"].as_i64().unwrap();
        [of(0), of(1)]
    };
    assert_eq!(pending().await, [3, 3], "nothing is known of their states yet: the heads count");
    let _relay = installation.relay();
    let _worker = installation.worker(&["backend"]);
    installation.until_settled(&["backend"]).await;
    assert_eq!(pending().await, [0, 2], "the CRM does not want the update");
    let _worker = installation.worker(&["crm"]);
    installation.until_settled(&["crm"]).await;
    assert_eq!(pending().await, [0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_says_which_parts_a_login_may_play() {
    let installation = Installation::start(Options::default().partitions(1)).await;
    let rights = async |role: Role| {
        let examined = installation.run(role, &["doctor", "--json"]).await;
        let findings: Vec<Value> = serde_json::from_slice(&examined.stdout).unwrap();
        let finding = findings.into_iter().find(|finding| finding["check"] == "rights").unwrap();
        finding["what"].as_str().unwrap().split_once(" may ").unwrap().1.to_owned()
    };
    for (role, may) in [
        (Role::Relay, "act as relay, not as worker and ingress and operator (member of postbound_relay)"),
        (Role::Worker, "act as worker, not as relay and ingress and operator (member of postbound_worker)"),
        (Role::Ingress, "act as ingress, not as relay and worker and operator (member of postbound_ingress)"),
        (
            Role::Operator,
            "act as operator, not as relay and worker and ingress (member of postbound_operator)",
        ),
        (Role::Producer, "act as nothing here (member of postbound_producer)"),
    ] {
        assert_eq!(rights(role).await, may, "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_shows_in_status_and_doctor_also_to_a_viewer() {
    let installation = Installation::start(Options::default().partitions(1)).await;
    let pause = ["targets", "pause", "crm", "--reason", "migration", "--as", "ada"];
    let paused = installation.run(Role::Operator, &pause).await;
    assert!(paused.status.success(), "{paused:?}");
    let status = installation.status().await;
    assert_eq!(status["targets"][0]["closed"], json!([]));
    let closed = &status["targets"][1]["closed"][0];
    assert_eq!(closed["paused_by"], "ada", "{closed}");
    assert_eq!(closed["pause_reason"], "migration", "{closed}");

    let examined = installation.run(Role::Viewer, &["doctor", "--json"]).await;
    let findings: Vec<Value> = serde_json::from_slice(&examined.stdout).unwrap();
    let of = |check: &str| -> Vec<String> {
        let of_check = findings.iter().filter(|finding| finding["check"] == check);
        of_check.map(|finding| format!("{} {}", finding["level"], finding["what"])).collect()
    };
    assert!(of("breakers")[0].contains("crm: paused by ada: migration"), "{findings:?}");
    assert!(
        of("rights")[0].contains("may look, and act as nothing (member of postbound_viewer)"),
        "{findings:?}"
    );
    assert_eq!(of("parked"), [r#""ok" "nobody waits for another attempt""#]);
    assert_eq!(of("dead-letters"), [r#""ok" "none is open""#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_without_the_right_role_is_told_which_to_ask_for() {
    let installation = Installation::start(Options::default().partitions(1)).await;
    let refused = installation.run(Role::Viewer, &["targets", "pause", "crm", "--reason", "migration"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("permission denied for table breaker; the login needs"), "{said}");
    assert!(said.contains("postbound_operator for commands"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topology_apply_says_when_settings_changed() {
    let installation = Installation::start(Options::default().partitions(1)).await;
    let apply = async |settings: &[(&str, &str)]| {
        let output = installation.run_with(Role::Operator, &["topology", "apply"], settings).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!apply(&[]).await.contains("settings updated"));
    let changed = apply(&[("targets.crm.origin", "zopkit")]).await;
    assert!(changed.contains("crm: 0 queues created, 3 were there; settings updated"), "{changed}");
    assert!(!changed.contains("backend: 0 queues created, 3 were there; settings"), "{changed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_may_run_what_only_looks() {
    let installation = Installation::start(Options::default().partitions(1)).await;
    emit(&installation, "user", 1, "created").await;
    let denied = async |command: &[&str]| {
        let output = installation.run(Role::Viewer, command).await;
        String::from_utf8_lossy(&output.stderr).contains("permission denied")
    };
    for looks in [
        &["status"][..],
        &["doctor"],
        &["topology", "show"],
        &["targets", "list"],
        &["jobs", "list"],
        &["audit", "list"],
        &["reconcile", "--dry-run"],
    ] {
        assert!(!denied(looks).await, "{looks:?}");
    }
    // A target's own words, and who was sent what, are for operators.
    for tells in [
        &["users", "show", "t0", "user-1"][..],
        &["users", "history", "t0", "user-1"],
        &["dead-letters", "list"],
    ] {
        assert!(denied(tells).await, "{tells:?}");
    }
}
