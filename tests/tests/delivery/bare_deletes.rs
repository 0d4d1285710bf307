//! A delete that says no more than who is gone is published with the last known state, by which some targets know
//! their users.

use super::{SOON, emit};
use postbound_tests::{Installation, Options, Process, Role, emit_states, eventually};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::time::{Duration, Instant};

/// How long a stream waits for the projection at most, and what a slow machine adds to it.
const PATIENCE: Duration = Duration::from_secs(10);
const SLACK: Duration = Duration::from_secs(20);

/// One queue for each target, and no worker: what was published is all there.
async fn installation() -> Installation {
    Installation::start(Options::every_event().partitions(1).with("relay.page_rows", "100")).await
}

/// Holds the projection up until the transaction ends: its cursor cannot move.
async fn hold_projection(installation: &Installation) -> Transaction<'static, Postgres> {
    let mut held = installation.database.superuser().begin().await.unwrap();
    sqlx::query("select from postbound.stream_cursor where stream = 'user_state' for update")
        .execute(&mut *held)
        .await
        .unwrap();
    held
}

async fn until_published(relay: &Process, events: f64, within: Duration) {
    eventually(&format!("{events} events are published"), within, async || {
        let published = relay.metric("postbound_relay_published_total", &[r#"target="backend""#]).await;
        (published >= events).then_some(())
    })
    .await;
}

/// User, version and name of everything in the backend's queue, in order; the name of a state is its version.
async fn published(installation: &Installation) -> Vec<(String, String, Option<String>)> {
    let messages = installation.vhost.peek(&installation.http, "postbound.backend.g1.p000").await;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let batches = messages.iter().map(|message| text(&message["payload"]).unwrap());
    let events = batches.flat_map(|batch| serde_json::from_str::<Vec<Value>>(&batch).unwrap());
    let fields = |event: Value| {
        (text(&event["subject"]).unwrap(), text(&event["userversion"]).unwrap(), text(&event["data"]["name"]))
    };
    events.map(fields).collect()
}

fn expected(events: &[(&str, i64, Option<&str>)]) -> Vec<(String, String, Option<String>)> {
    let owned = |(user, version, name): &(&str, i64, Option<&str>)| {
        ((*user).to_owned(), version.to_string(), name.map(str::to_owned))
    };
    events.iter().map(owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_delete_waits_for_the_projection_and_has_the_state_before_it() {
    let installation = installation().await;
    let held = hold_projection(&installation).await;
    let relay = installation.relay();
    emit(&installation, "gone", 1, "created").await;
    until_published(&relay, 1.0, SOON).await;
    emit(&installation, "gone", 1, "deleted").await;
    emit(&installation, "other", 1, "created").await;
    until_page_was_read(&installation).await;
    held.rollback().await.unwrap();
    until_published(&relay, 3.0, SOON).await;
    let events = [("gone-1", 1, Some("v1")), ("gone-1", 2, Some("v1")), ("other-1", 1, Some("v1"))];
    assert_eq!(published(&installation).await, expected(&events));
}

/// A relay that did not wait would now publish the delete as it is.
async fn until_page_was_read(installation: &Installation) {
    let superuser = installation.database.superuser();
    let now: String =
        sqlx::query_scalar("select clock_timestamp()::text").fetch_one(superuser).await.unwrap();
    eventually("the relay has read the delete", SOON, async || {
        sqlx::query_scalar::<_, bool>(
            "select exists (select from pg_stat_activity where datname = current_database()
                and query like '-- window_page%' and query_start > $1::timestamptz)",
        )
        .bind(&now)
        .fetch_one(superuser)
        .await
        .unwrap()
        .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_delete_that_the_projection_has_nothing_to_tell_of_does_not_wait_for_it() {
    let installation = installation().await;
    let _held = hold_projection(&installation).await;
    let relay = installation.relay();
    emit(&installation, "unknown", 1, "deleted").await;
    let mut producer = installation.database.connect(Role::Producer).await;
    sqlx::raw_sql("begin").execute(&mut producer).await.unwrap();
    for action in ["created", "updated", "deleted"] {
        emit_states(&mut producer, ("t0", "brief"), 1, action).await;
    }
    sqlx::raw_sql("commit").execute(&mut producer).await.unwrap();
    until_published(&relay, 4.0, PATIENCE / 2).await;
    let events = [
        ("unknown-1", 1, None),
        ("brief-1", 1, Some("v1")),
        ("brief-1", 2, Some("v2")),
        ("brief-1", 3, Some("v2")),
    ];
    assert_eq!(published(&installation).await, expected(&events));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_projection_holds_a_stream_up_once_and_for_a_bounded_time() {
    let installation = installation().await;
    let held = hold_projection(&installation).await;
    let relay = installation.relay();
    for user in ["one", "two", "three"] {
        emit(&installation, user, 1, "created").await;
    }
    until_published(&relay, 3.0, SOON).await;
    emit(&installation, "one", 1, "deleted").await;
    until_published(&relay, 4.0, PATIENCE + SLACK).await;
    let since = Instant::now();
    emit(&installation, "two", 1, "deleted").await;
    until_published(&relay, 5.0, SOON).await;
    assert!(since.elapsed() < PATIENCE / 2, "it waited again: {:?}", since.elapsed());
    let warnings = |line: &&str| line.contains("user_state is behind") && line.contains(r#""backend""#);
    assert_eq!(relay.log().lines().filter(warnings).count(), 1);

    held.rollback().await.unwrap();
    until_projected(&installation, "two-1", 2).await;
    emit(&installation, "three", 1, "deleted").await;
    until_published(&relay, 6.0, SOON).await;
    let deletes = [("one-1", 2, None), ("two-1", 2, None), ("three-1", 2, Some("v1"))];
    assert_eq!(published(&installation).await[3..], expected(&deletes));
}

async fn until_projected(installation: &Installation, user: &str, version: i64) {
    eventually("the projection has it", SOON, async || {
        let query = sqlx::query_scalar("select version from postbound.user_state where user_id = $1");
        let projected: Option<i64> =
            query.bind(user).fetch_optional(installation.database.superuser()).await.unwrap();
        (projected? >= version).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_delete_read_after_its_user_came_back_has_the_newest_known_state() {
    let options = Options::every_event().partitions(1).with("relay.page_rows", "1");
    let installation = Installation::start(options).await;
    let relay = installation.relay();
    for (version, action) in [(1.0, "created"), (2.0, "deleted"), (3.0, "created")] {
        emit(&installation, "back", 1, action).await;
        until_published(&relay, version, SOON).await;
    }
    until_projected(&installation, "back-1", 3).await;
    installation.store().rewind_cursor("backend").await.unwrap();
    until_published(&relay, 6.0, SOON).await;
    let names = ["v1", "v1", "v3", "v1", "v3", "v3"];
    let versions = [1, 2, 3].into_iter().cycle();
    let events: Vec<_> =
        names.into_iter().zip(versions).map(|(name, version)| ("back-1", version, Some(name))).collect();
    assert_eq!(published(&installation).await, expected(&events));
}
