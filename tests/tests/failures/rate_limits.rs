//! A target's rate limit, shared by all workers.

use crate::delivery::emit;
use postbound_store::{RateSpan, Store};
use postbound_tests::{Installation, Options, Role, TestDatabase};
use std::time::Duration;

const CRM: RateSpan = RateSpan { requests: 100, per: Duration::from_secs(900) };

/// Takes until there is no more; gives how many it got and how long the next would have to wait.
async fn take_all(store: &Store, target: &str, ceiling: u32) -> (u32, Duration) {
    let mut taken = 0;
    loop {
        let grant = store.take_rate(target, CRM, 5, ceiling).await.unwrap().grant;
        if grant.granted == 0 {
            return (taken, grant.retry_in);
        }
        taken += grant.granted;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_take_at_the_same_time_get_the_limit_together_and_no_request_more() {
    let database = TestDatabase::new().await;
    let (one, other) = (database.store(Role::Worker), database.store(Role::Worker));
    let lines = tokio::join!(
        take_all(&one, "crm", 100),
        take_all(&one, "crm", 100),
        take_all(&other, "crm", 100),
        take_all(&other, "crm", 100),
    );
    let lines = [lines.0, lines.1, lines.2, lines.3];
    assert_eq!(lines.iter().map(|(taken, _)| taken).sum::<u32>(), 100);
    for (_, retry_in) in lines {
        assert!(
            retry_in > Duration::from_secs(900),
            "{retry_in:?}: not before the first have left the window"
        );
    }
    assert_eq!(take_all(&one, "backend", 100).await.0, 100, "another target has its own");
}

#[tokio::test]
async fn backfill_stops_at_its_share_whoever_used_it() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    assert_eq!(store.take_rate("crm", CRM, 30, 100).await.unwrap().grant.granted, 30);
    assert_eq!(take_all(&store, "crm", 50).await.0, 20);
    assert_eq!(take_all(&store, "crm", 100).await.0, 50);
}

#[tokio::test]
async fn a_limit_that_is_lowered_counts_what_was_granted_under_the_old_one() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    assert_eq!(store.take_rate("crm", CRM, 30, 100).await.unwrap().grant.granted, 30);
    let lower = RateSpan { requests: 40, per: Duration::from_secs(60) };
    assert_eq!(store.take_rate("crm", lower, 30, 40).await.unwrap().grant.granted, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_never_sees_more_requests_than_it_allows_however_many_workers_there_are() {
    let limit = Options::default()
        .with("targets.backend.rate_limit.requests", "20")
        .with("targets.backend.rate_limit.per", "2s");
    let installation = Installation::start(limit).await;
    let (_relay, _workers) =
        (installation.relay(), [installation.worker(&["backend"]), installation.worker(&["backend"])]);
    emit(&installation, "user", 80, "created").await;
    installation.until_settled(&["backend"]).await;
    // A request may take a while to arrive, so a span that is a little shorter is looked at.
    let most: i64 = sqlx::query_scalar(
        "select max(n) from (
            select count(*) over (order by received_at range between current row and interval '1.5 s' following) as n
            from receiver.request_log where contract = 's2') as span",
    )
    .fetch_one(installation.database.superuser())
    .await
    .unwrap();
    assert!(most <= 20, "{most} requests in 1.5 s");
}
