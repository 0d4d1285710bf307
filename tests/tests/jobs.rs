//! Replays, resyncs, reconciles and imports, as the active relay runs them: into the backfill queues, at a pace that can be
//! steered. Where no worker runs, the tests settle items in its place.

mod arriving;
mod queues;
mod reconciling;
mod sending;
mod settling;
mod steering;

use postbound_tests::{Installation, eventually};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// A bound for what takes moments on an idle machine, no claim.
const SOON: Duration = Duration::from_secs(90);

/// Users `user-1` to `user-<count>` of tenant t0 have a state, at version 3.
async fn seed_states(installation: &Installation, count: i64) {
    execute(
        installation,
        &format!(
            "insert into postbound.user_state (tenant_id, user_id, version, action, event_id, logged_at, data)
             select 't0', 'user-' || n, 3, 'updated', gen_random_uuid(), now() - interval '1 hour',
                    jsonb_build_object('email', 'user-' || n || '@example.com', 'name', 'v3')
             from generate_series(1, {count}) as n"
        ),
    )
    .await;
}

/// A running job of `user-1` to `user-<count>`; `settings` are assignments such as `rate_per_second = 5`.
async fn start_job(installation: &Installation, target: &str, kind: &str, count: i64, settings: &str) -> i64 {
    let job = fill_job(installation, target, kind).await;
    let items = format!(
        "insert into postbound.job_item (job_id, item, tenant_id, user_id)
         select {job}, n, 't0', 'user-' || n from generate_series(1, {count}) as n"
    );
    execute(installation, &items).await;
    run_job(installation, job, settings).await;
    job
}

/// A job without items that does not run yet.
async fn fill_job(installation: &Installation, target: &str, kind: &str) -> i64 {
    sqlx::query_scalar(
        "insert into postbound.job (kind, target, filter) values ($1, $2, '{}') returning job_id",
    )
    .bind(kind)
    .bind(target)
    .fetch_one(installation.database.superuser())
    .await
    .unwrap()
}

async fn run_job(installation: &Installation, job: i64, settings: &str) {
    let comma = if settings.is_empty() { "" } else { "," };
    let run = format!("update postbound.job set state = 'running'{comma} {settings} where job_id = {job}");
    execute(installation, &run).await;
}

async fn execute(installation: &Installation, statement: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
        .execute(installation.database.superuser())
        .await
        .unwrap();
}

/// Number of a job's items in a state.
async fn items(installation: &Installation, job: i64, state: &str) -> i64 {
    sqlx::query_scalar("select count(*) from postbound.job_item where job_id = $1 and state = $2")
        .bind(job)
        .bind(state)
        .fetch_one(installation.database.superuser())
        .await
        .unwrap()
}

async fn until_items(installation: &Installation, job: i64, state: &str, count: i64) {
    eventually(&format!("{count} items of job {job} are {state}"), SOON, async || {
        (items(installation, job, state).await >= count).then_some(())
    })
    .await;
}

/// What a worker does with all that is sent: it is delivered.
async fn settle_all(installation: &Installation, job: i64) {
    let settle = "update postbound.job_item set state = 'delivered', settled_at = now() where state = 'sent' and job_id";
    execute(installation, &format!("{settle} = {job}")).await;
}

async fn job_state(installation: &Installation, job: i64) -> (String, Option<String>, bool) {
    sqlx::query_as("select state, state_reason, finished_at is not null from postbound.job where job_id = $1")
        .bind(job)
        .fetch_one(installation.database.superuser())
        .await
        .unwrap()
}

async fn until_job_is(installation: &Installation, job: i64, state: &str) {
    eventually(&format!("job {job} is {state}"), SOON, async || {
        (job_state(installation, job).await.0 == state).then_some(())
    })
    .await;
}

/// The events in a target's backfill queues, in order per queue.
async fn queued(installation: &Installation, target: &str) -> Vec<Value> {
    let mut events = Vec::new();
    for partition in 0..installation.options().partitions {
        let queue = format!("postbound.{target}.g1.p{partition:03}.backfill");
        for message in installation.vhost.peek(&installation.http, &queue).await {
            let body: Vec<Value> = serde_json::from_str(message["payload"].as_str().unwrap()).unwrap();
            assert!(body.len() <= 100, "{} events in a message", body.len());
            events.extend(body);
        }
    }
    events
}

/// Each item's number and how often it is queued.
fn by_item(events: &[Value]) -> BTreeMap<i64, usize> {
    let mut items = BTreeMap::new();
    for event in events {
        *items.entry(number(event, "jobitem")).or_default() += 1;
    }
    items
}

/// An attribute that is a number in a string.
fn number(event: &Value, attribute: &str) -> i64 {
    event[attribute].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{event}"))
}
