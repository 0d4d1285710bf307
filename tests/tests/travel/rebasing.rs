//! A rebase is one step, and what goes on around it goes on.

use super::{SOON, emit, rebase, until_converged};
use nix::sys::signal::Signal;
use postbound_store::{JobCommand, Operation};
use postbound_tests::{Installation, Options, Role, eventually};
use serde_json::{Value, json};
use std::{os::unix::process::ExitStatusExt as _, time::Duration};

/// Users `<prefix>-1` to `<prefix>-<count>` of tenant t0 are imported; gives the jobs.
async fn import(installation: &Installation, prefix: &str, count: usize, more: &[&str]) -> Vec<i64> {
    let line = |user| {
        let id = format!("{prefix}-{user}");
        json!({"user_id": id, "data": {"email": format!("{id}@example.com"), "name": "v0"}}).to_string()
    };
    let path = installation.path(&format!("{prefix}.ndjson"));
    std::fs::write(&path, Vec::from_iter((1..=count).map(line)).join("\n")).unwrap();
    let path = path.display().to_string();
    let args = ["users", "import", "--tenant", "t0", &path, "--yes", "--json"];
    let output = installation.run(Role::Operator, &[&args[..], more].concat()).await;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let jobs = answer["jobs"].as_array().unwrap().iter();
    jobs.map(|job| job["job_id"].as_i64().unwrap()).collect()
}

/// Items of a job, by state.
async fn until_job_ends(installation: &Installation, job: i64) -> Vec<(String, i64)> {
    let superuser = installation.database.superuser();
    eventually(&format!("job {job} ends"), SOON, async || {
        let ended = "select finished_at is not null from postbound.job where job_id = $1";
        sqlx::query_scalar(ended).bind(job).fetch_one(superuser).await.unwrap_or(false).then_some(())
    })
    .await;
    sqlx::query_as("select state, count(*) from postbound.job_item where job_id = $1 group by state")
        .bind(job)
        .fetch_all(superuser)
        .await
        .unwrap()
}

