//! A target that says it holds a newer version: so it may, if it was ever to be told one.

use super::{SOON, emit};
use postbound_client::{Change, emit as emit_change};
use postbound_event::{Action, Event, UserKey};
use postbound_receiver::{Fault, FaultAnswer};
use postbound_tests::{Installation, Options, Role, TestDatabase, eventually};
use serde_json::json;
use time::OffsetDateTime;

/// A change of user `user`, for these targets.
async fn change(database: &TestDatabase, user: &str, targets: Option<&[&str]>) {
    let state = json!({"email": "user@example.com", "name": "v1", "avatar": "https://example.com/1"});
    let change = Change::updated("t0", user).data(&state).unwrap();
    let change = match targets {
        Some(targets) => change.targets(targets.iter().copied()),
        None => change,
    };
    emit_change(&mut database.connect(Role::Producer).await, &change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_claims_a_version_that_was_never_for_it_has_diverged() {
    let installation = Installation::start(Options::default()).await;
    let says = FaultAnswer {
        status: 409,
        headers: [("content-type".to_owned(), "application/problem+json".to_owned())].into(),
        body: r#"{"type":"/problems/stale-version","heldVersion":2}"#.to_owned(),
    };
    installation.backend.fault(Fault { respond: Some(says), ..Fault::default() }).await;
    change(&installation.database, "user", None).await;
    change(&installation.database, "user", Some(&["crm"])).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&["backend"]);
    let letter = eventually("it is a dead letter", SOON, async || {
        installation.letters("backend").await.into_iter().next()
    })
    .await;
    assert_eq!((letter.version, letter.reason.as_str()), (1, "diverged"));
    // What it may well have been told is no reason to complain.
    installation.backend.behave().await;
    emit(&installation, "other", 1, "created").await;
    installation.until_settled(&["backend"]).await;
    assert_eq!(installation.letters("backend").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_version_a_target_wants_is_the_newest_its_filters_admit() {
    let database = TestDatabase::new().await;
    postbound_tests::register_targets(database.superuser(), &["backend", "crm"]).await;
    for targets in [None, Some(&["backend"][..]), Some(&["crm"]), Some(&["backend"]), Some(&["nobody"])] {
        if targets == Some(&["nobody"][..]) {
            change(&database, "user", Some(&[])).await;
        } else {
            change(&database, "user", targets).await;
        }
    }
    change(&database, "other", None).await;
    let (log_id, event_id, logged_at): (i64, uuid::Uuid, OffsetDateTime) = sqlx::query_as(
        "select id, event_id, logged_at from postbound.change_log where user_id = 'user' and version = 1",
    )
    .fetch_one(database.superuser())
    .await
    .unwrap();
    let first = Event {
        id: event_id,
        log_id,
        key: UserKey::new("t0", "user"),
        version: 1,
        action: Action::Updated,
        origin: None,
        traceparent: None,
        logged_at,
        data: serde_json::value::RawValue::from_string("{}".to_owned()).unwrap(),
        resend: 0,
        job: None,
    };
    let store = database.store(Role::Worker);
    let check = async |target: &str, expected: i64| {
        assert_eq!(store.wanted_version(target, &first).await.unwrap(), expected, "{target}");
    };
    check("backend", 4).await;
    check("crm", 3).await;
    check("unregistered", 1).await;
    // Once the projection knows the newest change, it says so itself.
    change(&database, "user", Some(&["crm"])).await;
    sqlx::query(
        "insert into postbound.user_state (tenant_id, user_id, version, action, event_id, logged_at, data, targets)
         select tenant_id, user_id, version, action, event_id, logged_at, data, targets from postbound.change_log
         where user_id = 'user' and version = 6",
    )
    .execute(database.superuser())
    .await
    .unwrap();
    check("backend", 4).await;
    check("crm", 6).await;
}
