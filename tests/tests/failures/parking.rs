//! Users who cannot be delivered wait in Postgres, one schedule each, and hold up nobody.

use super::{SOON, emit, updated};
use postbound_event::UserKey;
use postbound_receiver::Fault;
use postbound_store::{
    DueFilter, NextAttempt, ParkedSchedule, ParkedState, Parking, ParkingCause, StateWrites, Unknown,
};
use postbound_tests::{Installation, Options, Role, TestDatabase, answers, eventually};
use std::time::Duration;

/// Parked users of a target and their states: user, version, action, attempts, class.
async fn parked(installation: &Installation, target: &str) -> Vec<(String, i64, String, i32, String)> {
    sqlx::query_as(
        "select s.user_id, s.version, s.action, p.attempts, p.class from postbound.parked_state as s
         join postbound.parked_user as p using (target, tenant_id, user_id)
         where target = $1 order by s.user_id collate \"C\", s.version",
    )
    .bind(target)
    .fetch_all(installation.database.superuser())
    .await
    .unwrap()
}

/// Everybody parked is due now, as an operator would have it.
async fn retry_now(installation: &Installation) {
    sqlx::query("update postbound.parked_user set next_attempt_at = now()")
        .execute(installation.database.superuser())
        .await
        .unwrap();
}

async fn until_queues_are_empty(installation: &Installation, target: &str) {
    eventually("its queues are empty", SOON, async || {
        let mut messages = 0;
        for partition in 0..installation.options().partitions {
            let queue = installation.vhost.queue(&format!("postbound.{target}.g1.p{partition:03}")).await?;
            messages += queue.messages_ready;
        }
        (messages == 0).then_some(())
    })
    .await;
}

fn refuses(user: &str, status: u16) -> Fault {
    Fault { for_users: vec![user.to_owned()], ..answers(status, &[]) }
}

