//! A receiver without a version guard executes a request late, over a newer state. It ends at the newest all the same.

use super::{SOON, emit, updated};
use postbound_event::{Event, UserKey};
use postbound_receiver::Fault;
use postbound_store::{
    Aftermath, Doubt, DueFilter, Generation, Lease, NextAttempt, ParkedSchedule, ParkedState, Parking,
    ParkingCause, Settlement, StateWrites, Store, Unknown, Verdict, WorkerId,
};
use postbound_tests::{Installation, Options, Role, TestDatabase, answers, eventually, register_targets};
use std::time::Duration;
use time::OffsetDateTime;

async fn keys_of(installation: &Installation, user: &str, version: i64) -> Vec<String> {
    sqlx::query_scalar(
        "select idempotency_key from receiver.request_log
         where contract = 's2' and user_id = $1 and content->>'displayName' = 'v' || $2 order by id",
    )
    .bind(user)
    .bind(version)
    .fetch_all(installation.database.superuser())
    .await
    .unwrap()
}

async fn held_by_backend(installation: &Installation, user: &str) -> Option<String> {
    sqlx::query_scalar("select display_name from receiver.backend_users where user_id = $1")
        .bind(user)
        .fetch_optional(installation.database.superuser())
        .await
        .unwrap()
}

/// Requests of more than half a second are given up, and whoever is refused once is dead.
fn impatient(doubt_after: &str) -> Options {
    Options::default()
        .guardless()
        .with("targets.backend.timeout", "500ms")
        .with("targets.backend.connect_timeout", "500ms")
        .with("targets.backend.retry.schedule", "[\"1s\"]")
        .with("targets.backend.retry.schedule_jitter", "0.0")
        .with("targets.backend.retry.permanent_attempts", "1")
        .with("targets.backend.doubt_after", doubt_after)
}

/// The next request about user-1 takes too long.
fn hangs_once() -> Fault {
    Fault { for_users: vec!["user-1".to_owned()], times: Some(1), delay_ms: 1_500, ..Fault::default() }
}

/// What is in doubt: versions, and the oldest that may be late.
async fn doubts(database: &TestDatabase) -> Vec<(i64, i64)> {
    sqlx::query_as("select version, late_version from postbound.doubt order by user_id")
        .fetch_all(database.superuser())
        .await
        .unwrap()
}

async fn until_no_doubt(installation: &Installation) {
    eventually("the doubt is gone", SOON, async || {
        doubts(&installation.database).await.is_empty().then_some(())
    })
    .await;
}

async fn until_parked_unknown(installation: &Installation) {
    eventually("it is parked", SOON, async || {
        let parked: i64 =
            sqlx::query_scalar("select count(*) from postbound.parked_user where class = 'unknown'")
                .fetch_one(installation.database.superuser())
                .await
                .unwrap();
        (parked == 1).then_some(())
    })
    .await;
}

