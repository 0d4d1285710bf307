use super::{done, idle, number, numbers, sql};
use postbound_store::{Operation, Saved};
use postbound_tests::{Installation, Options, Role, emit_states, eventually};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_retires_a_target_with_its_jobs_and_leaves_a_trace() {
    let installation = idle().await;
    sql(
        &installation,
        "insert into postbound.job (kind, target, filter, state) values
             ('resync', 'crm', '{}', 'running'), ('import', 'crm', '{}', 'filling'), ('resync', 'backend', '{}', 'running');
         insert into postbound.job_item (job_id, item, tenant_id, user_id) select n, 1, 't0', 'u-1' from generate_series(1, 3) as n",
    )
    .await;
    let prune = ["topology", "apply", "--prune"];
    let output = installation.run_with(Role::Operator, &prune, &[("targets.crm.url", "")]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("crm: 2 unfinished jobs cancelled"), "{output:?}");
    let jobs = done(&installation, &["jobs", "list"]).await;
    let states: Vec<_> = jobs.as_array().unwrap().iter().map(|job| job["state"].as_str().unwrap()).collect();
    assert_eq!(
        (numbers(&jobs, "job_id"), states),
        (vec![3, 2, 1], vec!["running", "cancelled", "cancelled"])
    );
    assert_eq!(
        number(&installation, "select count(*) from postbound.stream_cursor where stream = 'crm'").await,
        0
    );
    let skipped = "select count(*) from postbound.job_item where reason = 'target_retired' and job_id < 3";
    assert_eq!(number(&installation, skipped).await, 2);
    let audit = done(&installation, &["audit", "list"]).await;
    assert_eq!(
        (&audit[0]["command"], &audit[0]["filter"]),
        (&json!("topology apply --prune"), &json!({"target": "crm"}))
    );
    assert_eq!(audit[0]["counts"], json!({"cancelled_jobs": 2}));

    let repartition = ["topology", "apply", "--repartition"];
    let settings = [("targets.crm.url", ""), ("topology.partitions", "3")];
    let output = installation.run_with(Role::Operator, &repartition, &settings).await;
    assert!(output.status.success(), "{output:?}");
    let audit = done(&installation, &["audit", "list"]).await;
    assert_eq!(audit[0]["command"], "topology apply --repartition");
    assert_eq!(audit[0]["counts"], json!({"from": 2, "to": 3}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_retired_and_registered_anew_at_once_starts_over() {
    // The relay looks at the registered targets four times a lease.
    let installation = Installation::start(Options::default().with("relay.lease", "40s")).await;
    let relay = installation.relay();
    let mut worker = installation.worker(&[]);
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), 20, "created").await;
    installation.assert_converged().await;
    let published = async || relay.metric("postbound_relay_published_total", &[r#"target="crm""#]).await;
    assert_eq!(published().await, 20.0);
    // One that sees a target retired serves it no more until it is restarted.
    worker.terminate().await;

    let prune = ["topology", "apply", "--prune"];
    let output = installation.run_with(Role::Operator, &prune, &[("targets.crm.url", "")]).await;
    assert!(output.status.success(), "{output:?}");
    let said = installation.apply_topology().await;
    assert!(said.contains("it was retired and is registered again"), "{said}");
    eventually("the log is published from its beginning", Duration::from_secs(60), async || {
        (published().await >= 40.0).then_some(())
    })
    .await;
    let _worker = installation.worker(&[]);
    emit_states(&mut producer, ("t0", "user"), 20, "updated").await;
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cursor_of_before_a_target_was_retired_moves_the_new_one() {
    let installation = idle().await;
    let (store, relay) = (installation.store(), installation.database.store(Role::Relay));
    let registration = store.registered_targets().await.unwrap().remove(1).registration;
    let operation = Operation { command: "test", acting_as: None, filter: json!({}) };
    let mut past = Vec::new();
    for _ in 0..3 {
        past.push(relay.claim_cursor("crm", 1).await.unwrap().unwrap());
        store.rewind_cursor("crm").await.unwrap();
        past.push(relay.claim_cursor("crm", 1).await.unwrap().unwrap());
        store.retire_target("crm", &operation).await.unwrap();
        store.register_target(&registration).await.unwrap();
    }
    for cursor in past {
        assert_eq!(relay.save_cursor("crm", 1, &cursor).await.unwrap(), Saved::Fenced, "{cursor:?}");
    }
    let own = relay.claim_cursor("crm", 1).await.unwrap().unwrap();
    assert_eq!(own.done, "1:1:");
    assert_eq!(relay.save_cursor("crm", 1, &own).await.unwrap(), Saved::Yes);
}
