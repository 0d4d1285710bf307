use super::{answer::Answer, state::ProbeResult, *};
use futures_util::FutureExt as _;
use postbound_event::{Action, UserKey};
use postbound_store::{BreakerCause, StoreOptions};
use postbound_target::{Delivery, Failure, FailureClass, Outcome};
use serde_json::value::RawValue;
use uuid::Uuid;

const TENANT: &str = "acme";
const FOLD_AFTER: Duration = Duration::from_secs(60);

/// Breakers whose table is played by the test: nobody listens where the store looks for Postgres.
fn breakers(rows: &[BreakerRow]) -> Breakers {
    let store = Store::new(&StoreOptions {
        url: "postgres://nobody@127.0.0.1:1/none".to_owned(),
        password: None,
        pool_max: 1,
        connect_timeout: Duration::from_millis(10),
        application: "postbound-tests",
        by_index: false,
    })
    .unwrap();
    let board = BreakerBoard::start(store.clone());
    let breakers = Breakers::start("backend".into(), BreakerSettings::default(), store, board);
    assert!(breakers.pass(TENANT).now_or_never().is_none(), "before the table was read");
    read(&breakers, rows);
    breakers
}

fn read(breakers: &Breakers, rows: &[BreakerRow]) {
    assert!(breakers.0.apply(rows, Instant::now(), breakers.0.epoch()));
}

/// Open for a second, and due in another.
fn row(tenant: Option<&str>) -> BreakerRow {
    BreakerRow {
        target: "backend".to_owned(),
        tenant: tenant.map(str::to_owned),
        opened_at: OffsetDateTime::UNIX_EPOCH,
        open_for: Duration::from_secs(1),
        cause: BreakerCause::WholeTarget,
        reason: "http_401".to_owned(),
        status: Some(401),
        detail: String::new(),
        retry_at: Some(OffsetDateTime::UNIX_EPOCH),
        retry_in: Some(Duration::from_secs(1)),
        probe_for: None,
        paused_by: None,
        pause_reason: None,
    }
}

fn paused(tenant: Option<&str>) -> BreakerRow {
    let paused_by = Some("ada".to_owned());
    let cause = BreakerCause::Operator;
    BreakerRow {
        cause,
        paused_by,
        retry_at: None,
        retry_in: None,
        pause_reason: Some("drill".to_owned()),
        ..row(tenant)
    }
}

fn failure(reason: &'static str, status: Option<u16>, retry_after: Option<u64>) -> Failure {
    Failure {
        class: FailureClass::WholeTarget,
        reason,
        status,
        retry_after: retry_after.map(Duration::from_secs),
        detail: String::new(),
        shared: false,
        bisect: false,
        bounded: false,
    }
}

fn delivery(tenant: &str, user: &str) -> Delivery {
    Delivery {
        event_id: Uuid::nil(),
        key: UserKey { tenant: tenant.to_owned(), user: user.to_owned() },
        version: 1,
        action: Action::Updated,
        logged_at: OffsetDateTime::UNIX_EPOCH,
        traceparent: None,
        data: RawValue::from_string("{}".to_owned()).unwrap().into(),
        resend: 0,
        full_sync: false,
    }
}

fn judge(breakers: &Breakers, tenant: &str, outcome: Outcome, passage: Passage) {
    breakers.judge(&[delivery(tenant, "u1")], &[outcome], passage);
}

/// What a request of the tenant may do right now.
fn standing(breakers: &Breakers, tenant: &str) -> &'static str {
    match breakers.pass(tenant).now_or_never() {
        Some(Passage::Free { .. }) => "free",
        Some(Passage::Probe(_)) => "probe",
        Some(Passage::Held) => "held",
        None => "waits",
    }
}

fn pass(breakers: &Breakers, tenant: &str) -> Passage {
    breakers.pass(tenant).now_or_never().expect("it need not wait")
}

const DELIVERED: Outcome = Outcome::DELIVERED;