async fn until_overtaken_and_put_right(installation: &Installation) {
    for (what, name) in [
        ("the newer state is delivered", "v2"),
        ("the older request is executed over it", "v1"),
        ("the newer state is there again", "v2"),
    ] {
        eventually(what, SOON, async || {
            (held_by_backend(installation, "user-1").await.as_deref() == Some(name)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_executed_late_over_a_newer_success_is_put_right_by_the_newest_state_under_a_new_key() {
    let installation = Installation::start(impatient("10s")).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    // The first request is taken, and executed long after the sender has given it up.
    let late =
        Fault { for_users: vec!["user-1".to_owned()], times: Some(1), delay_ms: 9_000, ..Fault::default() };
    installation.backend.fault(late).await;
    emit(&installation, "user", 1, "created").await;
    until_parked_unknown(&installation).await;
    emit(&installation, "user", 1, "updated").await;
    until_overtaken_and_put_right(&installation).await;
    let keys = keys_of(&installation, "user-1", 2).await;
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_ne!(keys[0], keys[1], "a receiver that remembers the key would not have applied it");
    until_no_doubt(&installation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_states_a_dead_worker_may_have_sent_the_older_is_put_right_though_the_newer_was_sent_again() {
    let options = Options::default()
        .guardless()
        .partitions(1)
        .with("worker.lease", "9s")
        .with("targets.crm.timeout", "6s")
        .with("targets.backend.timeout", "6s")
        .with("targets.backend.connect_timeout", "1s")
        .with("targets.backend.doubt_after", "25s");
    let installation = Installation::start(options).await;
    let relay = installation.relay();
    let mut dying = installation.worker(&["backend"]);
    let late =
        Fault { for_users: vec!["user-1".to_owned()], times: Some(1), delay_ms: 25_000, ..Fault::default() };
    installation.backend.fault(late).await;
    emit(&installation, "user", 1, "created").await;
    eventually("it is under way", SOON, async || {
        (installation.backend.fault_hits().await == 1).then_some(())
    })
    .await;
    emit(&installation, "user", 1, "updated").await;
    eventually("the worker has both messages", SOON, async || {
        let published = relay.metric("postbound_relay_published_total", &[r#"target="backend""#]).await;
        let queue = installation.vhost.queue("postbound.backend.g1.p000").await?;
        (published >= 2.0 && queue.messages_ready == 0).then_some(())
    })
    .await;
    dying.kill_9().await;
    let _worker = installation.worker(&["backend"]);
    until_overtaken_and_put_right(&installation).await;
}

/// It was sent again for ever, and the state an older request may lie over never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_meets_an_older_doubt_is_not_sent_again_and_what_was_delivered_is() {
    let installation = Installation::start(impatient("6s")).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&["backend"]);
    installation.backend.fault(hangs_once()).await;
    emit(&installation, "user", 1, "created").await;
    until_parked_unknown(&installation).await;
    emit(&installation, "user", 1, "updated").await;
    eventually("the newer state is in doubt", SOON, async || {
        (doubts(&installation.database).await == [(2, 1)]).then_some(())
    })
    .await;
    installation.backend.fault(hangs_once()).await;
    emit(&installation, "user", 1, "updated").await;
    until_parked_unknown(&installation).await;
    let refuses = Fault { for_users: vec!["user-1".to_owned()], ..answers(422, &[]) };
    installation.backend.fault(refuses).await;
    eventually("it is given up", SOON, async || installation.letters("backend").await.into_iter().next())
        .await;
    installation.backend.behave().await;
    eventually("what was delivered is sent again", SOON, async || {
        (keys_of(&installation, "user-1", 2).await.len() == 2).then_some(())
    })
    .await;
    until_no_doubt(&installation).await;
    let keys = keys_of(&installation, "user-1", 3).await;
    assert!(keys.len() == 2 && keys[0] == keys[1], "what is dead was sent under a new key: {keys:?}");
}

/// A workflow would run twice; and of an older event that is late, no newer one is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_target_is_told_no_event_again_because_an_older_one_may_be_late() {
    let installation = Installation::start(Options { coalesce: false, ..impatient("6s") }).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&["backend"]);
    installation.backend.fault(hangs_once()).await;
    emit(&installation, "user", 1, "created").await;
    until_parked_unknown(&installation).await;
    for version in 2..=3 {
        emit(&installation, "user", 1, "updated").await;
        eventually(&format!("version {version} is delivered"), SOON, async || {
            (delivered_version(&installation.database).await == Some(version)).then_some(())
        })
        .await;
    }
    assert_eq!(doubts(&installation.database).await, []);
    assert_eq!(keys_of(&installation, "user-1", 2).await.len(), 1);
}

/// A success that raises doubt; `late`: a request of that version may still be executed.
fn doubtful(user: &str, version: i64, late: Option<i64>) -> Settlement {
    let event = Event { resend: 1, ..updated(user, version) };
    let state = Box::new(ParkedState { event, send_as: None });
    let doubt = Doubt::Raised { state, late: late.map(|version| (Duration::from_secs(60), version)) };
    let aftermath = Aftermath { doubt: Some(doubt), ..Aftermath::default() };
    Settlement { aftermath: Some(Box::new(aftermath)), ..taken(user, version, None) }
}

/// A success, and nothing else.
fn taken(user: &str, version: i64, under: Option<Lease>) -> Settlement {
    let verdict = Verdict::Delivered { present: true, links: Vec::new() };
    let key = UserKey::new("t0", user);
    Settlement { target: "backend".into(), key, version, verdict, aftermath: None, under }
}

#[tokio::test]
async fn doubts_of_many_users_are_raised_together_and_a_newer_success_postpones_none() {
    type Row = (String, i64, i64, OffsetDateTime);
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    let rows = async || -> Vec<Row> {
        sqlx::query_as("select user_id, version, late_version, due_at from postbound.doubt order by user_id")
            .fetch_all(database.superuser())
            .await
            .unwrap()
    };
    let versions = |rows: &[Row]| -> Vec<(String, i64, i64)> {
        rows.iter().map(|(user, version, late, _)| (user.clone(), *version, *late)).collect()
    };
    store.settle(&[doubtful("b", 4, Some(3)), doubtful("a", 2, Some(1))]).await.unwrap();
    let raised = rows().await;
    assert_eq!(versions(&raised), [("a".to_owned(), 2, 1), ("b".to_owned(), 4, 3)]);
    store.settle(&[doubtful("a", 3, None), doubtful("b", 5, Some(4))]).await.unwrap();
    let newer = rows().await;
    assert_eq!(versions(&newer), [("a".to_owned(), 3, 1), ("b".to_owned(), 5, 3)]);
    assert_eq!(newer[0].3, raised[0].3, "what may be late is late no longer than before");
    assert!(newer[1].3 > raised[1].3);
}

#[tokio::test]
async fn doubt_keeps_the_oldest_version_and_is_cleared_only_by_the_sending_it_asked_for() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    let row = async || -> Option<(i64, i64)> {
        sqlx::query_as("select version, late_version from postbound.doubt")
            .fetch_optional(database.superuser())
            .await
            .unwrap()
    };
    store.settle(&[doubtful("a", 2, Some(1))]).await.unwrap();
    store.settle(&[doubtful("a", 4, Some(3))]).await.unwrap();
    assert_eq!(row().await, Some((4, 1)), "version 1 is late still");
    let cleared = |resend| {
        let aftermath = Aftermath { doubt: Some(Doubt::Cleared { resend }), ..Aftermath::default() };
        Settlement { aftermath: Some(Box::new(aftermath)), ..taken("a", 4, None) }
    };
    store.settle(&[cleared(0)]).await.unwrap();
    assert_eq!(row().await, Some((4, 1)), "it was raised since");
    store.settle(&[cleared(1)]).await.unwrap();
    assert_eq!(row().await, None);
}

/// What is dead is never sent for a doubt: what was delivered is, once nothing can be executed over it any more.
#[tokio::test]
async fn a_letter_postpones_the_doubt_there_is_and_takes_none_of_its_place() {
    type Row = (i64, i64, i32, OffsetDateTime);
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    let rows = async || -> Vec<Row> {
        sqlx::query_as("select version, late_version, resend, due_at from postbound.doubt order by user_id")
            .fetch_all(database.superuser())
            .await
            .unwrap()
    };
    let dead = |user: &str, version| {
        let verdict = Verdict::Dead { reason: "http_422" };
        Settlement { verdict, ..doubtful(user, version, Some(version)) }
    };
    store.settle(&[doubtful("a", 3, Some(1))]).await.unwrap();
    let before = rows().await;
    store.settle(&[dead("b", 4), dead("a", 5)]).await.unwrap();
    let after = rows().await;
    assert_eq!((after[0].0, after[0].1, after[0].2), (3, 1, 1));
    assert!(after[0].3 > before[0].3, "the dead one may be executed until then");
    assert_eq!((after[1].0, after[1].1), (4, 4), "whatever is newer is to be sent again");
    store.settle(&[doubtful("a", 6, None), doubtful("b", 6, None)]).await.unwrap();
    assert_eq!(doubts(&database).await, [(6, 1), (6, 4)]);
}

const DUE: DueFilter<'static> = DueFilter {
    target: "backend",
    partitions: 1,
    owned: &[0],
    only_tenant: None,
    without_tenants: &[],
    limit: 1,
    blameless_first: false,
};

#[tokio::test]
async fn a_doubt_from_before_a_target_wanted_every_event_is_forgotten() {
    for (has_doubts, taken, left) in [(true, 1, vec![(3, 1)]), (false, 0, vec![])] {
        let database = TestDatabase::new().await;
        let store = database.store(Role::Worker);
        store.settle(&[doubtful("a", 3, Some(1))]).await.unwrap();
        sqlx::query("update postbound.doubt set due_at = now()").execute(database.superuser()).await.unwrap();
        assert_eq!(store.take_due_doubts(&DUE, has_doubts).await.unwrap().len(), taken);
        assert_eq!(doubts(&database).await, left);
    }
}

#[tokio::test]
async fn taking_a_parked_user_writes_down_that_each_of_the_states_may_be_sent() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    let schedule = ParkedSchedule {
        attempts: 0,
        repeats: 0,
        next_attempt: NextAttempt::In(Duration::ZERO),
        first_failed_at: None,
        last_failed_at: None,
        reason: "target_closed".to_owned(),
        class: "held".to_owned(),
        status: None,
        detail: String::new(),
        unknown: Unknown::of(3),
        recent_failures: Vec::new(),
    };
    let states = [2, 4].map(|version| ParkedState { event: updated("a", version), send_as: None });
    let parking = Parking {
        target: "backend".into(),
        key: UserKey::new("t0", "a"),
        schedule,
        cause: ParkingCause::NotTried,
        states: states.to_vec(),
        writes: StateWrites::All,
        superseded: Vec::new(),
        under: None,
    };
    store.park(std::slice::from_ref(&parking)).await.unwrap();
    let user = store.take_due(&DUE, true).await.unwrap().remove(0);
    assert_eq!(user.schedule.unknown, Unknown::of(3), "as it was");
    assert_eq!(user.unknown_stored, Unknown { oldest: 2, newest: 4 });
    let read =
        async || store.parked("backend", std::slice::from_ref(&user.key), true).await.unwrap().remove(0);
    let taken = ParkedSchedule { unknown: user.unknown_stored, ..user.schedule.clone() };
    assert_eq!(read().await.schedule, taken, "nobody has written since");
    let unknown = Unknown { oldest: 1, newest: 5 };
    let folded = ParkedSchedule { unknown, ..parking.schedule.clone() };
    store.park(&[Parking { schedule: folded, cause: ParkingCause::Folded, ..parking }]).await.unwrap();
    assert_eq!(read().await.schedule.unknown, unknown);
}

const ONE: Generation = Generation { number: 1, partitions: 1 };

/// The worker owns the only partition for so long.
async fn leases(store: &Store, worker: WorkerId, lease: Duration) -> bool {
    store.heartbeat(worker, "test", &["backend".to_owned()], lease).await.unwrap();
    store.balance_partitions(worker, "backend", ONE).await.unwrap().owned == [0]
}

fn under(worker: WorkerId) -> Option<Lease> {
    Some(Lease { worker, generation: ONE.number, partition: 0 })
}

async fn delivered_version(database: &TestDatabase) -> Option<i64> {
    sqlx::query_scalar("select delivered_version from postbound.delivery_ledger")
        .fetch_optional(database.superuser())
        .await
        .unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

/// It would hide that the new owner has sent an older state since.
#[tokio::test]
async fn what_a_worker_writes_after_another_has_its_lease_is_not_written() {
    let database = TestDatabase::new().await;
    register_targets(database.superuser(), &["backend"]).await;
    let store = database.store(Role::Worker);
    let [late, next] = [WorkerId::new_v4(), WorkerId::new_v4()];
    assert!(leases(&store, late, MINUTE).await);
    assert_eq!(store.settle(&[taken("a", 1, under(late))]).await.unwrap(), [true]);
    // It ran out, and nobody has taken it: no older state was sent.
    store.heartbeat(late, "test", &["backend".to_owned()], Duration::ZERO).await.unwrap();
    assert_eq!(store.settle(&[taken("a", 2, under(late))]).await.unwrap(), [true]);

    assert!(leases(&store, next, MINUTE).await);
    let doubt = doubtful("b", 3, Some(1));
    let both = [taken("a", 3, under(late)), Settlement { under: under(late), ..doubt }];
    assert_eq!(store.settle(&both).await.unwrap(), [false, false]);
    assert_eq!(store.settle(&both[..1]).await.unwrap(), [false]);
    assert_eq!(delivered_version(&database).await, Some(2));
    let rows: i64 = sqlx::query_scalar("select count(*) from postbound.doubt")
        .fetch_one(database.superuser())
        .await
        .unwrap();
    assert_eq!(rows, 0, "nor is what comes with it");
    let mixed = [taken("a", 3, under(next)), taken("c", 9, None)];
    assert_eq!(store.settle(&mixed).await.unwrap(), [true, true]);
}

#[tokio::test]
async fn a_partition_is_not_taken_over_while_its_owner_is_writing_under_its_lease() {
    let database = TestDatabase::new().await;
    register_targets(database.superuser(), &["backend"]).await;
    let store = database.store(Role::Worker);
    let [late, next] = [WorkerId::new_v4(), WorkerId::new_v4()];
    assert!(leases(&store, late, MINUTE).await);
    store.settle(&[taken("a", 1, under(late))]).await.unwrap();
    let mut blocker = database.superuser().begin().await.unwrap();
    sqlx::query("select from postbound.delivery_ledger for update").execute(&mut *blocker).await.unwrap();
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.settle(&[taken("a", 2, under(late))]).await.unwrap() }
    });
    eventually("it waits", SOON, async || {
        let waits: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity
                            where datname = current_database() and wait_event_type = 'Lock' and query like '-- settle%')",
        )
        .fetch_one(database.superuser())
        .await
        .unwrap();
        waits.then_some(())
    })
    .await;
    store.heartbeat(late, "test", &["backend".to_owned()], Duration::ZERO).await.unwrap();
    assert!(!leases(&store, next, MINUTE).await, "what it writes would come after what the next one reads");
    blocker.rollback().await.unwrap();
    assert_eq!(writing.await.unwrap(), [true]);
    assert!(leases(&store, next, MINUTE).await);
    assert_eq!(delivered_version(&database).await, Some(2));
}
