//! What goes out for an item, in which order, and that a crash changes nothing.

use super::super::delivery::emit;
use super::{
    SOON, by_item, execute, fill_job, items, job_state, number, queued, run_job, seed_states, settle_all,
    start_job, until_items, until_job_is,
};
use nix::sys::signal::Signal;
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, Process, eventually};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_are_sent_in_order_with_the_newest_state_and_the_job_ends_when_they_are_settled() {
    let installation = Installation::start(Options::default().partitions(1)).await;
    seed_states(&installation, 1200).await;
    let job = start_job(&installation, "backend", "resync", 1200, "").await;
    let _relay = installation.relay();
    until_items(&installation, job, "sent", 1200).await;

    let events = queued(&installation, "backend").await;
    let order: Vec<_> = events.iter().map(|event| number(event, "jobitem")).collect();
    assert_eq!(order, (1..=1200).collect::<Vec<_>>());
    let first = &events[0];
    assert_eq!((number(first, "jobid"), number(first, "userversion"), number(first, "logid")), (job, 3, 0));
    assert_eq!((&first["jobrepeats"], &first["type"]), (&json!(true), &json!("user.updated")));
    assert_eq!(first["data"]["email"], "user-1@example.com");
    assert!(first["resend"].as_u64().is_some_and(|resend| resend > 0), "{first}");
    let versions: Vec<Option<i64>> = sqlx::query_scalar("select distinct version from postbound.job_item")
        .fetch_all(installation.database.superuser())
        .await
        .unwrap();
    assert_eq!(versions, [Some(3)]);

    assert_eq!(job_state(&installation, job).await, ("running".to_owned(), None, false));
    settle_all(&installation, job).await;
    until_job_is(&installation, job, "done").await;
    assert!(job_state(&installation, job).await.2);
    assert!(installation.vhost.peek(&installation.http, "postbound.backend.g1.p000").await.is_empty());
}

