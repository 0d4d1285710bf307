//! Schedules of parked users, while operators, breakers and newer states change them at the same time.

use super::{SOON, emit, updated};
use postbound_event::UserKey;
use postbound_receiver::Fault;
use postbound_store::{
    BreakerCause, BreakerOpening, NextAttempt, Operation, ParkedSchedule, ParkedState, Parking, ParkingCause,
    StateWrites, Store, Unknown,
};
use postbound_tests::{Installation, Options, Role, TestDatabase, answers, eventually};
use serde_json::json;
use std::time::Duration;
use time::OffsetDateTime;

const HOUR: Duration = Duration::from_secs(3600);

/// Three attempts failed just now; the next is due in an hour.
fn thrice_failed() -> ParkedSchedule {
    let now = OffsetDateTime::now_utc();
    ParkedSchedule {
        attempts: 3,
        repeats: 2,
        next_attempt: NextAttempt::In(HOUR),
        first_failed_at: Some(now),
        last_failed_at: Some(now),
        reason: "http_500".to_owned(),
        class: "transient".to_owned(),
        status: Some(500),
        detail: String::new(),
        unknown: Unknown::default(),
        recent_failures: vec![now; 3],
    }
}

/// User u of tenant t0 is parked at the backend with one state.
async fn park(store: &Store, version: i64, schedule: ParkedSchedule, cause: ParkingCause) {
    let event = updated("u", version);
    let parking = Parking {
        target: "backend".into(),
        key: event.key.clone(),
        schedule,
        cause,
        states: vec![ParkedState { event, send_as: None }],
        writes: StateWrites::All,
        superseded: Vec::new(),
        under: None,
    };
    store.park(&[parking]).await.unwrap();
}

/// Attempts and repeats that count, whether the user is due, and the newest state that waits.
async fn standing(database: &TestDatabase) -> (i32, i32, bool, i64) {
    sqlx::query_as(
        "select attempts, repeats, next_attempt_at <= now(),
                (select max(version) from postbound.parked_state) from postbound.parked_user",
    )
    .fetch_one(database.superuser())
    .await
    .unwrap()
}

fn opening() -> BreakerOpening<'static> {
    BreakerOpening {
        target: "backend",
        tenant: None,
        cause: BreakerCause::FailingShare,
        reason: "http_500",
        status: Some(500),
        detail: "",
        wish: None,
        pause: Duration::from_secs(1),
        refund: Some(Duration::from_secs(10)),
    }
}

#[tokio::test]
async fn a_newer_state_undoes_neither_an_operators_retry_nor_a_breakers_refund() {
    let retries = async |database: &TestDatabase| {
        postbound_tests::register_targets(database.superuser(), &["backend"]).await;
        let operation = Operation { command: "users retry", acting_as: None, filter: json!({}) };
        let store = database.store(Role::Operator);
        assert_eq!(store.wake_parked_user(("t0", "u"), None, &operation).await.unwrap(), ["backend"]);
    };
    let refunds = async |database: &TestDatabase| {
        database.store(Role::Worker).open_breaker(&opening()).await.unwrap();
    };
    let check = async |what: &str, refunded: bool, cause, expected: (i32, i32, bool)| {
        let database = TestDatabase::new().await;
        let store = database.store(Role::Worker);
        park(&store, 1, thrice_failed(), ParkingCause::Failed).await;
        assert_eq!(standing(&database).await, (3, 2, false, 1));
        if refunded {
            refunds(&database).await;
        } else {
            retries(&database).await;
        }
        // As the lane read it before.
        let next_attempt = match cause {
            ParkingCause::NotTried => NextAttempt::In(Duration::ZERO),
            _ => NextAttempt::At(OffsetDateTime::now_utc() + HOUR),
        };
        park(&store, 2, ParkedSchedule { next_attempt, ..thrice_failed() }, cause).await;
        let (attempts, repeats, due) = expected;
        assert_eq!(standing(&database).await, (attempts, repeats, due, 2), "{what}");
    };
    check("folded into a retried one", false, ParkingCause::Folded, (3, 2, true)).await;
    check("folded into a refunded one", true, ParkingCause::Folded, (0, 0, true)).await;
    check("a refunded one that could not be tried", true, ParkingCause::NotTried, (0, 0, true)).await;
    check("a retried one that failed again", false, ParkingCause::Failed, (3, 2, false)).await;
}

