//! How fast, how much at once, and when a job holds still.

use super::{
    SOON, by_item, execute, fill_job, items, job_state, number, queued, run_job, seed_states, settle_all,
    start_job, until_items, until_job_is,
};
use postbound_tests::{Installation, Options, eventually};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_job_sends_nothing_more_and_goes_on_where_it_was() {
    let installation = Installation::start(Options::default().partitions(1)).await;
    seed_states(&installation, 400).await;
    let job = start_job(&installation, "backend", "resync", 400, "rate_per_second = 100").await;
    let _relay = installation.relay();
    until_items(&installation, job, "sent", 50).await;
    execute(&installation, &format!("update postbound.job set state = 'paused' where job_id = {job}")).await;
    // Once another job of the target is sent, the relay has looked at its jobs after the pause, and again with the next.
    let after_the_pause = async || {
        let other = start_job(&installation, "backend", "resync", 20, "").await;
        until_items(&installation, other, "sent", 20).await;
        items(&installation, job, "sent").await
    };
    let sent = after_the_pause().await;
    assert!(sent < 250, "{sent} were sent");
    for _ in 0..3 {
        assert_eq!(after_the_pause().await, sent);
    }

    let go_on =
        format!("update postbound.job set state = 'running', rate_per_second = null where job_id = {job}");
    execute(&installation, &go_on).await;
    until_items(&installation, job, "sent", 400).await;
    let mut queued = queued(&installation, "backend").await;
    queued.retain(|event| number(event, "jobid") == job);
    let queued = by_item(&queued);
    assert!(queued.len() == 400 && queued.values().all(|times| *times == 1), "{queued:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_keeps_its_rate_and_never_bursts() {
    let installation = Installation::start(Options::default()).await;
    seed_states(&installation, 250).await;
    let job = start_job(&installation, "backend", "resync", 250, "rate_per_second = 50").await;
    let _relay = installation.relay();
    let mut samples = Vec::new();
    eventually("all are sent", SOON, async || {
        let before = Instant::now();
        let sent = items(&installation, job, "sent").await;
        samples.push((before, Instant::now(), sent));
        (sent == 250).then_some(())
    })
    .await;
    for (index, (before, _, earlier)) in samples.iter().enumerate() {
        for (_, after, later) in &samples[index..] {
            let allowed = 50.0 * (*after - *before).as_secs_f64() + 50.0;
            assert!((later - earlier) as f64 <= allowed, "{} within {:?}", later - earlier, *after - *before);
        }
    }
    let moving: Vec<_> = samples.iter().filter(|(_, _, sent)| (1..250).contains(sent)).collect();
    let took = moving[moving.len() - 1].1 - moving[0].0;
    assert!(took > Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_stops_after_so_many_failures_and_says_so() {
    let installation =
        Installation::start(Options::default().with("relay.job_items_unsettled_max", "10")).await;
    seed_states(&installation, 100).await;
    let job = start_job(&installation, "backend", "resync", 100, "stop_after_failures = 3").await;
    let _relay = installation.relay();
    until_items(&installation, job, "sent", 10).await;
    let fail = format!(
        "update postbound.job_item set state = 'dead', reason = 'http_422', settled_at = now() where job_id = {job} and item"
    );
    execute(&installation, &format!("{fail} <= 2")).await;
    until_items(&installation, job, "sent", 10).await;
    assert_eq!(job_state(&installation, job).await.0, "running");
    execute(&installation, &format!("{fail} = 3")).await;
    until_job_is(&installation, job, "stopped").await;
    let (_, reason, finished) = job_state(&installation, job).await;
    assert_eq!((reason.as_deref(), finished), (Some("3 items failed; it was to stop after 3"), false));
    assert!(items(&installation, job, "waiting").await > 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_items_count_as_failures_where_the_user_is_at_fault_and_not_where_the_target_is() {
    let options = Options::default().with("relay.job_items_unsettled_max", "10");
    let installation = Installation::start(options).await;
    seed_states(&installation, 100).await;
    let job = start_job(&installation, "backend", "resync", 100, "stop_after_failures = 3").await;
    let _relay = installation.relay();
    until_items(&installation, job, "sent", 10).await;
    let park = async |items: &str, class: &str, attempts: i32| {
        let park = format!(
            "insert into postbound.parked_user (target, tenant_id, user_id, key_hash, attempts, next_attempt_at, reason, class)
             select 'backend', tenant_id, user_id, 0, {attempts}, now() + interval '1 hour', 'any', '{class}'
             from postbound.job_item where job_id = {job} and item in ({items});
             insert into postbound.parked_state
                 (target, tenant_id, user_id, version, event_id, log_id, action, logged_at, job_id, job_item, job_repeats, data)
             select 'backend', tenant_id, user_id, version, gen_random_uuid(), 0, 'updated', now(), job_id, item, true, '{{}}'
             from postbound.job_item where job_id = {job} and item in ({items})"
        );
        execute(&installation, &park).await;
    };
    // They make room for others, so that the relay has looked at the job since.
    park("1, 2, 3", "held", 0).await;
    park("4, 5", "transient", 0).await;
    until_items(&installation, job, "sent", 15).await;
    park("6", "transient", 2).await;
    park("7", "permanent", 1).await;
    until_items(&installation, job, "sent", 17).await;
    assert_eq!(job_state(&installation, job).await.0, "running");
    park("8", "unknown", 1).await;
    until_job_is(&installation, job, "stopped").await;
    let (_, reason, _) = job_state(&installation, job).await;
    assert_eq!(reason.as_deref(), Some("3 items failed; it was to stop after 3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_reaches_its_failure_limit_with_its_last_item_is_done() {
    let installation = Installation::start(Options::default()).await;
    seed_states(&installation, 3).await;
    let job = start_job(&installation, "backend", "resync", 3, "stop_after_failures = 2").await;
    let _relay = installation.relay();
    until_items(&installation, job, "sent", 3).await;
    let fail = format!(
        "update postbound.job_item set state = 'dead', reason = 'http_422', settled_at = now() where job_id = {job}"
    );
    execute(&installation, &fail).await;
    until_job_is(&installation, job, "done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_items_are_under_way_than_allowed_and_parked_users_hold_up_nobody() {
    let installation =
        Installation::start(Options::default().with("relay.job_items_unsettled_max", "50")).await;
    seed_states(&installation, 200).await;
    let job = start_job(&installation, "backend", "resync", 200, "").await;
    let relay = installation.relay();
    until_items(&installation, job, "sent", 50).await;
    let full = |readiness: &postbound_tests::Readiness| {
        readiness.reason("relay.jobs.backend").contains("50 items of jobs are not settled yet")
    };
    let readiness = relay.until_ready("it says what it waits for", full).await;
    assert_eq!((readiness.status, readiness.state("relay.jobs.backend")), (200, "standby"));
    assert_eq!(items(&installation, job, "sent").await, 50);

    settle_all(&installation, job).await;
    until_items(&installation, job, "sent", 50).await;
    let park = format!(
        "insert into postbound.parked_state
             (target, tenant_id, user_id, version, event_id, log_id, action, logged_at, job_id, job_item, job_repeats, data)
         select 'backend', tenant_id, user_id, version, gen_random_uuid(), 0, 'updated', now(), job_id, item, true, '{{}}'
         from postbound.job_item where job_id = {job} and state = 'sent'"
    );
    execute(&installation, &park).await;
    until_items(&installation, job, "sent", 100).await;
    relay.until_ready("it is full again", full).await;
    assert_eq!(items(&installation, job, "waiting").await, 50);

    // While the target is down as a whole, parked users are no exceptions: all would end up so.
    execute(
        &installation,
        "insert into postbound.breaker (target, cause, reason, retry_at) values ('backend', 'whole_target', 'http_503', now())",
    )
    .await;
    settle_some(&installation, job, 20).await;
    let more = |readiness: &postbound_tests::Readiness| {
        readiness.reason("relay.jobs.backend").contains("80 items of jobs are not settled yet")
    };
    relay.until_ready("the parked count", more).await;
    assert_eq!(items(&installation, job, "waiting").await, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_one_target_does_not_hold_up_another_s() {
    let installation = Installation::start(Options::default()).await;
    seed_states(&installation, 100).await;
    let queue = "postbound.crm.g1.p001.backfill";
    installation.vhost.delete_queue(queue).await;
    let stuck = start_job(&installation, "crm", "resync", 100, "").await;
    let free = start_job(&installation, "backend", "resync", 100, "").await;
    let relay = installation.relay();
    until_items(&installation, free, "sent", 100).await;
    let missing =
        |readiness: &postbound_tests::Readiness| readiness.reason("relay.jobs.crm").contains("is missing");
    let readiness = relay.until_ready("it says which queue is missing", missing).await;
    let reason = readiness.reason("relay.jobs.crm");
    assert!(reason.contains(queue) && reason.contains("postbound topology apply"), "{reason}");
    assert_eq!((readiness.status, readiness.state("relay.crm")), (503, "ready"));

    installation.apply_topology().await;
    until_items(&installation, stuck, "sent", 100).await;
    let queued = by_item(&queued(&installation, "crm").await);
    assert!(queued.len() == 100 && queued.values().all(|times| *times == 1), "{queued:?}");
    relay.until_ready("it is ready again", |readiness| readiness.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_items_are_all_under_way_does_not_hold_up_the_next() {
    let installation = Installation::start(Options::default()).await;
    seed_states(&installation, 20).await;
    let first = start_job(&installation, "backend", "resync", 20, "").await;
    let slow = start_job(&installation, "backend", "resync", 20, "rate_per_second = 0.01").await;
    let last = start_job(&installation, "backend", "resync", 20, "").await;
    let _relay = installation.relay();
    until_items(&installation, last, "sent", 20).await;
    assert_eq!(items(&installation, first, "sent").await, 20);
    assert_eq!(items(&installation, slow, "waiting").await, 19);
    settle_all(&installation, last).await;
    until_job_is(&installation, last, "done").await;
    assert_eq!(job_state(&installation, first).await.0, "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_were_lost_with_their_queue_are_sent_again_and_parked_ones_are_not() {
    let installation =
        Installation::start(Options::default().partitions(1).with("relay.job_lost_after", "2s")).await;
    seed_states(&installation, 20).await;
    let job = start_job(&installation, "backend", "resync", 20, "").await;
    let _relay = installation.relay();
    until_items(&installation, job, "sent", 20).await;
    // Nothing is lost while it is in the queue, however long: here until another target's items, which were sent later,
    // have been missed twice.
    let other = start_job(&installation, "crm", "resync", 20, "").await;
    until_items(&installation, other, "sent", 20).await;
    for _ in 0..2 {
        installation.vhost.delete_queue("postbound.crm.g1.p000.backfill").await;
        installation.apply_topology().await;
        eventually("the other target's are sent again", SOON, async || {
            (queued(&installation, "crm").await.len() == 20).then_some(())
        })
        .await;
    }
    assert_eq!(queued(&installation, "backend").await.len(), 20);
    execute(
        &installation,
        &format!(
            "insert into postbound.parked_state
                 (target, tenant_id, user_id, version, event_id, log_id, action, logged_at, job_id, job_item, job_repeats, data)
             values ('backend', 't0', 'user-7', 3, gen_random_uuid(), 0, 'updated', now(), {job}, 7, true, '{{}}');
             update postbound.job_item set state = 'delivered', settled_at = now() where job_id = {job} and item = 1"
        ),
    )
    .await;
    installation.vhost.delete_queue("postbound.backend.g1.p000.backfill").await;
    installation.apply_topology().await;
    let again = eventually("they are sent again", SOON, async || {
        Some(by_item(&queued(&installation, "backend").await)).filter(|items| !items.is_empty())
    })
    .await;
    assert!(again.len() == 18 && !again.contains_key(&1) && !again.contains_key(&7), "{again:?}");
    assert_eq!(items(&installation, job, "delivered").await, 1);
    until_items(&installation, job, "sent", 19).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_were_lost_are_sent_again_while_another_tenant_is_paused() {
    let installation =
        Installation::start(Options::default().partitions(1).with("relay.job_lost_after", "1s")).await;
    seed_states(&installation, 20).await;
    let job = fill_job(&installation, "backend", "resync").await;
    execute(
        &installation,
        &format!(
            "update postbound.user_state set tenant_id = 't1' where substr(user_id, 6)::integer > 10;
             insert into postbound.job_item (job_id, item, tenant_id, user_id)
             select {job}, substr(user_id, 6)::integer, tenant_id, user_id from postbound.user_state;
             insert into postbound.breaker (target, tenant_id, cause, reason, paused_by, pause_reason)
             values ('backend', 't1', 'operator', 'paused', 'ada', 'for a week')"
        ),
    )
    .await;
    run_job(&installation, job, "").await;
    let _relay = installation.relay();
    until_items(&installation, job, "sent", 20).await;
    installation.vhost.delete_queue("postbound.backend.g1.p000.backfill").await;
    installation.apply_topology().await;
    let again = eventually("those of the other tenant are sent again", SOON, async || {
        Some(by_item(&queued(&installation, "backend").await)).filter(|items| !items.is_empty())
    })
    .await;
    assert_eq!(again.into_keys().collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    until_items(&installation, job, "sent", 20).await;
}

async fn settle_some(installation: &Installation, job: i64, count: i64) {
    let settle = format!(
        "update postbound.job_item set state = 'delivered', settled_at = now() where job_id = {job} and item in (
             select item from postbound.job_item where job_id = {job} and state = 'sent' order by item desc limit {count})"
    );
    execute(installation, &settle).await;
}
