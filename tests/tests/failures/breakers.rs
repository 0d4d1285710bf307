//! The breakers' table, as several workers and an operator use it at the same time.

use crate::delivery::emit;
use postbound_store::{
    BreakerCause, BreakerOpened, BreakerOpening, BreakerRow, Operation, ProbePauses, Resumed, Store,
};
use postbound_tests::{Installation, Options, Role, TestDatabase, eventually};
use serde_json::json;
use sqlx::PgPool;
use std::time::Duration;

const TARGET: &str = "backend";
const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSES: ProbePauses = ProbePauses { wish: None, min: SECOND, max: Duration::from_secs(4) };

/// A failure of the whole target that asks for no pause, and gets none: its probe is due at once.
fn failure() -> BreakerOpening<'static> {
    BreakerOpening {
        target: TARGET,
        tenant: None,
        cause: BreakerCause::WholeTarget,
        reason: "connection_refused",
        status: None,
        detail: "",
        wish: None,
        pause: Duration::ZERO,
        refund: None,
    }
}

fn operation() -> Operation {
    Operation { command: "targets pause", acting_as: Some("ada".to_owned()), filter: json!({}) }
}

fn wishes(seconds: u64) -> BreakerOpening<'static> {
    BreakerOpening { wish: Some(Duration::from_secs(seconds)), ..failure() }
}

async fn only_row(store: &Store) -> BreakerRow {
    let mut rows = store.breakers().await.unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

/// The next probe's wait, in the seconds it was set to.
async fn wait_seconds(store: &Store) -> f64 {
    only_row(store).await.retry_in.unwrap().as_secs_f64().ceil()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_all_workers_one_sends_the_probe() {
    let database = TestDatabase::new().await;
    let workers = [database.store(Role::Worker), database.store(Role::Worker)];
    let failure = failure();
    let opened = tokio::join!(workers[0].open_breaker(&failure), workers[1].open_breaker(&failure));
    let opened = [opened.0.unwrap(), opened.1.unwrap()];
    assert!(opened.contains(&BreakerOpened::Already), "{opened:?}");
    assert!(opened.contains(&BreakerOpened::Opened { refunded: 0 }), "{opened:?}");

    let claims = (0..8).map(|n| workers[n % 2].claim_probe(TARGET, None, PATIENCE));
    let claims: Vec<_> = futures_util::future::join_all(claims).await;
    let claims: Vec<_> = claims.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(claims.len(), 1);
    assert!(only_row(&workers[0]).await.probe_for.is_some());

    workers[0].release_probe(TARGET, None, claims[0]).await.unwrap();
    let again = workers[1].claim_probe(TARGET, None, PATIENCE).await.unwrap().unwrap();
    assert!(!workers[0].close_breaker(TARGET, None, claims[0]).await.unwrap(), "that claim has run out");
    assert!(workers[1].close_breaker(TARGET, None, again).await.unwrap());
    assert_eq!(workers[0].breakers().await.unwrap(), []);
}

#[tokio::test]
async fn a_probe_that_never_comes_back_is_made_by_another_worker() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    store.open_breaker(&failure()).await.unwrap();
    let lost = store.claim_probe(TARGET, None, Duration::from_millis(50)).await.unwrap().unwrap();
    let claim = async || store.claim_probe(TARGET, None, PATIENCE).await.unwrap();
    eventually("it may be claimed again", PATIENCE, claim).await;
    assert_eq!(store.fail_probe(TARGET, None, lost, PAUSES).await.unwrap(), None);
    assert!(only_row(&store).await.probe_for.is_some(), "who comes back late changes nothing");
}

#[tokio::test]
async fn pauses_double_to_the_longest_and_a_wish_is_kept_exactly() {
    let database = TestDatabase::new().await;
    let (store, superuser) = (database.store(Role::Worker), database.superuser());
    store.open_breaker(&failure()).await.unwrap();
    let mut waits = Vec::new();
    for wish in [None, None, None, None, Some(600), None] {
        sqlx::query("update postbound.breaker set retry_at = clock_timestamp()")
            .execute(superuser)
            .await
            .unwrap();
        let claim = store.claim_probe(TARGET, None, PATIENCE).await.unwrap().unwrap();
        let pauses = ProbePauses { wish: wish.map(Duration::from_secs), ..PAUSES };
        let wait = store.fail_probe(TARGET, None, claim, pauses).await.unwrap().unwrap();
        assert!(store.claim_probe(TARGET, None, PATIENCE).await.unwrap().is_none(), "not before its time");
        waits.push(wait.as_secs_f64().ceil());
    }
    assert_eq!(waits, [1.0, 2.0, 4.0, 4.0, 600.0, 4.0]);
}

#[tokio::test]
async fn a_longer_wish_prolongs_and_a_shorter_one_does_not_shorten() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    let check = async |seconds, came, wait| {
        assert_eq!(store.open_breaker(&wishes(seconds)).await.unwrap(), came);
        assert_eq!(wait_seconds(&store).await, wait);
    };
    check(300, BreakerOpened::Opened { refunded: 0 }, 300.0).await;
    check(10, BreakerOpened::Already, 300.0).await;
    check(900, BreakerOpened::Prolonged, 900.0).await;
    assert_eq!(store.open_breaker(&failure()).await.unwrap(), BreakerOpened::Already);
}

