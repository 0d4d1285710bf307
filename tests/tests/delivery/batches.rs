//! The CRM's requests: many users of one tenant each.

use postbound_tests::{Installation, Options, Role, emit_states};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crm_requests_carry_many_users_of_one_tenant_and_its_own_ids_are_kept() {
    let installation = Installation::start(Options::default().with("targets.crm.linger", "20ms")).await;
    let mut producer = installation.database.connect(Role::Producer).await;
    sqlx::raw_sql("insert into postbound.tenant (tenant_id, name, subdomain) values ('t0', 'Acme', 'acme')")
        .execute(&mut producer)
        .await
        .unwrap();
    for tenant in ["t0", "t1"] {
        emit_states(&mut producer, (tenant, "user"), 100, "created").await;
    }
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.assert_converged().await;

    let superuser = installation.database.superuser();
    // The receiver refuses users of another tenant than the request's.
    let (requests, users, largest): (i64, i64, i32) = sqlx::query_as(
        "select count(*), sum(total_users), max(total_users) from receiver.sync_logs where failed = 0",
    )
    .fetch_one(superuser)
    .await
    .unwrap();
    assert_eq!(users, 200);
    assert!(requests <= 40 && largest >= 10, "{requests} requests, the largest of {largest} users");
    let names: Vec<(String, Option<String>)> =
        sqlx::query_as("select name, subdomain from receiver.crm_tenants order by tenant_id")
            .fetch_all(superuser)
            .await
            .unwrap();
    let acme = ("Acme".to_owned(), Some("acme".to_owned()));
    assert_eq!(names, [acme, ("t1".to_owned(), None)]);
    let linked: i64 = sqlx::query_scalar(
        "select count(*) from postbound.identity_link as l join receiver.crm_users as u
           on u.tenant_id = l.tenant_id collate \"C\" and u.user_id = l.user_id collate \"C\"
          and u.crm_user_id = l.external_id collate \"C\" where l.target = 'crm'",
    )
    .fetch_one(superuser)
    .await
    .unwrap();
    assert_eq!(linked, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_fails_in_a_batch_is_tried_again_alone_of_its_batch() {
    let options = Options::default().with("targets.crm.retry.delays", "[\"100ms\"]");
    let installation = Installation::start(options).await;
    let failing = postbound_receiver::Fault {
        per_user_fail: vec!["user-7".to_owned()],
        times: Some(2),
        ..Default::default()
    };
    installation.crm.fault(failing).await;
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), 50, "created").await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.assert_converged().await;
    let oracle = installation.oracle();
    assert_eq!(oracle.count("s3", Some("fault")).await, 2);
    assert_eq!(oracle.count("s3", Some("applied")).await, 50);
    assert_eq!(oracle.count("s3", None).await, 52, "its neighbours were sent once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_states_arrive_through_a_small_allowance_of_bytes() {
    let options = Options::every_event()
        .with("targets.backend.in_flight_bytes_max", "1MiB")
        .with("targets.crm.in_flight_bytes_max", "1MiB")
        .with("relay.page_bytes_max", "1MiB");
    let installation = Installation::start(options).await;
    let mut producer = installation.database.connect(Role::Producer).await;
    for round in 1..=3 {
        for user in 1..=20 {
            let size = if user % 4 == 0 { 10 } else { 260_000 };
            let state = json!({
                "email": format!("big-{user}@example.com"), "name": format!("v{round}"),
                "avatar": format!("https://example.com/{round}/{user}"), "notes": "x".repeat(size),
            });
            let change = postbound_client::Change::updated("t0", format!("big-{user}")).data(&state).unwrap();
            postbound_client::emit(&mut producer, &change).await.unwrap();
        }
    }
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.assert_converged().await;
}
