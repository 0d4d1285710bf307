use super::{done, idle, number, numbers, sql};
use postbound_tests::Role;
use serde_json::json;

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
