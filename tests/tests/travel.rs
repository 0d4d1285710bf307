//! Time travel: Postgres or RabbitMQ goes back to an older state of its own. It is found before anything more is published,
//! `postbound rebase` (or `topology apply`) goes on from there, and everybody ends up with what Postgres says.

mod beats;
mod database;
mod dump;
mod events;
mod machine;
mod rabbitmq;
mod rebasing;

use postbound_tests::{Installation, Process, Role, emit_states, eventually};
use serde_json::Value;
use sqlx::PgPool;
use std::time::{Duration, Instant};

/// A bound for what takes moments on an idle machine, no claim.
const SOON: Duration = Duration::from_secs(180);

/// Users `<prefix>-1` to `<prefix>-<count>` of tenant t0 change.
async fn emit(installation: &Installation, prefix: &str, count: i32, action: &str) {
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", prefix), count, action).await;
}

/// Waits until the relay says that it publishes nothing, and why.
async fn until_halted(relay: &Process) -> String {
    let readiness = relay
        .until_ready("it is halted", |readiness| {
            readiness.state("relay.witness") == "not_ready"
                && readiness.reason("relay.witness").contains("rebase")
        })
        .await;
    assert_eq!(readiness.status, 503);
    readiness.reason("relay.witness").to_owned()
}

/// What is said of it where people look.
async fn assert_told(installation: &Installation, relay: &Process, words: &str) {
    let status = installation.status().await;
    assert!(status["halted"]["reason"].as_str().unwrap_or_default().contains(words), "{status}");
    let doctor = installation.run(Role::Operator, &["doctor", "--json"]).await;
    assert_eq!(doctor.status.code(), Some(4), "{doctor:?}");
    let findings: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let witness = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "witness").unwrap();
    assert!(witness["what"].as_str().unwrap().contains(words), "{witness}");
    let errors = relay.log().lines().filter(|line| line.contains("publishing is halted")).count();
    assert_eq!(errors, 1, "one clear error:\n{}", relay.log());
}

/// Rebases, with all that goes before it.
async fn rebase(installation: &Installation, more: &[&str]) -> Value {
    let args = |last: &[&'static str]| -> Vec<String> {
        ["rebase"].iter().chain(more).chain(last).map(|arg| (*arg).to_owned()).collect()
    };
    let run = async |last: &[&'static str]| {
        let args = args(last);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        installation.run(Role::Operator, &args).await
    };
    let dry = run(&["--dry-run", "--json"]).await;
    assert!(dry.status.success(), "{dry:?}");
    let refused = run(&[]).await;
    assert_eq!(refused.status.code(), Some(2), "without --yes: {refused:?}");
    let done = run(&["--yes", "--as", "ada", "--json"]).await;
    assert!(done.status.success(), "{done:?}");
    let audit: (String, Option<String>) = sqlx::query_as(
        "select command, acting_as from postbound.audit where command = 'rebase' order by audit_id limit 1",
    )
    .fetch_one(installation.database.superuser())
    .await
    .unwrap();
    assert_eq!(audit, ("rebase".to_owned(), Some("ada".to_owned())));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Everything either side has heard of: the newest states of one, what the receivers hold of the other.
type States = Vec<(String, i64, String, bool)>;

async fn source(pool: &PgPool) -> States {
    sqlx::query_as(
        "select user_id, version, data->>'email', action <> 'deleted' from postbound.user_state order by user_id",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn held(pool: &PgPool, table: &str) -> States {
    let query = format!(
        "select user_id, coalesce(version, 0), coalesce(email, ''), is_active from receiver.{table} order by user_id"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(query)).fetch_all(pool).await.unwrap()
}

/// Waits until all users of the source are at both receivers as it has them. Gives the users only receivers have.
async fn until_converged(installation: &Installation) -> Vec<String> {
    let (database, receivers) = (installation.database.superuser(), installation.receivers().superuser());
    let started = Instant::now();
    eventually("both receivers hold what the source has", SOON * 2, async || {
        installation.until_settled(&["backend", "crm"]).await;
        let source = source(database).await;
        let mut only_there = Vec::new();
        for table in ["backend_users", "crm_users"] {
            let held = held(receivers, table).await;
            if let Some(missing) = source.iter().find(|user| !held.contains(user)) {
                let there = held.iter().find(|user| user.0 == missing.0);
                assert!(started.elapsed() < SOON, "{table}: {missing:?}, but there {there:?}");
                return None;
            }
            only_there.extend(
                held.into_iter().map(|user| user.0).filter(|id| !source.iter().any(|user| user.0 == *id)),
            );
        }
        only_there.sort();
        only_there.dedup();
        Some(only_there)
    })
    .await
}

/// Waits until the relay has told both sides of everything it published so far.
async fn until_witnessed(installation: &Installation, beyond: i64) -> i64 {
    eventually("it is witnessed", SOON, async || {
        let beat: i64 = sqlx::query_scalar("select beat from postbound.witness")
            .fetch_one(installation.database.superuser())
            .await
            .ok()?;
        (beat > beyond).then_some(beat)
    })
    .await
}