#[tokio::test]
async fn who_is_parked_after_the_breaker_their_failures_opened_gets_the_attempts_back_too() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    let failed_before = thrice_failed();
    store.open_breaker(&opening()).await.unwrap();
    park(&store, 1, failed_before, ParkingCause::Failed).await;
    assert_eq!(standing(&database).await, (0, 0, true, 1));
    park(&store, 1, thrice_failed(), ParkingCause::Failed).await;
    assert_eq!(
        standing(&database).await,
        (3, 2, false, 1),
        "what fails later, on a probe's heels, is its own"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quick_tries_before_a_breaker_opens_are_all_taken_back() {
    let options = Options::default()
        .with("targets.backend.retry.delays", "[\"20ms\", \"20ms\"]")
        .with("targets.backend.retry.schedule", "[\"1h\"]")
        .with("targets.backend.retry.schedule_jitter", "0.0")
        .with("targets.backend.breaker.pause_min", "30s")
        .with("targets.backend.breaker.fold_after", "300ms");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    let counted = async || -> (i64, i64, i64) {
        sqlx::query_as(
            "select count(*), coalesce(sum(attempts), 0)::bigint, coalesce(sum(repeats), 0)::bigint
             from postbound.parked_user where target = 'backend'",
        )
        .fetch_one(installation.database.superuser())
        .await
        .unwrap()
    };
    installation.backend.fault(answers(500, &[])).await;
    // Too few to be taken for a failing target.
    emit(&installation, "first", 3, "created").await;
    eventually("they are parked after three tries each", SOON, async || {
        (counted().await == (3, 9, 3)).then_some(())
    })
    .await;
    emit(&installation, "user", 20, "created").await;
    eventually("all are parked, and nobody's attempts are burnt", SOON, async || {
        (counted().await == (23, 0, 0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_state_that_comes_while_a_refusal_is_under_way_is_tried_at_once() {
    let options = Options::default()
        .with("targets.backend.retry.schedule", "[\"1h\"]")
        .with("targets.backend.retry.schedule_jitter", "0.0");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    let slow_refusal =
        Fault { for_users: vec!["bad-1".to_owned()], times: Some(1), delay_ms: 3_000, ..answers(422, &[]) };
    installation.backend.fault(slow_refusal).await;
    emit(&installation, "bad", 1, "created").await;
    eventually("it is under way", SOON, async || {
        (installation.backend.fault_hits().await == 1).then_some(())
    })
    .await;
    emit(&installation, "bad", 1, "updated").await;
    installation.assert_converged().await;
    assert_eq!(installation.oracle().taken("s2", "bad-1").await, [(2, "created".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_nobody_else_is_there_to_be_compared_with_is_given_up_at_its_horizon() {
    let options = Options::default()
        .with("targets.backend.retry.schedule", "[\"100ms\"]")
        .with("targets.backend.retry.horizon", "2s");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&["backend"]);
    installation.backend.fault(answers(422, &[])).await;
    emit(&installation, "lone", 1, "created").await;
    let letter =
        eventually("it is given up", SOON, async || installation.letters("backend").await.into_iter().next())
            .await;
    assert_eq!((letter.reason.as_str(), letter.is_open), ("http_422", true));
    assert!(letter.attempts > 3, "not before: {letter:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_user_is_given_up_though_only_other_workers_users_get_through() {
    let options = Options::default()
        .partitions(2)
        .with("targets.backend.retry.schedule", "[\"1s\"]")
        .with("targets.backend.retry.schedule_jitter", "0.0");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _workers = [installation.worker(&["backend"]), installation.worker(&["backend"])];
    eventually("each worker has a partition", SOON, async || {
        let workers = installation.store().live_workers().await.unwrap();
        (workers.len() == 2 && workers.iter().all(|worker| worker.partitions == 1)).then_some(())
    })
    .await;
    let of_partition = |partition| {
        let names = (0..).map(|number| format!("user{number}"));
        let is_there = |name: &String| UserKey::new("t0", format!("{name}-1")).partition(2) == partition;
        names.into_iter().find(is_there).unwrap()
    };
    let (refused, taken) = (of_partition(0), of_partition(1));
    let fault = Fault { for_users: vec![format!("{refused}-1")], ..answers(422, &[]) };
    installation.backend.fault(fault).await;
    emit(&installation, &refused, 1, "created").await;
    let letter = eventually("it is given up", SOON, async || {
        emit(&installation, &taken, 1, "updated").await;
        installation.letters("backend").await.into_iter().next()
    })
    .await;
    assert_eq!((letter.user_id, letter.reason.as_str()), (format!("{refused}-1"), "http_422"));
}
