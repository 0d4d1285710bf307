//! What operators are promised of their commands: that they say what is, touch what was asked for, and leave a trace.

mod audit;
mod dead_letters;
mod erase;
mod import;
mod jobs;
mod reconcile;
mod replay;
mod resync;
mod scale;
mod targets;
mod topology;
mod users;
mod whole_way;

use postbound_tests::{Installation, Options, Role};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use std::process::Output;

/// An installation without running processes: what they would have written is written by the test.
pub(crate) async fn idle() -> Installation {
    Installation::start(Options::default().partitions(2)).await
}

/// Runs a command as an operator called ada.
async fn run(installation: &Installation, args: &[&str]) -> Output {
    installation.run(Role::Operator, args).await
}

/// The exit code and the JSON a command answers.
pub(crate) async fn answer(installation: &Installation, args: &[&str]) -> (i32, Value) {
    let output = run(installation, &[args, &["--json"]].concat()).await;
    let answer = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), answer.unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}")))
}

/// The JSON of a command that has to succeed.
pub(crate) async fn done(installation: &Installation, args: &[&str]) -> Value {
    let (code, answer) = answer(installation, args).await;
    assert_eq!(code, 0, "{args:?}: {answer}");
    answer
}

/// The exit code and the last word of a command that is refused.
pub(crate) async fn refused(installation: &Installation, args: &[&str]) -> (i32, String) {
    let output = run(installation, args).await;
    assert!(!output.status.success(), "{args:?}: {output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Runs statements as the superuser.
pub(crate) async fn sql(installation: &Installation, statements: &str) {
    let ran =
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(installation.database.superuser()).await;
    ran.unwrap_or_else(|error| panic!("{statements}: {error}"));
}

/// One number the superuser reads.
pub(crate) async fn number(installation: &Installation, query: &str) -> i64 {
    let read = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
        .fetch_one(installation.database.superuser())
        .await;
    read.unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// The numbers of one field over a list.
fn numbers(list: &Value, field: &str) -> Vec<i64> {
    list.as_array().unwrap().iter().map(|entry| entry[field].as_i64().unwrap()).collect()
}

/// SQL of dead letters of users u-1 to u-`count` of tenant t0, version 5 each.
pub(crate) fn letters(target: &str, count: u32, reason: &str, class: &str, status: u16) -> String {
    format!(
        "insert into postbound.dead_letter
             (target, event_id, log_id, tenant_id, user_id, version, action, logged_at, data, reason, class, status, detail,
              attempts, first_failed_at, last_failed_at)
         select '{target}', gen_random_uuid(), n, 't0', 'u-' || n, 5, 'updated', now() - interval '1 hour',
                jsonb_build_object('email', 'u-' || n || '@secret.example'), '{reason}', '{class}', {status},
                'said {reason} 50%', 3, now() - interval '1 hour', now() - interval '10 minutes'
         from generate_series(1, {count}) as n;"
    )
}

/// SQL of the newest states of users u-1 to u-`count` of tenant t0, written an hour ago.
pub(crate) fn states(count: u32, version: i64) -> String {
    format!(
        "insert into postbound.user_head select 't0', 'u-' || n, {version}, false from generate_series(1, {count}) as n;
         insert into postbound.user_state (tenant_id, user_id, version, action, event_id, logged_at, data)
         select 't0', 'u-' || n, {version}, 'updated', gen_random_uuid(), now() - interval '1 hour',
                jsonb_build_object('email', 'u-' || n || '@secret.example')
         from generate_series(1, {count}) as n;"
    )
}

/// SQL of what a target holds of a user.
pub(crate) fn held(target: &str, user: &str, version: i64) -> String {
    format!(
        "insert into postbound.delivery_ledger (target, tenant_id, user_id, delivered_version, present, delivered_at)
         values ('{target}', 't0', '{user}', {version}, true, now());"
    )
}

/// SQL of a user who waits for another attempt with one state.
pub(crate) fn parked(target: &str, user: &str, version: i64, action: &str) -> String {
    format!(
        "insert into postbound.parked_user (target, tenant_id, user_id, key_hash, attempts, next_attempt_at, reason, class, detail)
         values ('{target}', 't0', '{user}', 0, 3, now() + interval '1 hour', 'http_503', 'transient', 'maintenance')
         on conflict do nothing;
         insert into postbound.parked_state
             (target, tenant_id, user_id, version, event_id, log_id, action, logged_at, data)
         values ('{target}', 't0', '{user}', {version}, gen_random_uuid(), 1, '{action}', now(),
                 '{{\"email\": \"{user}@secret.example\"}}');"
    )
}