/// Interrupts the active relay in the middle of a job; another one goes on.
async fn check(interrupt: impl AsyncFnOnce(&mut Process), resume: impl FnOnce(&Process)) {
    let options = Options::default()
        .partitions(1)
        .with("relay.message_events_max", "5")
        .with("relay.job_items_unsettled_max", "100000");
    let installation = Installation::start(options).await;
    seed_states(&installation, 4000).await;
    let job = start_job(&installation, "crm", "reconcile", 4000, "").await;
    let mut relay = installation.relay();
    until_items(&installation, job, "sent", 500).await;
    interrupt(&mut relay).await;
    let left = items(&installation, job, "waiting").await;
    assert!(left > 0, "it was interrupted too late");

    let _other = installation.relay();
    until_items(&installation, job, "sent", 4000 - left + 500).await;
    resume(&relay);
    until_items(&installation, job, "sent", 4000).await;
    let queued = by_item(&queued(&installation, "crm").await);
    assert_eq!(queued.keys().copied().collect::<Vec<_>>(), (1..=4000).collect::<Vec<_>>());
    let repeated = queued.values().filter(|times| **times > 1).count();
    assert!(repeated <= 500, "{repeated} items are in the queue twice");
    assert!(queued.values().all(|times| *times <= 2));
    settle_all(&installation, job).await;
    until_job_is(&installation, job, "done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_killed_in_the_middle_of_a_job_loses_no_item_and_repeats_a_page_at_most() {
    check(async |relay| relay.kill_9().await, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_comes_back_from_a_freeze_in_the_middle_of_a_job_changes_nothing() {
    check(async |relay| relay.signal(Signal::SIGSTOP), |relay| relay.signal(Signal::SIGCONT)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_is_looked_at_when_it_is_sent_and_settled_with_the_reason_where_nothing_is_to_be_sent() {
    let installation =
        Installation::start(Options::default().with("targets.crm.actions", "created,deleted")).await;
    seed_states(&installation, 6).await;
    execute(
        &installation,
        "update postbound.user_state set action = 'created' where user_id in ('user-1', 'user-2', 'user-4', 'user-6');
         update postbound.user_state set action = 'deleted', data = '{\"email\": \"kept@example.com\"}' where user_id = 'user-5';
         update postbound.user_state set targets = array['backend'] where user_id = 'user-2';
         insert into postbound.erased_user (tenant_id, user_id, version) values ('t0', 'user-4', 3), ('t0', 'user-5', 3),
             ('t0', 'user-6', 2)",
    )
    .await;
    let job = start_job(&installation, "crm", "resync", 7, "").await;
    let _relay = installation.relay();
    until_items(&installation, job, "sent", 3).await;
    assert_eq!(
        outcomes(&installation, job).await,
        [
            (1, "sent", None),
            (2, "skipped", Some("not_wanted")),
            (3, "skipped", Some("not_wanted")),
            (4, "skipped", Some("erased")),
            (5, "sent", None),
            (6, "sent", None),
            (7, "skipped", Some("no_state")),
        ]
        .map(|(item, state, reason)| (item, state.to_owned(), reason.map(str::to_owned)))
    );
    let events = queued(&installation, "crm").await;
    let of_erased = events.iter().find(|event| event["subject"] == "user-5").unwrap();
    assert_eq!((&of_erased["type"], &of_erased["data"]), (&json!("user.deleted"), &json!({})));
}

async fn outcomes(installation: &Installation, job: i64) -> Vec<(i64, String, Option<String>)> {
    sqlx::query_as("select item, state, reason from postbound.job_item where job_id = $1 order by item")
        .bind(job)
        .fetch_all(installation.database.superuser())
        .await
        .unwrap()
}

/// Replays all letters, of which two are open and readable; gives the two events that are queued for them.
async fn replay_five_letters(installation: &Installation, terms: &str) -> Vec<Value> {
    let job = fill_job(installation, "backend", "replay").await;
    execute(
        installation,
        &format!(
            "insert into postbound.job_item (job_id, item, tenant_id, user_id, letter_id)
             select {job}, letter_id, coalesce(tenant_id, ''), coalesce(user_id, ''), letter_id from postbound.dead_letter"
        ),
    )
    .await;
    run_job(installation, job, terms).await;
    until_items(installation, job, "sent", 2).await;
    assert_eq!(
        outcomes(installation, job).await,
        [
            (1, "sent", None),
            (2, "sent", None),
            (3, "superseded", Some("letter_closed")),
            (4, "superseded", Some("letter_closed")),
            (5, "skipped", Some("unreadable")),
        ]
        .map(|(item, state, reason)| (item, state.to_owned(), reason.map(str::to_owned)))
    );
    eventually("both are queued", SOON, async || {
        let events = queued(installation, "backend").await;
        Some(events.into_iter().filter(|event| number(event, "jobid") == job).collect::<Vec<_>>())
            .filter(|events| events.len() == 2)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_sends_the_letter_that_is_still_open_or_the_newer_state_where_that_was_asked_for() {
    let installation = Installation::start(Options::default()).await;
    seed_states(&installation, 3).await;
    // user-1: behind its state; user-2: ahead of the projection; user-3: overtaken; user-4: discarded; then one nobody
    // can read.
    execute(
        &installation,
        "insert into postbound.dead_letter (target, resend, event_id, log_id, tenant_id, user_id, version, action, logged_at,
             data, reason, class, unknown_outcome, last_failed_at, discarded_at, discarded_by)
         select 'backend', 2, gen_random_uuid(), 70 + n, 't0', 'user-' || n, case n when 2 then 4 else 2 end, 'updated', now(),
                '{\"name\": \"letter\"}', 'http_422', 'permanent', n = 2, now(),
                case n when 4 then now() end, case n when 4 then 'someone' end
         from generate_series(1, 4) as n;
         insert into postbound.dead_letter (target, unreadable, reason, class, last_failed_at)
         values ('backend', 'x', 'unreadable', 'unreadable', now());
         insert into postbound.delivery_ledger (target, tenant_id, user_id, delivered_version) values ('backend', 't0', 'user-3', 3)",
    )
    .await;
    let mut sent = Vec::new();
    let _relay = installation.relay();
    for (use_current, new_key) in [(false, false), (true, true)] {
        let terms = format!("use_current = {use_current}, new_key = {new_key}");
        for event in replay_five_letters(&installation, &terms).await {
            let resend = event["resend"].as_u64().unwrap_or(0);
            assert!(event.get("jobrepeats").is_none(), "{event}");
            let subject = event["subject"].as_str().unwrap().to_owned();
            sent.push((use_current, subject, number(&event, "userversion"), number(&event, "logid"), resend));
        }
    }
    sent.sort();
    let expected = [
        (false, "user-1", 2, 71, 3),
        // Nobody knows how its last attempt ended, so it keeps that one's key.
        (false, "user-2", 4, 72, 2),
        (true, "user-1", 3, 0, 3),
        (true, "user-2", 4, 72, 3),
    ];
    assert_eq!(
        sent,
        expected.map(|(current, user, version, log, resend)| (
            current,
            user.to_owned(),
            version,
            log,
            resend
        ))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_gets_every_event_gets_letters_and_imported_states_and_no_newest_one() {
    let installation = Installation::start(Options::every_event()).await;
    seed_states(&installation, 3).await;
    execute(
        &installation,
        "update postbound.user_state set version = 1, action = 'created' where user_id = 'user-1';
         insert into postbound.dead_letter (target, event_id, log_id, tenant_id, user_id, version, action, logged_at, data,
             reason, class, last_failed_at)
         values ('backend', gen_random_uuid(), 71, 't0', 'user-3', 2, 'updated', now(), '{}', 'http_422', 'permanent', now())",
    )
    .await;
    let import = start_job(&installation, "backend", "import", 2, "").await;
    let resync = start_job(&installation, "backend", "resync", 2, "").await;
    let replay = fill_job(&installation, "backend", "replay").await;
    execute(
        &installation,
        &format!("insert into postbound.job_item (job_id, item, tenant_id, user_id, letter_id) values ({replay}, 1, 't0', 'user-3', 1)"),
    )
    .await;
    run_job(&installation, replay, "use_current = true").await;
    let _relay = installation.relay();
    until_items(&installation, replay, "sent", 1).await;
    until_job_is(&installation, resync, "done").await;
    assert_eq!(items(&installation, resync, "skipped").await, 2);
    until_items(&installation, import, "sent", 1).await;
    assert_eq!(items(&installation, import, "skipped").await, 1, "its events since are on their way");
    let mut sent: Vec<_> = queued(&installation, "backend").await;
    sent.sort_by_key(|event| number(event, "jobid"));
    let sent: Vec<_> = sent
        .iter()
        .map(|event| {
            (number(event, "jobid"), event["subject"].as_str().unwrap(), number(event, "userversion"))
        })
        .collect();
    assert_eq!(sent, [(import, "user-1", 1), (replay, "user-3", 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_jobs_that_wait_for_room_hold_up_no_live_change() {
    let options = Options::default()
        .partitions(2)
        .with("targets.backend.in_flight_bytes_max", "4KiB")
        .with("targets.backend.timeout", "20s")
        .with("worker.lease", "30s");
    let installation = Installation::start(options).await;
    seed_states(&installation, 20).await;
    let for_users = (1..=20).map(|number| format!("user-{number}")).collect();
    installation.backend.fault(Fault { for_users, delay_ms: 60_000, ..Fault::default() }).await;
    let _relay = installation.relay();
    let worker = installation.worker(&["backend"]);
    worker
        .until_ready("it has both partitions", |readiness| readiness.state("worker.backend") == "ready")
        .await;

    // Each partition's message takes all the room there is for jobs: one is under way, the other was received.
    let job = start_job(&installation, "backend", "resync", 20, "").await;
    until_items(&installation, job, "sent", 20).await;
    eventually("the job's requests are under way", SOON, async || {
        (worker.metric("postbound_in_flight", &[r#"target="backend""#]).await > 0.0).then_some(())
    })
    .await;
    emit(&installation, "live", 20, "created").await;
    eventually("live changes are delivered", SOON, async || {
        (installation.oracle().count("s2", Some("applied")).await == 20).then_some(())
    })
    .await;
    assert_eq!(
        worker.metric("postbound_retries_total", &[r#"target="backend""#]).await,
        0.0,
        "the job went on"
    );
    assert_eq!(items(&installation, job, "sent").await, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_does_not_wait_for_the_turn_of_its_own_users_item() {
    for target in ["backend", "crm"] {
        check_own_item(target).await;
    }
}

/// One request takes the one place for jobs' requests and hangs; the other users' items wait for theirs.
async fn check_own_item(target: &str) {
    let options = Options::default()
        .partitions(1)
        .with(&format!("targets.{target}.concurrency"), "2")
        .with(&format!("targets.{target}.timeout"), "20s")
        .with("targets.crm.batch_users_max", "1")
        .with("worker.lease", "30s");
    let installation = Installation::start(options).await;
    seed_states(&installation, 20).await;
    let heads = "insert into postbound.user_head (tenant_id, user_id, version, deleted)
                 select tenant_id, user_id, version, false from postbound.user_state";
    execute(&installation, heads).await;
    let receiver = if target == "crm" { &installation.crm } else { &installation.backend };
    receiver.fault(Fault { delay_ms: 60_000, times: Some(1), ..Fault::default() }).await;
    let _relay = installation.relay();
    let worker = installation.worker(&[target]);
    let job = start_job(&installation, target, "resync", 20, "").await;
    until_items(&installation, job, "sent", 20).await;
    eventually("a request of the job hangs", SOON, async || (receiver.fault_hits().await == 1).then_some(()))
        .await;

    emit(&installation, "user", 20, "updated").await;
    eventually("all other users' changes are delivered", SOON, async || {
        let delivered: i64 = sqlx::query_scalar(
            "select count(*) from postbound.delivery_ledger where target = $1 and delivered_version = 4",
        )
        .bind(target)
        .fetch_one(installation.database.superuser())
        .await
        .unwrap();
        (delivered == 19).then_some(())
    })
    .await;
    let retries = worker.metric("postbound_retries_total", &[&format!(r#"target="{target}""#)]).await;
    assert_eq!(retries, 0.0, "{target}: the request that hangs has ended");
}
