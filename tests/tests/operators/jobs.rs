use super::{answer, done, idle, letters, number, parked, refused, sql};
use postbound_tests::{Installation, Role, eventually};
use serde_json::{Value, json};
use std::time::Duration;

/// Job 1: a replay of five letters of the CRM.
async fn one_job() -> Installation {
    let installation = idle().await;
    sql(&installation, &letters("crm", 5, "http_500", "transient", 500)).await;
    let made =
        done(&installation, &["dead-letters", "replay", "--target", "crm", "--stop-after-failures", "2"])
            .await;
    assert_eq!(made["jobs"][0]["job_id"], 1);
    installation
}

/// What the relay and the workers would make of some items.
async fn settle(installation: &Installation, items: &str, state: &str) {
    let statement = format!(
        "update postbound.job_item set state = '{state}', settled_at = case when '{state}' <> 'sent' then now() end
         where item in ({items})"
    );
    sql(installation, &statement).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_only_from_states_that_allow_it() {
    let installation = one_job().await;
    let state = async |command, state: &str| {
        let args = ["jobs", command, "1", "--reason", "lunch", "--as", "ada"];
        let yes: &[&str] = if command == "cancel" { &["--yes"] } else { &[] };
        let job = done(&installation, &[&args, yes].concat()).await;
        assert_eq!(job["state"], state, "{command}");
        job
    };
    let check_refused = async |command, words: &str| {
        let (code, said) = refused(&installation, &["jobs", command, "1"]).await;
        assert!(code == 1 && said.contains(words), "{command}: {said}");
    };
    check_refused("resume", "job 1 is running; jobs resume takes one that is paused or stopped").await;
    assert_eq!(state("pause", "paused").await["state_reason"], "lunch");
    check_refused("pause", "job 1 is paused").await;
    assert_eq!(state("resume", "running").await["state_reason"], Value::Null);
    settle(&installation, "1", "sent").await;
    let (code, said) = refused(&installation, &["jobs", "cancel", "1"]).await;
    assert!(code == 2 && said.contains("this would end job 1 for good, with 4 items not sent"), "{said}");
    let cancelled = state("cancel", "cancelled").await;
    assert_eq!(
        (cancelled["items"]["skipped"].as_i64(), cancelled["items"]["sent"].as_i64()),
        (Some(4), Some(1))
    );
    for command in ["pause", "resume", "cancel"] {
        check_refused(command, "job 1 is cancelled").await;
    }
    let (code, said) = refused(&installation, &["jobs", "cancel", "9"]).await;
    assert!(code == 1 && said.contains("there is no job 9"), "{said}");
    let commands: Vec<String> = sqlx::query_scalar("select command from postbound.audit order by audit_id")
        .fetch_all(installation.database.superuser())
        .await
        .unwrap();
    assert_eq!(commands, ["dead-letters replay", "jobs pause", "jobs resume", "jobs cancel"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_stopped_may_fail_as_often_again_once_it_is_resumed() {
    let installation = one_job().await;
    settle(&installation, "1, 2, 3", "dead").await;
    sql(&installation, "update postbound.job set state = 'stopped', state_reason = '3 failures'").await;
    let (code, job) = answer(&installation, &["jobs", "status", "1"]).await;
    assert_eq!((code, job["state_reason"].as_str()), (4, Some("3 failures")));
    let resumed = done(&installation, &["jobs", "resume", "1"]).await;
    assert_eq!(
        (resumed["state"].as_str(), resumed["stop_after_failures"].as_i64()),
        (Some("running"), Some(5))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_says_whether_a_job_ended_well() {
    let installation = one_job().await;
    settle(&installation, "1, 2, 3, 4, 5", "delivered").await;
    sql(&installation, "update postbound.job set state = 'done', finished_at = now()").await;
    assert_eq!(answer(&installation, &["jobs", "status", "1"]).await.0, 0);
    settle(&installation, "5", "dead").await;
    assert_eq!(answer(&installation, &["jobs", "status", "1"]).await.0, 4);
    let (code, dead) = answer(&installation, &["jobs", "status", "1", "--items", "--state", "dead"]).await;
    assert_eq!((code, super::numbers(&dead, "item")), (4, vec![5]));
    let list = done(&installation, &["jobs", "list"]).await;
    assert_eq!(
        (list[0]["items"]["delivered"].as_i64(), list[0]["items"]["dead"].as_i64()),
        (Some(4), Some(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_can_be_watched_until_it_ends() {
    let installation = one_job().await;
    let watching = super::run(&installation, &["jobs", "status", "1", "--watch", "--json"]);
    let working = async {
        let store = "select count(*) from pg_stat_activity
                     where application_name = 'postbound operator' and datname = current_database()";
        eventually("somebody watches", Duration::from_secs(30), async || {
            (number(&installation, store).await > 0).then_some(())
        })
        .await;
        settle(&installation, "1, 2", "delivered").await;
        settle(&installation, "3, 4, 5", "superseded").await;
        sql(&installation, "update postbound.job set state = 'done', finished_at = now()").await;
    };
    let (output, ()) = tokio::join!(watching, working);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("job 1 done: 2 delivered, 3 superseded (5 in all)"), "{said}");
    let job: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(job["state"], "done");
}

/// The causes a job waits for, and the first of them whole.
async fn waits_for(installation: &Installation) -> (Vec<String>, Value) {
    let output = installation.run(Role::Viewer, &["jobs", "status", "1", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let causes = report["waits_for"].as_array().unwrap();
    (causes.iter().map(|one| one["cause"].as_str().unwrap().to_owned()).collect(), causes[0].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_does_not_move_says_why() {
    let installation = one_job().await;
    let (causes, _) = waits_for(&installation).await;
    assert_eq!(causes, ["no_relay", "no_worker"]);
    // A relay and a worker that live for long; three items are out, one of them parked, and one tenant's breaker is open.
    sql(
        &installation,
        "update postbound.relay_lease set holder = 'host:1:x', expires_at = now() + interval '1 hour';
         insert into postbound.worker (worker_id, label, targets, expires_at)
         values (gen_random_uuid(), 'host:2', array['crm'], now() + interval '1 hour');
         update postbound.job set rate_per_second = 2;
         insert into postbound.breaker (target, tenant_id, cause, reason, status, retry_at)
         values ('crm', 't0', 'whole_target', 'http_403', 403, now() + interval '5 minutes'),
                ('crm', 'elsewhere', 'whole_target', 'http_403', 403, now() + interval '5 minutes'),
                ('backend', '', 'whole_target', 'http_503', 503, now() + interval '5 minutes')",
    )
    .await;
    settle(&installation, "1, 2, 3", "sent").await;
    sql(&installation, &parked("crm", "u-1", 5, "updated")).await;
    sql(&installation, "update postbound.parked_state set job_id = 1, job_item = 1, job_repeats = false")
        .await;
    let (causes, closed) = waits_for(&installation).await;
    assert_eq!(causes, ["closed", "parked", "rate"], "of tenants without items, and other targets, nothing");
    assert_eq!((&closed["target"], &closed["scope"]["tenant"]), (&json!("crm"), &json!("t0")));
    assert!(closed["scope"]["next_probe_at"].is_string(), "{closed}");
    let shown = super::run(&installation, &["jobs", "status", "1"]).await;
    let said = String::from_utf8(shown.stdout).unwrap();
    for part in [
        "crm, tenant t0: breaker open (http_403) since",
        "parked users: 1 items; the next try is due",
        "its rate: 2 items at 2 users/s",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }

    done(&installation, &["targets", "pause", "crm", "--reason", "migration", "--as", "ada"]).await;
    let (_, closed) = waits_for(&installation).await;
    assert_eq!(
        (&closed["scope"]["paused_by"], &closed["scope"]["pause_reason"], &closed["scope"]["next_probe_at"]),
        (&json!("ada"), &json!("migration"), &Value::Null)
    );
    settle(&installation, "1, 2, 3, 4, 5", "delivered").await;
    let (_, report) = answer(&installation, &["jobs", "status", "1"]).await;
    assert_eq!(report["waits_for"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_job_counts_failing_items_from_now_parked_ones_too() {
    let installation = one_job().await;
    settle(&installation, "1", "dead").await;
    settle(&installation, "2, 3", "sent").await;
    let park = [parked("crm", "u-2", 5, "updated"), parked("crm", "u-3", 5, "updated")].concat();
    sql(&installation, &park).await;
    // The second failed for its own sake, the third waits for the target.
    sql(
        &installation,
        "update postbound.parked_state as s set job_id = 1, job_item = i.item, job_repeats = false
         from postbound.job_item as i where i.user_id = s.user_id;
         update postbound.parked_user set class = 'held' where user_id = 'u-3';
         update postbound.job set state = 'stopped', state_reason = '2 failures'",
    )
    .await;
    let resumed = done(&installation, &["jobs", "resume", "1"]).await;
    assert_eq!(resumed["stop_after_failures"], 4, "dead or failing: 2, and 2 more");
}