async fn cancel(installation: &Installation, job: i64) {
    let operation = Operation { command: "jobs cancel", acting_as: None, filter: json!({ "job": job }) };
    installation.store().steer_job(job, JobCommand::Cancel, None, &operation).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebase_that_is_broken_off_has_made_its_resyncs_and_prune_tells_of_its_queues() {
    let installation = Installation::start(Options::default()).await;
    let relay = installation.relay();
    let mut worker = installation.worker(&[]);
    emit(&installation, "user", 20, "created").await;
    until_converged(&installation).await;
    // These wait for no worker any more: they reach the targets by the resync alone.
    assert!(worker.terminate().await.success());
    emit(&installation, "user", 20, "updated").await;
    let args = ["rebase", "--database", "--yes"];
    let dying = [("failpoint", "rebase.committed")];
    let ended = installation.run_with(Role::Operator, &args, &dying).await;
    assert_eq!(ended.status.signal(), Some(Signal::SIGABRT as i32), "{ended:?}");

    let again = installation.run(Role::Operator, &["rebase"]).await;
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing to mend"), "{again:?}");
    let resyncs: Vec<String> =
        sqlx::query_scalar("select target from postbound.job where kind = 'resync' order by target")
            .fetch_all(installation.database.superuser())
            .await
            .unwrap();
    assert_eq!(resyncs, ["backend", "crm"]);
    let _worker = installation.worker(&[]);
    until_converged(&installation).await;
    let pruned = installation.run(Role::Operator, &["topology", "apply", "--prune"]).await;
    assert!(pruned.status.success(), "{pruned:?}");
    let said = String::from_utf8_lossy(&pruned.stdout);
    assert!(said.contains("g1.p000") && said.contains("published again to the current generation"), "{said}");
    assert!(installation.vhost.queue("postbound.crm.g1.p000.backfill").await.is_none());
    relay.until_ready("it publishes", |readiness| readiness.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_imported_after_a_rebase_as_before() {
    let options = Options::default().with("targets.crm.coalesce", "false");
    let installation = Installation::start(options).await;
    emit(&installation, "user", 3, "created").await;
    let before = import(&installation, "early", 3, &["--targets", "backend,crm"]).await;
    rebase(&installation, &["--database"]).await;
    let after = import(&installation, "late", 3, &["--targets", "backend,crm"]).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    for job in [before, after].concat() {
        let items = until_job_ends(&installation, job).await;
        let sent = items.iter().filter(|(state, _)| ["delivered", "superseded"].contains(&state.as_str()));
        assert_eq!(sent.map(|(_, count)| count).sum::<i64>(), 3, "job {job}: {items:?}");
    }
    installation.until_settled(&["backend", "crm"]).await;
    for contract in ["s2", "s3"] {
        installation.oracle().assert_equal_to_source(contract).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_whose_import_was_cancelled_are_reconciled_neither_before_nor_after_a_rebase() {
    let installation = Installation::start(Options::default()).await;
    let stale = async || installation.store().stale_users("backend", Duration::ZERO).await.unwrap();
    for job in import(&installation, "early", 3, &["--targets", "backend"]).await {
        cancel(&installation, job).await;
    }
    assert_eq!(stale().await, 0);
    rebase(&installation, &["--database"]).await;
    assert_eq!(stale().await, 0, "of an import before");
    for job in import(&installation, "late", 3, &["--targets", "backend"]).await {
        cancel(&installation, job).await;
    }
    assert_eq!(stale().await, 0, "of an import after");
    emit(&installation, "late", 1, "updated").await;
    let _relay = installation.relay();
    eventually("one who has changed since is", SOON, async || (stale().await == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebase_that_postgres_ends_for_a_deadlock_is_done_again() {
    let installation = Installation::start(Options::default().with("targets.crm.coalesce", "false")).await;
    let (relay, mut worker) = (installation.relay(), installation.worker(&[]));
    emit(&installation, "user", 3, "created").await;
    until_converged(&installation).await;
    assert!(worker.terminate().await.success());

    // As a worker that parks: it has rows of one table, and wants those of another that the rebase has locked before. The
    // rebase finds the deadlock, once: long enough after it began to wait.
    let superuser = installation.database.superuser();
    let patience = "do $$ begin
        execute format('alter database %I set deadlock_timeout = ''10s''', current_database());
    end $$";
    sqlx::raw_sql(patience).execute(superuser).await.unwrap();
    let mut parking = superuser.begin().await.unwrap();
    sqlx::raw_sql("set local deadlock_timeout = '10min'; select from postbound.parked_user for update")
        .execute(&mut *parking)
        .await
        .unwrap();
    let rebasing = rebase(&installation, &["--database"]);
    let in_its_way = async {
        eventually("the rebase waits for it", SOON, async || {
            let waits = "select exists (select from pg_stat_activity where datname = current_database()
                                          and wait_event_type = 'Lock' and query like '-- rebase%')";
            sqlx::query_scalar(waits).fetch_one(superuser).await.unwrap_or(false).then_some(())
        })
        .await;
        sqlx::raw_sql("select from postbound.delivery_ledger for update")
            .execute(&mut *parking)
            .await
            .unwrap();
        parking.commit().await.unwrap();
    };
    let (rebased, ()) = tokio::join!(rebasing, in_its_way);
    assert_eq!(rebased["rebased"]["users"], 3, "{rebased}");
    eventually("there was a deadlock", SOON, async || {
        let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
        let deadlocks: i64 = sqlx::query_scalar(deadlocks).fetch_one(superuser).await.unwrap();
        (deadlocks == 1).then_some(())
    })
    .await;
    let _worker = installation.worker(&[]);
    emit(&installation, "user", 3, "updated").await;
    until_converged(&installation).await;
    drop(relay);
}
