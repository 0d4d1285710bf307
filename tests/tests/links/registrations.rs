//! A target that hears of registrations, and of nothing else, hears of each once: jobs pass over users it has told an id of.

use super::{SOON, answer, done, number, refused, sql, states};
use postbound_tests::{Installation, Options, Role, emit_states, eventually};
use serde_json::{Value, json};

/// The CRM is a target of registrations: it gets every event, and wants to hear of new users only.
fn registrations() -> Options {
    Options::default()
        .partitions(2)
        .with("targets.crm.coalesce", "false")
        .with("targets.crm.actions", "created")
}

/// Waits for a job's end; gives how many of its items were delivered, superseded and skipped.
async fn ended(installation: &Installation, made: &Value) -> [i64; 3] {
    let job = made["job_id"].to_string();
    let (code, ended) = answer(installation, &["jobs", "status", &job, "--watch"]).await;
    assert_eq!((code, &ended["state"]), (0, &json!("done")), "{ended}");
    ["delivered", "superseded", "skipped"]
        .map(|field| ended["items"][field].as_i64().unwrap_or_else(|| panic!("{ended}")))
}

/// How often each user reached the CRM.
async fn told(installation: &Installation) -> Vec<(String, i64)> {
    sqlx::query_as("select user_id, count(*) from receiver.request_log where contract = 's3' group by user_id order by user_id")
        .fetch_all(installation.receivers().superuser())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_welcomed_twice_by_a_resync_or_a_reconcile() {
    let installation = Installation::start(registrations()).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), 10, "created").await;
    // What happens to them later is none of its business.
    emit_states(&mut producer, ("t0", "user"), 10, "updated").await;
    installation.until_settled(&["backend", "crm"]).await;
    // Three users were there before anybody told it of new ones.
    sql(&installation, &states(3, 5)).await;

    let dry = done(&installation, &["resync", "--target", "crm", "--all", "--dry-run"]).await;
    assert_eq!((&dry["users"], &dry["skipped"]), (&json!(3), &json!(10)));
    let made = done(&installation, &["resync", "--target", "crm", "--all", "--yes"]).await;
    assert_eq!(ended(&installation, &made["job"]).await, [3, 0, 10]);
    let linked = "select count(*) from postbound.job_item where state = 'skipped' and reason = 'linked'";
    assert_eq!(number(&installation, linked).await, 10);
    let again = done(&installation, &["resync", "--target", "crm", "--all", "--yes"]).await;
    assert_eq!(ended(&installation, &again["job"]).await, [0, 0, 13]);

    // A reconcile tells of those it has not heard of, where it is asked to by name.
    sql(&installation, "insert into postbound.user_head select 't1', user_id, 5, false from postbound.user_state where user_id in ('u-1', 'u-2');
         insert into postbound.user_state (tenant_id, user_id, version, action, event_id, logged_at, data)
         select 't1', user_id, 5, 'updated', gen_random_uuid(), logged_at, data from postbound.user_state where user_id in ('u-1', 'u-2')").await;
    let all = done(&installation, &["reconcile", "--dry-run"]).await;
    let crm = all.as_array().unwrap().iter().find(|found| found["target"] == "crm").unwrap();
    assert!(crm["left_out"].as_str().unwrap().contains("name it with --target"), "{crm}");
    let made = done(&installation, &["reconcile", "--target", "crm", "--yes"]).await;
    assert_eq!(made[0]["stale_users"], 2, "{made}");
    assert_eq!(ended(&installation, &made[0]["job"]).await, [2, 0, 0]);
    let told = told(&installation).await;
    let users_twice = told
        .iter()
        .filter(|(user, times)| *times != if ["u-1", "u-2"].contains(&user.as_str()) { 2 } else { 1 });
    assert_eq!((told.len(), users_twice.count()), (13, 0), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_was_on_its_way_when_the_resync_was_made_is_not_told_twice() {
    let installation = Installation::start(registrations().partitions(1)).await;
    let _relay = installation.relay();
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), 5, "created").await;
    emit_states(&mut producer, ("t0", "user"), 5, "updated").await;
    // No worker yet: nobody is linked, everybody is published, and all of them are in the projection.
    let sent = "select count(*) from postbound.job_item where state = 'sent'";
    eventually("the projection has them", SOON, async || {
        let projected = "select count(*) from postbound.user_state where version = 2";
        (number(&installation, projected).await == 5).then_some(())
    })
    .await;
    let made = done(&installation, &["resync", "--target", "crm", "--all", "--yes"]).await;
    eventually("the job's items are sent", SOON, async || {
        (number(&installation, sent).await == 5).then_some(())
    })
    .await;

    let mut worker = installation.worker(&["crm"]);
    ended(&installation, &made["job"]).await;
    // What is left would be handed back to the queue.
    assert!(worker.terminate().await.success());
    eventually("the queue of changes is empty", SOON, async || {
        let queue = installation.vhost.queue("postbound.crm.g1.p000").await?;
        (queue.messages_ready == 0).then_some(())
    })
    .await;
    let told = told(&installation).await;
    assert!(told.len() == 5 && told.iter().all(|(_, times)| *times == 1), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_gets_every_event_of_every_kind_is_still_sent_no_newest_states() {
    let installation = Installation::start(Options::every_event().partitions(2)).await;
    for command in [&["resync", "--target", "crm", "--all"][..], &["reconcile", "--target", "crm"]] {
        let (code, said) = refused(&installation, command).await;
        assert!(code == 2 && said.contains("gets every event"), "{said}");
    }
}