#[tokio::test(start_paused = true)]
async fn what_is_open_is_asked_by_one_request_when_it_is_due_and_parks_users_after_a_minute() {
    let breakers = breakers(&[]);
    assert_eq!(standing(&breakers, TENANT), "free");
    read(&breakers, &[row(None)]);
    assert_eq!(standing(&breakers, TENANT), "waits");
    assert!(!breakers.holds(TENANT));

    tokio::time::advance(Duration::from_secs(1)).await;
    let probe = pass(&breakers, TENANT);
    assert!(matches!(probe, Passage::Probe(_)));
    assert_eq!(standing(&breakers, "other"), "waits", "nobody beside it");
    drop(probe);
    assert_eq!(standing(&breakers, "other"), "probe", "one that was not made is somebody else's");

    read(&breakers, &[BreakerRow { retry_in: Some(Duration::from_secs(600)), ..row(None) }]);
    tokio::time::advance(FOLD_AFTER - Duration::from_secs(1)).await;
    assert_eq!(standing(&breakers, TENANT), "held");
    assert!(breakers.holds(TENANT));
    read(&breakers, &[]);
    assert_eq!(standing(&breakers, TENANT), "free");
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_on_when_it_closes_and_gives_up_when_it_folds() {
    let breakers = breakers(&[paused(None)]);
    let mut waiting = Box::pin(breakers.pass(TENANT));
    assert!((&mut waiting).now_or_never().is_none());
    read(&breakers, &[]);
    assert!(matches!(waiting.now_or_never(), Some(Passage::Free { .. })));

    read(&breakers, &[paused(None)]);
    let started = Instant::now();
    assert!(matches!(breakers.pass(TENANT).await, Passage::Held));
    assert_eq!(started.elapsed().as_secs(), 59);
}

#[tokio::test(start_paused = true)]
async fn a_tenants_breaker_holds_up_no_other_tenant() {
    let breakers = breakers(&[row(Some(TENANT))]);
    assert_eq!((standing(&breakers, TENANT), standing(&breakers, "other")), ("waits", "free"));
}

#[tokio::test(start_paused = true)]
async fn failures_open_what_they_speak_of() {
    let check = async |failure: Failure, expected: [&str; 2]| {
        let breakers = breakers(&[]);
        let (seen, passage) = (breakers.openings(TENANT), pass(&breakers, TENANT));
        judge(&breakers, TENANT, Outcome::Failed(failure.clone()), passage);
        assert_eq!([standing(&breakers, TENANT), standing(&breakers, "other")], expected, "{failure:?}");
        assert_ne!(breakers.openings(TENANT), seen);
    };
    check(failure("connection_refused", None, None), ["waits", "waits"]).await;
    check(failure("http_429", Some(429), None), ["waits", "waits"]).await;
    check(failure("http_501", Some(501), None), ["waits", "waits"]).await;
    check(failure("http_403", Some(403), Some(3)), ["waits", "waits"]).await;
    check(failure("http_401", Some(401), None), ["waits", "free"]).await;
    check(failure("redirect", Some(302), None), ["waits", "free"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_tenant_that_is_refused_makes_it_the_targets_unless_a_third_is_well() {
    let check = async |third_is_well: bool, expected: &str| {
        let breakers = breakers(&[]);
        let refused = || Outcome::Failed(failure("http_401", Some(401), None));
        let (second, third) = (pass(&breakers, "b"), pass(&breakers, "c"));
        judge(&breakers, "a", refused(), pass(&breakers, "a"));
        if third_is_well {
            judge(&breakers, "c", DELIVERED, third);
        }
        judge(&breakers, "b", refused(), second);
        assert_eq!(standing(&breakers, "b"), "waits");
        assert_eq!(standing(&breakers, "d"), expected);
    };
    check(false, "waits").await;
    check(true, "free").await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_the_target_asks_for_is_kept_exactly_and_only_grows() {
    let breakers = breakers(&[]);
    let wish = |seconds| Outcome::Failed(failure("http_503", Some(503), Some(seconds)));
    let [first, second, third, success] = [(); 4].map(|()| pass(&breakers, TENANT));
    judge(&breakers, TENANT, wish(300), first);
    judge(&breakers, TENANT, wish(10), second);
    let retry_at = |breakers: &Breakers| breakers.0.lock().due_at(&None).unwrap() - Instant::now();
    assert_eq!(retry_at(&breakers).as_secs(), 300, "a shorter wish does not shorten it");
    judge(&breakers, TENANT, DELIVERED, success);
    assert_eq!(standing(&breakers, TENANT), "waits", "nor does a late success");
    judge(&breakers, TENANT, wish(600), third);
    assert_eq!(retry_at(&breakers).as_secs(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_asks_for_no_pause_gets_one_all_the_same() {
    let breakers = breakers(&[]);
    let passage = pass(&breakers, TENANT);
    judge(&breakers, TENANT, Outcome::Failed(failure("http_503", Some(503), Some(0))), passage);
    assert_eq!(breakers.0.lock().due_at(&None).unwrap() - Instant::now(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn requests_that_were_under_way_when_it_opened_do_not_open_it_again() {
    let breakers = breakers(&[]);
    let late = pass(&breakers, TENANT);
    read(&breakers, &[row(None)]);
    read(&breakers, &[]);
    judge(&breakers, TENANT, Outcome::Failed(failure("connection_refused", None, None)), late);
    assert_eq!(standing(&breakers, TENANT), "free");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_passed_before_it_opened_may_not_go_after() {
    let breakers = breakers(&[]);
    let mut passage = pass(&breakers, TENANT);
    assert!(breakers.admit(TENANT, &mut passage, Duration::ZERO).await);
    let opened = breakers.shut(TENANT, &passage);
    let mut opened = Box::pin(opened);
    assert!((&mut opened).now_or_never().is_none());
    read(&breakers, &[row(Some(TENANT))]);
    assert!(opened.now_or_never().is_some(), "it is told while it waits its turn");
    assert!(!breakers.admit(TENANT, &mut passage, Duration::ZERO).await);
}

#[tokio::test(start_paused = true)]
async fn most_of_twenty_users_failing_opens_and_is_not_held_against_them() {
    let breakers = breakers(&[]);
    let deliveries: Vec<_> = (0..20).map(|n| delivery(TENANT, &n.to_string())).collect();
    let refused = Failure { class: FailureClass::Permanent, ..failure("http_422", Some(422), None) };
    let outcomes: Vec<_> =
        (0..20).map(|n| if n < 9 { DELIVERED } else { Outcome::Failed(refused.clone()) }).collect();
    let (before, passage) = (breakers.openings(TENANT), pass(&breakers, TENANT));
    breakers.judge(&deliveries, &outcomes, passage);
    assert_eq!((standing(&breakers, TENANT), standing(&breakers, "other")), ("waits", "free"));
    assert_ne!(breakers.openings(TENANT), before);
}

#[tokio::test(start_paused = true)]
async fn a_batch_refused_for_one_users_sake_opens_nothing() {
    let breakers = breakers(&[]);
    let deliveries: Vec<_> = (0..100).map(|n| delivery(TENANT, &n.to_string())).collect();
    let class = FailureClass::Permanent;
    let refused = Failure { class, shared: true, bisect: true, ..failure("http_422", Some(422), None) };
    breakers.judge(&deliveries, &vec![Outcome::Failed(refused); 100], pass(&breakers, TENANT));
    assert_eq!(standing(&breakers, TENANT), "free");
}

#[tokio::test(start_paused = true)]
async fn what_is_read_late_does_not_undo_what_was_learnt_here() {
    let breakers = breakers(&[]);
    let epoch = breakers.0.epoch();
    judge(&breakers, TENANT, Outcome::Failed(failure("dns", None, None)), pass(&breakers, TENANT));
    assert!(!breakers.0.apply(&[], Instant::now(), epoch), "read before it opened");
    read(&breakers, &[]);
    assert_eq!(standing(&breakers, TENANT), "waits", "not yet in the table");
    breakers.0.lock().saved(&None);
    read(&breakers, &[]);
    assert_eq!(standing(&breakers, TENANT), "free", "another worker closed it");
}

#[tokio::test(start_paused = true)]
async fn openings_grow_once_for_each_opening() {
    let breakers = breakers(&[row(Some(TENANT))]);
    assert_eq!((breakers.openings(TENANT), breakers.openings("other")), (1, 0));
    read(&breakers, &[row(Some(TENANT))]);
    assert_eq!(breakers.openings(TENANT), 1);
    let opened_at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9);
    read(&breakers, &[BreakerRow { opened_at, ..row(Some(TENANT)) }]);
    assert_eq!(breakers.openings(TENANT), 2, "closed and opened between two readings");
    read(&breakers, &[BreakerRow { opened_at, ..row(Some(TENANT)) }, row(None)]);
    assert_eq!((breakers.openings(TENANT), breakers.openings("other")), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn only_a_failing_share_takes_back_what_was_counted_and_only_from_whom_it_is_for() {
    let breakers = breakers(&[row(Some(TENANT))]);
    assert_eq!(breakers.failing_since(TENANT), None, "whoever met a refusal of all was not counted");
    let opened_at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9);
    let failing = BreakerRow { cause: BreakerCause::FailingShare, opened_at, ..row(Some(TENANT)) };
    read(&breakers, &[failing]);
    assert_eq!(breakers.failing_since(TENANT), Some(opened_at));
    assert_eq!(breakers.failing_since("other"), None);
    read(&breakers, &[]);
    assert_eq!(breakers.failing_since(TENANT), Some(opened_at), "also once it is closed");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_the_table_cannot_be_told_of_stays_closed_for_the_next_failure_to_open() {
    let breakers = breakers(&[]);
    while let Ok(place) = breakers.0.changes.try_reserve() {
        place.send(Change::Release { scope: None, claim: OffsetDateTime::UNIX_EPOCH });
    }
    let passage = pass(&breakers, TENANT);
    judge(&breakers, TENANT, Outcome::Failed(failure("connection_refused", None, None)), passage);
    assert_eq!((standing(&breakers, TENANT), breakers.openings(TENANT)), ("free", 0));
}

#[tokio::test(start_paused = true)]
async fn parked_users_of_what_is_open_stay_but_one_for_each_probe_that_is_due() {
    let due = |row: BreakerRow| BreakerRow { retry_in: Some(Duration::ZERO), ..row };
    let check = |rows: &[BreakerRow], whole_target: bool, tenants: &[&str], probes_due: &[Option<&str>]| {
        let mut closed_off = breakers(rows).closed_off();
        closed_off.tenants.sort();
        let tenants = tenants.iter().map(|tenant| (*tenant).to_owned()).collect();
        let probes_due = probes_due.iter().map(|tenant| tenant.map(str::to_owned)).collect();
        assert_eq!(closed_off, ClosedOff { whole_target, tenants, probes_due }, "{rows:?}");
    };
    check(&[], false, &[], &[]);
    check(&[row(None)], true, &[], &[]);
    check(&[due(row(None))], true, &[], &[None]);
    check(&[due(row(Some("a"))), row(Some("b"))], false, &["a", "b"], &[Some("a")]);
    check(&[row(None), due(row(Some("a")))], true, &["a"], &[]);
    check(&[due(row(None)), due(row(Some("a")))], true, &["a"], &[None, Some("a")]);
    check(&[BreakerRow { probe_for: Some(FOLD_AFTER), ..due(row(None)) }], true, &[], &[]);
    check(&[paused(None)], true, &[], &[]);
    let failed_and_paused = BreakerRow { paused_by: Some("ada".to_owned()), ..due(row(None)) };
    check(&[failed_and_paused], true, &[], &[]);
}

#[test]
fn a_probe_closes_what_its_answer_refutes() {
    let check = |scope: Option<&str>, cause, outcome: Outcome, expected: ProbeResult| {
        let deliveries = [delivery(TENANT, "u1")];
        let outcomes = [outcome];
        let answer = Answer::of(&deliveries, &outcomes);
        let scope = scope.map(str::to_owned);
        assert_eq!(
            answer.probe_result(&scope, cause, "http_401", 0.5),
            expected,
            "{scope:?} {cause:?} {outcomes:?}"
        );
    };
    let (whole_target, share) = (BreakerCause::WholeTarget, BreakerCause::FailingShare);
    let failed = |class, status| Outcome::Failed(Failure { class, ..failure("some", status, None) });
    for cause in [whole_target, share] {
        check(None, cause, DELIVERED, ProbeResult::Closes);
        check(None, cause, Outcome::Stale { held_version: None }, ProbeResult::Closes);
        check(None, cause, Outcome::Failed(failure("connection_refused", None, None)), ProbeResult::Fails);
        check(None, cause, Outcome::Failed(failure("http_401", Some(401), None)), ProbeResult::Fails);
        check(None, cause, failed(FailureClass::Unknown, None), ProbeResult::Fails);
        check(None, cause, failed(FailureClass::Permanent, None), ProbeResult::SaysNothing);
    }
    check(None, whole_target, failed(FailureClass::Permanent, Some(422)), ProbeResult::Closes);
    check(None, share, failed(FailureClass::Permanent, Some(422)), ProbeResult::Fails);
    check(None, whole_target, failed(FailureClass::WholeTarget, Some(404)), ProbeResult::Closes);
    check(Some(TENANT), whole_target, failed(FailureClass::WholeTarget, Some(404)), ProbeResult::Fails);
    check(None, BreakerCause::Operator, DELIVERED, ProbeResult::SaysNothing);
}
