//! Replays of letters that really died: nothing regresses, nothing comes back to life, and the counts are exact.

use super::{SOON, emit};
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, Role, answers, emit_states, eventually};
use serde_json::Value;
use std::time::Duration;

/// A bound for what takes seconds on an idle machine, no claim.
const PATIENCE: Duration = Duration::from_secs(90);

fn impatient() -> Options {
    Options::default()
        .with("targets.backend.retry.schedule", "[\"100ms\"]")
        .with("targets.backend.retry.permanent_attempts", "2")
}

fn refuses(users: &[&str]) -> Fault {
    Fault { for_users: users.iter().map(|user| (*user).to_owned()).collect(), ..answers(422, &[]) }
}

/// Others' changes go on until so many letters of the backend are open.
async fn until_dead(installation: &Installation, letters: usize) {
    eventually(&format!("{letters} letters are open"), SOON, async || {
        emit(installation, "other", 4, "created").await;
        let open = installation.letters("backend").await.iter().filter(|letter| letter.is_open).count();
        (open == letters).then_some(())
    })
    .await;
}

/// Replays; gives the job.
async fn replay(installation: &Installation, filter: &[&str]) -> i64 {
    let args = [&["dead-letters", "replay", "--target", "backend", "--yes", "--json"], filter].concat();
    let output = installation.run(Role::Operator, &args).await;
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["jobs"][0]["job_id"].as_i64().unwrap_or_else(|| panic!("{answer}"))
}

/// What became of the items of a job that has ended: state and how many.
async fn outcome(installation: &Installation, job: i64) -> Vec<(String, i64)> {
    eventually(&format!("job {job} is done"), PATIENCE, async || {
        let done: bool = sqlx::query_scalar("select state = 'done' from postbound.job where job_id = $1")
            .bind(job)
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
        done.then_some(())
    })
    .await;
    sqlx::query_as(
        "select state, count(*) from postbound.job_item where job_id = $1 group by state order by state",
    )
    .bind(job)
    .fetch_all(installation.database.superuser())
    .await
    .unwrap()
}

fn counts(counts: &[(&str, i64)]) -> Vec<(String, i64)> {
    counts.iter().map(|(state, count)| ((*state).to_owned(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_poison_user_a_partition_waits_alone_and_is_replayed_after_the_fix() {
    let installation = Installation::start(impatient()).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    let poison = ["bad-1", "bad-2", "bad-3", "bad-4"];
    installation.backend.fault(refuses(&poison)).await;
    emit(&installation, "bad", 4, "created").await;
    until_dead(&installation, 4).await;
    emit(&installation, "good", 30, "created").await;
    installation.until_settled(&["backend", "crm"]).await;

    // A newer good change closes one letter by itself.
    installation.backend.fault(refuses(&poison[1..])).await;
    emit(&installation, "bad", 1, "updated").await;
    until_dead(&installation, 3).await;
    // Replayed before the fix, a letter opens its own row again.
    let job = replay(&installation, &["--user", "bad-2"]).await;
    // Only while others get through is it given up again.
    eventually("it is in the archive again", SOON, async || {
        emit(&installation, "other", 4, "created").await;
        let replayed: i64 = sqlx::query_scalar("select count(*) from postbound.dead_letter where replay > 0")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
        (replayed == 1).then_some(())
    })
    .await;
    assert_eq!(outcome(&installation, job).await, counts(&[("dead", 1)]));
    assert_eq!(installation.letters("backend").await.len(), 4);

    installation.backend.behave().await;
    let job = replay(&installation, &["--reason", "http_422"]).await;
    assert_eq!(outcome(&installation, job).await, counts(&[("delivered", 3)]));
    assert!(installation.letters("backend").await.iter().all(|letter| !letter.is_open));
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_newer_changes_or_a_delete_have_overtaken_is_never_sent_again() {
    let installation = Installation::start(impatient()).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.backend.fault(refuses(&["bad-1", "bad-2"])).await;
    emit(&installation, "bad", 2, "created").await;
    until_dead(&installation, 2).await;
    let letters: Vec<i64> =
        installation.letters("backend").await.iter().map(|letter| letter.letter_id).collect();
    // The replay is made while the letters are open, and sends when they are not any more.
    let pause = installation.run(Role::Operator, &["targets", "pause", "backend", "--reason", "a fix"]).await;
    assert!(pause.status.success(), "{pause:?}");
    let job = replay(&installation, &[]).await;
    installation.backend.behave().await;
    emit(&installation, "bad", 2, "updated").await;
    emit(&installation, "bad", 1, "deleted").await;
    installation.until_settled(&["crm"]).await;
    let resume = installation.run(Role::Operator, &["targets", "resume", "backend"]).await;
    assert!(resume.status.success(), "{resume:?}");
    installation.until_settled(&["backend"]).await;
    outcome(&installation, job).await;
    installation.assert_converged().await;
    // And made afterwards, by their numbers, there is nothing to send.
    for letter in letters {
        let letter = letter.to_string();
        let args = ["dead-letters", "replay", &letter, "--yes", "--json"];
        let output = installation.run(Role::Operator, &args).await;
        assert!(output.status.success(), "{output:?}");
    }
    installation.until_settled(&["backend", "crm"]).await;
    installation.assert_converged().await;
    for user in ["bad-1", "bad-2"] {
        let versions: Vec<i64> =
            installation.oracle().taken("s2", user).await.into_iter().map(|(version, _)| version).collect();
        assert!(versions.is_sorted(), "{user}: {versions:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_whose_relay_and_worker_are_killed_in_the_middle_ends_with_exact_counts() {
    const LETTERS: i64 = 1_500;
    let options = Options::default().with("relay.job_items_unsettled_max", "200");
    let installation = Installation::start(options).await;
    // Users who died once: their changes are in the log, for nobody; the letters stand in the archive.
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "dead"), LETTERS as i32, "created").await;
    let superuser = installation.database.superuser();
    sqlx::raw_sql(
        "insert into postbound.dead_letter
             (target, event_id, log_id, tenant_id, user_id, version, action, logged_at, data, reason, class, last_failed_at)
         select 'backend', event_id, id, tenant_id, user_id, version, action, logged_at, data, 'http_422', 'permanent', now()
         from postbound.change_log order by id;
         insert into postbound.delivery_ledger (target, tenant_id, user_id, dead_version, dead_at, dead_reason)
         select 'backend', tenant_id, user_id, version, now(), 'http_422' from postbound.change_log",
    )
    .execute(superuser)
    .await
    .unwrap();
    let mut relay = installation.relay();
    let mut worker = installation.worker(&[]);
    installation.until_settled(&["crm"]).await;
    let job = replay(&installation, &["--reason", "http_422"]).await;
    let settled = async || -> i64 {
        sqlx::query_scalar(
            "select count(*) from postbound.job_item where job_id = $1 and state = 'delivered'",
        )
        .bind(job)
        .fetch_one(superuser)
        .await
        .unwrap()
    };
    for share in [3, 2] {
        eventually("it is under way", PATIENCE, async || (settled().await >= LETTERS / share).then_some(()))
            .await;
        worker.kill_9().await;
        relay.kill_9().await;
        (relay, worker) = (installation.relay(), installation.worker(&[]));
    }
    assert_eq!(outcome(&installation, job).await, counts(&[("delivered", LETTERS)]));
    assert!(installation.letters("backend").await.iter().all(|letter| !letter.is_open));
    installation.assert_converged().await;
}