/// One failure parks a user for an hour: whoever is tried again was made to.
fn patient() -> Options {
    Options::default()
        .with("targets.backend.retry.attempts", "1")
        .with("targets.backend.retry.schedule", "[\"1h\"]")
        .with("targets.backend.retry.schedule_jitter", "0.0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_a_target_that_stays_away_is_one_state_a_user_and_costs_nobody_an_attempt() {
    let options = Options::default().with("targets.backend.breaker.fold_after", "300ms");
    let mut installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.backend.stop().await;
    emit(&installation, "user", 40, "created").await;
    eventually("all are parked", SOON, async || {
        (parked(&installation, "backend").await.len() == 40).then_some(())
    })
    .await;
    for _ in 0..5 {
        emit(&installation, "user", 40, "updated").await;
    }
    installation.until_settled(&["crm"]).await;
    // What has left the queue is in the worker's hands before it is stored.
    eventually("of each the newest state alone is parked", SOON, async || {
        let waiting = parked(&installation, "backend").await;
        let is_newest = |version: i64, attempts: i32| (version, attempts) == (6, 0);
        let all = waiting.iter().all(|(_, version, _, attempts, _)| is_newest(*version, *attempts));
        (all && waiting.len() == 40).then_some(())
    })
    .await;
    until_queues_are_empty(&installation, "backend").await;

    installation.backend.start_again().await;
    installation.assert_converged().await;
    assert_eq!(installation.oracle().count("s2", None).await, 40, "one call a user, not one an event");
    assert_eq!(parked(&installation, "backend").await, []);
    assert_eq!(installation.letters("backend").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_and_a_return_stay_two_steps_while_they_are_parked() {
    let installation = Installation::start(patient()).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    emit(&installation, "bad", 1, "created").await;
    installation.until_settled(&["backend", "crm"]).await;
    installation.backend.fault(refuses("bad-1", 500)).await;
    emit(&installation, "bad", 1, "deleted").await;
    eventually("it is parked", SOON, async || {
        (parked(&installation, "backend").await.len() == 1).then_some(())
    })
    .await;
    for action in ["created", "updated", "updated"] {
        emit(&installation, "bad", 1, action).await;
    }
    let steps = eventually("the newest is parked, too", SOON, async || {
        let steps = parked(&installation, "backend").await;
        steps.iter().any(|(_, version, ..)| *version == 5).then_some(steps)
    })
    .await;
    let steps: Vec<_> = steps
        .iter()
        .map(|(_, version, action, attempts, _)| (*version, action.as_str(), *attempts))
        .collect();
    assert_eq!(steps, [(2, "deleted", 1), (5, "updated", 1)], "folded without an attempt");

    installation.backend.behave().await;
    retry_now(&installation).await;
    installation.assert_converged().await;
    let taken = installation.oracle().taken("s2", "bad-1").await;
    let taken: Vec<_> = taken.iter().map(|(version, action)| (*version, action.as_str())).collect();
    assert_eq!(taken, [(1, "created"), (2, "deleted"), (5, "created")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_target_gets_every_parked_event_in_order() {
    let installation = Installation::start(Options { coalesce: false, ..patient() }).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.backend.fault(refuses("bad-1", 500)).await;
    for action in ["created", "updated", "deleted", "created"] {
        emit(&installation, "bad", 1, action).await;
        emit(&installation, "good", 3, action).await;
    }
    eventually("all of it is parked", SOON, async || {
        (parked(&installation, "backend").await.len() == 4).then_some(())
    })
    .await;
    until_queues_are_empty(&installation, "backend").await;
    installation.backend.behave().await;
    retry_now(&installation).await;
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_waits_is_written_once_however_many_come_after_it_and_they_are_sent_in_order() {
    // Several pages of them.
    const EVENTS: i64 = 40;
    let installation = Installation::start(Options { coalesce: false, ..patient() }).await;
    sqlx::raw_sql(
        "create table public.written (operation text);
         create function public.note_written() returns trigger language plpgsql security definer as
             $$ begin insert into public.written values (tg_op); return null; end $$;
         create trigger note_written after insert or update or delete on postbound.parked_state
             for each row execute function public.note_written()",
    )
    .execute(installation.database.superuser())
    .await
    .unwrap();
    let _relay = installation.relay();
    let _worker = installation.worker(&["backend"]);
    installation.backend.fault(refuses("bad-1", 500)).await;
    for version in 1..=EVENTS {
        emit(&installation, "bad", 1, if version == 1 { "created" } else { "updated" }).await;
        eventually(&format!("version {version} is parked"), SOON, async || {
            (parked(&installation, "backend").await.len() as i64 == version).then_some(())
        })
        .await;
    }
    let written: Vec<(String, i64)> =
        sqlx::query_as("select operation, count(*) from public.written group by operation")
            .fetch_all(installation.database.superuser())
            .await
            .unwrap();
    assert_eq!(written, [("INSERT".to_owned(), EVENTS)]);
    installation.backend.behave().await;
    retry_now(&installation).await;
    installation.until_settled(&["backend"]).await;
    let taken = installation.oracle().taken("s2", "bad-1").await;
    assert!(taken.iter().map(|(version, _)| *version).eq(1..=EVENTS), "{taken:?}");
    assert_eq!(parked(&installation, "backend").await, []);
}

/// Of two hundred users with thousands of events each they would not fit into memory.
#[tokio::test]
async fn events_that_wait_are_read_in_pages_and_not_with_their_user() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    let schedule = ParkedSchedule {
        attempts: 1,
        repeats: 1,
        next_attempt: NextAttempt::In(Duration::ZERO),
        first_failed_at: None,
        last_failed_at: None,
        reason: "http_500".to_owned(),
        class: "transient".to_owned(),
        status: Some(500),
        detail: String::new(),
        unknown: Unknown::default(),
        recent_failures: Vec::new(),
    };
    let states = (1..=40).map(|version| ParkedState { event: updated("a", version), send_as: None });
    let parking = Parking {
        target: "backend".into(),
        key: UserKey::new("t0", "a"),
        schedule,
        cause: ParkingCause::Failed,
        states: states.collect(),
        writes: StateWrites::All,
        superseded: Vec::new(),
        under: None,
    };
    store.park(&[parking]).await.unwrap();
    let filter = DueFilter {
        target: "backend",
        partitions: 1,
        owned: &[0],
        only_tenant: None,
        without_tenants: &[],
        limit: 200,
        blameless_first: false,
    };
    let taken = store.take_due(&filter, false).await.unwrap().remove(0);
    let read = store.parked("backend", std::slice::from_ref(&taken.key), false).await.unwrap().remove(0);
    for user in [&taken, &read] {
        assert_eq!((user.states.len(), user.unread_up_to), (0, 40));
    }
    let mut versions: Vec<i64> = Vec::new();
    for length in [16, 16, 8] {
        let after = versions.last().copied().unwrap_or(0);
        let page = store.parked_states("backend", &taken.key, after, 16).await.unwrap();
        assert_eq!(page.len(), length);
        versions.extend(page.iter().map(|state| state.event.version));
    }
    assert!(versions.into_iter().eq(1..=40));
    let whole = store.parked("backend", std::slice::from_ref(&taken.key), true).await.unwrap().remove(0);
    assert_eq!((whole.states.len(), whole.unread_up_to), (40, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whose_requests_time_out_is_parked_at_once_and_its_neighbours_go_on() {
    let options = Options { partitions: 1, ..patient() }
        .with("targets.backend.timeout", "500ms")
        .with("targets.backend.connect_timeout", "500ms")
        .with("targets.backend.guards_versions", "true");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    let hangs = Fault { for_users: vec!["bad-1".to_owned()], delay_ms: 5_000, ..answers(503, &[]) };
    installation.backend.fault(hangs).await;
    emit(&installation, "bad", 1, "created").await;
    emit(&installation, "good", 30, "created").await;
    let waiting = eventually("it is parked", SOON, async || {
        let waiting = parked(&installation, "backend").await;
        (!waiting.is_empty()).then_some(waiting)
    })
    .await;
    assert_eq!(waiting, [("bad-1".to_owned(), 1, "created".to_owned(), 1, "unknown".to_owned())]);
    until_queues_are_empty(&installation, "backend").await;
    assert_eq!(installation.oracle().count("s2", Some("applied")).await, 30);
    installation.backend.behave().await;
    retry_now(&installation).await;
    installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_users_are_tried_by_whoever_has_their_partition_after_a_crash() {
    let installation = Installation::start(patient()).await;
    let _relay = installation.relay();
    let mut worker = installation.worker(&[]);
    let down = Fault { times: Some(20), ..answers(500, &[]) };
    installation.backend.fault(down).await;
    // Too few to be taken for a failing target.
    emit(&installation, "user", 12, "created").await;
    eventually("they are parked", SOON, async || {
        (parked(&installation, "backend").await.len() == 12).then_some(())
    })
    .await;
    worker.kill_9().await;
    installation.backend.behave().await;
    retry_now(&installation).await;
    let _heir = installation.worker(&[]);
    installation.assert_converged().await;
    assert_eq!(parked(&installation, "backend").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_deploy_that_refuses_everything_leaves_no_dead_letter() {
    for status in [422, 404] {
        let options = Options::default()
            .with("targets.backend.retry.schedule", "[\"100ms\"]")
            .with("targets.backend.breaker.fold_after", "500ms");
        let installation = Installation::start(options).await;
        let _relay = installation.relay();
        let _worker = installation.worker(&[]);
        emit(&installation, "user", 60, "created").await;
        installation.until_settled(&["backend", "crm"]).await;
        installation.backend.fault(answers(status, &[])).await;
        emit(&installation, "user", 60, "updated").await;
        eventually(&format!("the breaker opens at {status}"), SOON, async || {
            let open: i64 =
                sqlx::query_scalar("select count(*) from postbound.breaker where target = 'backend'")
                    .fetch_one(installation.database.superuser())
                    .await
                    .unwrap();
            (open > 0).then_some(())
        })
        .await;
        emit(&installation, "user", 60, "updated").await;
        installation.until_settled(&["crm"]).await;
        until_queues_are_empty(&installation, "backend").await;
        installation.backend.behave().await;
        installation.assert_converged().await;
        assert_eq!(installation.letters("backend").await, [], "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_fails_without_a_hint_is_given_up_after_a_bounded_number_of_attempts() {
    let options = Options::default()
        .with("targets.crm.retry.attempts", "1")
        .with("targets.crm.retry.schedule", "[\"50ms\"]")
        .with("targets.crm.retry.bounded_attempts", "3");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    let body = |user: &str| {
        format!(
            r#"{{"success":true,"message":"","results":[{{"userId":"{user}","status":"failed","error":"no"}}]}}"#
        )
    };
    let headers = [("content-type".to_owned(), "application/json".to_owned())].into();
    let respond = Some(postbound_receiver::FaultAnswer { status: 200, headers, body: body("bad-1") });
    installation.crm.fault(Fault { for_users: vec!["bad-1".to_owned()], respond, ..Fault::default() }).await;
    emit(&installation, "bad", 1, "created").await;
    let letter = eventually("it is given up", SOON, async || {
        emit(&installation, "other", 1, "updated").await;
        installation.letters("crm").await.into_iter().next()
    })
    .await;
    assert_eq!(
        (letter.user_id.as_str(), letter.reason.as_str(), letter.class.as_str()),
        ("bad-1", "result_failed", "transient")
    );
    assert!(letter.attempts >= 3, "{letter:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_fails_past_its_horizon_is_given_up_whatever_the_failure() {
    let options = Options::default()
        .with("targets.backend.retry.attempts", "1")
        .with("targets.backend.retry.schedule", "[\"100ms\"]")
        .with("targets.backend.retry.horizon", "1s");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.backend.fault(refuses("bad-1", 500)).await;
    emit(&installation, "bad", 1, "created").await;
    // A target that took nobody's state meanwhile would be taken for down.
    let letter = eventually("it is given up", SOON, async || {
        emit(&installation, "other", 1, "updated").await;
        installation.letters("backend").await.into_iter().next()
    })
    .await;
    assert_eq!((letter.reason.as_str(), letter.class.as_str()), ("http_500", "transient"));
    assert!(letter.attempts > 1, "{letter:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whose_content_a_firewall_refuses_closes_the_target_to_nobody_for_long() {
    let options = Options::default()
        .with("targets.backend.retry.schedule", "[\"100ms\"]")
        .with("targets.backend.retry.permanent_attempts", "2")
        .with("targets.backend.breaker.pause_min", "100ms");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.backend.fault(refuses("bad-1", 403)).await;
    emit(&installation, "bad", 1, "created").await;
    let letter = eventually("it is the one at fault", SOON, async || {
        emit(&installation, "other", 3, "created").await;
        installation.letters("backend").await.into_iter().next()
    })
    .await;
    assert_eq!((letter.user_id.as_str(), letter.reason.as_str()), ("bad-1", "http_403"));
    installation.until_settled(&["backend", "crm"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_comes_while_a_parked_one_is_tried_again_is_delivered_after_it() {
    let installation = Installation::start(patient()).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    installation.backend.fault(refuses("bad-1", 500)).await;
    emit(&installation, "bad", 1, "created").await;
    eventually("it is parked", SOON, async || {
        (parked(&installation, "backend").await.len() == 1).then_some(())
    })
    .await;
    // The retry succeeds, but takes its time; the newer change is there before it ends.
    let slow =
        Fault { for_users: vec!["bad-1".to_owned()], times: Some(1), delay_ms: 3_000, ..Fault::default() };
    installation.backend.fault(slow).await;
    retry_now(&installation).await;
    eventually("the retry is under way", SOON, async || {
        (installation.backend.fault_hits().await == 1).then_some(())
    })
    .await;
    emit(&installation, "bad", 1, "updated").await;
    installation.assert_converged().await;
    let taken = installation.oracle().taken("s2", "bad-1").await;
    assert_eq!(taken, [(1, "created".to_owned()), (2, "updated".to_owned())]);
    assert_eq!(parked(&installation, "backend").await, []);
}