/// A user who failed so many seconds ago, in each of these attempts.
async fn park(superuser: &PgPool, tenant: &str, user: &str, class: &str, failed_s_ago: &[i32]) {
    sqlx::query(
        "insert into postbound.parked_user (target, tenant_id, user_id, key_hash, attempts, repeats, next_attempt_at,
                first_failed_at, last_failed_at, recent_failures, reason, class)
         select $1, $2, $3, 0, cardinality(ats), cardinality(ats), now() + interval '1 hour', ats[1], ats[cardinality(ats)],
                ats, 'http_422', $4
         from (select array_agg(now() - s * interval '1 second' order by s desc) as ats from unnest($5::integer[]) as s) as f",
    )
    .bind(TARGET)
    .bind(tenant)
    .bind(user)
    .bind(class)
    .bind(failed_s_ago)
    .execute(superuser)
    .await
    .unwrap();
}

#[tokio::test]
async fn users_whose_failures_opened_it_get_those_attempts_back_and_nobody_else() {
    let database = TestDatabase::new().await;
    let (store, superuser) = (database.store(Role::Worker), database.superuser());
    park(superuser, "acme", "failed", "permanent", &[3600, 60, 1]).await;
    park(superuser, "acme", "failed-at-once", "transient", &[4, 3, 1]).await;
    park(superuser, "acme", "failed-long-ago", "permanent", &[80, 70, 60]).await;
    park(superuser, "acme", "held", "held", &[4, 3, 1]).await;
    park(superuser, "other", "failed", "permanent", &[4, 3, 1]).await;
    let opening = BreakerOpening {
        tenant: Some("acme"),
        cause: BreakerCause::FailingShare,
        refund: Some(Duration::from_secs(10)),
        ..failure()
    };
    assert_eq!(store.open_breaker(&opening).await.unwrap(), BreakerOpened::Opened { refunded: 2 });
    assert_eq!(store.open_breaker(&opening).await.unwrap(), BreakerOpened::Already);
    type Row = (String, String, i32, i32, bool, bool);
    let rows: Vec<Row> = sqlx::query_as(
        "select tenant_id, user_id, attempts, repeats, first_failed_at is not null, next_attempt_at <= now()
         from postbound.parked_user order by 1, 2",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    let rows: Vec<_> =
        rows.iter().map(|(t, u, a, r, f, due)| (t.as_str(), u.as_str(), *a, *r, *f, *due)).collect();
    let expected = [
        ("acme", "failed", 2, 2, true, true),
        ("acme", "failed-at-once", 0, 0, false, true),
        ("acme", "failed-long-ago", 3, 3, true, false),
        ("acme", "held", 3, 3, true, false),
        ("other", "failed", 3, 3, true, false),
    ];
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn an_operators_pause_is_probed_by_nobody_and_outlasts_the_failure_and_the_failure_the_pause() {
    let database = TestDatabase::new().await;
    let (worker, operator) = (database.store(Role::Worker), database.store(Role::Operator));
    operator.pause_target(TARGET, None, "ada", "drill", &operation()).await.unwrap();
    assert!(worker.claim_probe(TARGET, None, PATIENCE).await.unwrap().is_none());
    let row = only_row(&worker).await;
    assert_eq!(
        (row.cause, row.retry_in, row.paused_by.as_deref()),
        (BreakerCause::Operator, None, Some("ada"))
    );

    // It fails while it is paused.
    worker.open_breaker(&wishes(300)).await.unwrap();
    assert_eq!(operator.resume_target(TARGET, None, &operation()).await.unwrap(), Resumed::StillOpen);
    let row = only_row(&worker).await;
    assert_eq!((row.cause, row.paused_by), (BreakerCause::WholeTarget, None));
    assert_eq!(wait_seconds(&worker).await, 300.0);
    assert_eq!(operator.resume_target(TARGET, None, &operation()).await.unwrap(), Resumed::NotPaused);

    // It is paused while a probe is out.
    sqlx::query("update postbound.breaker set retry_at = clock_timestamp()")
        .execute(database.superuser())
        .await
        .unwrap();
    let claim = worker.claim_probe(TARGET, None, PATIENCE).await.unwrap().unwrap();
    operator.pause_target(TARGET, None, "grace", "maintenance", &operation()).await.unwrap();
    assert!(worker.close_breaker(TARGET, None, claim).await.unwrap());
    let row = only_row(&worker).await;
    assert_eq!(
        (row.cause, row.reason.as_str(), row.paused_by.as_deref()),
        (BreakerCause::Operator, "paused", Some("grace"))
    );
    assert_eq!(operator.resume_target(TARGET, None, &operation()).await.unwrap(), Resumed::Closed);
    assert_eq!(worker.breakers().await.unwrap(), []);
}

#[tokio::test]
async fn the_time_a_tenant_could_not_be_sent_to_is_counted_once() {
    let database = TestDatabase::new().await;
    let (store, superuser) = (database.store(Role::Worker), database.superuser());
    let now: time::OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(superuser).await.unwrap();
    let ago = |seconds: i64| now - time::Duration::seconds(seconds);
    for (target, tenant, opened, closed) in [
        (TARGET, "", 1000, 900),
        (TARGET, "acme", 950, 850),
        (TARGET, "acme", 600, 500),
        (TARGET, "other", 800, 700),
        ("crm", "", 1000, 0),
    ] {
        sqlx::query("insert into postbound.outage values ($1, $2, $3, $4, 'whole_target', 'dns')")
            .bind(target)
            .bind(tenant)
            .bind(ago(opened))
            .bind(ago(closed))
            .execute(superuser)
            .await
            .unwrap();
    }
    sqlx::query(
        "insert into postbound.breaker (target, opened_at, cause, reason, retry_at) values ($1, $2, 'whole_target', 'dns', now())",
    )
    .bind(TARGET)
    .bind(ago(100))
    .execute(superuser)
    .await
    .unwrap();
    let check = async |from, to, expected: i64| {
        let outage = store.outage_ms(TARGET, "acme", ago(from), ago(to)).await.unwrap();
        assert_eq!(outage, expected * 1000, "from {from} to {to} s ago");
    };
    check(2000, 0, 150 + 100 + 100).await;
    check(975, 875, 100).await;
    check(840, 700, 0).await;
    check(550, 50, 50 + 50).await;
    check(0, 10, 0).await;
}

#[tokio::test]
async fn every_change_is_announced_and_a_listener_that_is_cut_off_says_so() {
    let database = TestDatabase::new().await;
    let (worker, operator) = (database.store(Role::Worker), database.store(Role::Operator));
    let mut listener = worker.listen_to_breakers().await.unwrap();
    let mut heard = async |what: &str| {
        let changed = tokio::time::timeout(PATIENCE, listener.changed()).await;
        changed.unwrap_or_else(|_| panic!("not announced: {what}")).unwrap();
    };
    operator.pause_target(TARGET, None, "ada", "drill", &operation()).await.unwrap();
    heard("a pause").await;
    worker.open_breaker(&failure()).await.unwrap();
    heard("an opening").await;
    operator.resume_target(TARGET, None, &operation()).await.unwrap();
    heard("a resumption").await;
    let claim = worker.claim_probe(TARGET, None, PATIENCE).await.unwrap().unwrap();
    worker
        .fail_probe(TARGET, None, claim, ProbePauses { wish: Some(Duration::ZERO), ..PAUSES })
        .await
        .unwrap();
    heard("a failed probe").await;
    let claim = worker.claim_probe(TARGET, None, PATIENCE).await.unwrap().unwrap();
    worker.close_breaker(TARGET, None, claim).await.unwrap();
    heard("a closing").await;

    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and query ilike 'listen%' and pid <> pg_backend_pid()",
    )
    .execute(database.superuser())
    .await
    .unwrap();
    assert!(tokio::time::timeout(PATIENCE, listener.changed()).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_an_operator_pauses_is_left_alone_by_all_workers_until_they_resume_it() {
    let installation = Installation::start(Options::default()).await;
    let (_relay, workers) = (installation.relay(), [installation.worker(&[]), installation.worker(&[])]);
    emit(&installation, "before", 20, "created").await;
    installation.until_settled(&["backend", "crm"]).await;
    let operator = installation.store();
    operator.pause_target(TARGET, None, "ada", "drill", &operation()).await.unwrap();
    for worker in &workers {
        let labels = [r#"target="backend""#, r#"scope="target""#];
        eventually("it knows of the pause", PATIENCE, async || {
            (worker.metric("postbound_breaker_open", &labels).await == 1.0).then_some(())
        })
        .await;
    }
    emit(&installation, "after", 20, "created").await;
    installation.until_settled(&["crm"]).await;
    assert_eq!(installation.oracle().count("s2", None).await, 20);
    assert_eq!(operator.resume_target(TARGET, None, &operation()).await.unwrap(), Resumed::Closed);
    installation.assert_converged().await;
}
