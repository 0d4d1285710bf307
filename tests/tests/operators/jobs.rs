use super::{answer, done, idle, letters, number, refused, sql};
use postbound_tests::{Installation, eventually};
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
    assert_eq!(state("resume", "running").await["state_reason"], serde_json::Value::Null);
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
    let job: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(job["state"], "done");
}
