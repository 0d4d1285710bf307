//! Answers that no test's endpoint gives, and how a report is read.

use super::{
    Check, CheckArgs, Contract,
    endpoint::Endpoint,
    explain,
    judge::{Memory, Verdict, judge},
    report::{Finding, Report, Sent},
    visit::Seen,
};
use crate::args::Common;
use postbound_event::{Action, UserKey};
use postbound_target::{Delivery, ExternalLink, Failure, FailureClass, Outcome};
use serde_json::value::RawValue;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

fn endpoint(contract: Contract) -> Endpoint {
    let args = CheckArgs {
        contract: Some(contract),
        url: Some("https://crm.example/users".to_owned()),
        tenant: "t".to_owned(),
        start_workflows: contract == Contract::WorkflowTrigger,
        ..CheckArgs::default()
    };
    Endpoint::of(&Common { config: None }, &args).unwrap()
}

/// Two users' states of a request that comes when version 10 is held.
fn states(version: i64) -> [Delivery; 2] {
    ["u1", "u2"].map(|user| Delivery {
        event_id: Uuid::nil(),
        key: UserKey::new("t", user),
        version,
        action: Action::Updated,
        logged_at: OffsetDateTime::UNIX_EPOCH,
        traceparent: None,
        data: RawValue::from_string("{}".to_owned()).unwrap().into(),
        resend: 0,
        full_sync: false,
    })
}

fn delivered(id: &str) -> Outcome {
    Outcome::Delivered { external_id: (!id.is_empty()).then(|| id.to_owned()), links: Vec::new() }
}

fn stale(held_version: Option<i64>) -> Outcome {
    Outcome::Stale { held_version }
}

fn failed(class: FailureClass, reason: &'static str, status: Option<u16>) -> Failure {
    Failure {
        class,
        reason,
        status,
        retry_after: None,
        detail: String::new(),
        shared: false,
        bisect: false,
        bounded: false,
    }
}

#[test]
fn an_answer_is_held_against_what_a_right_receiver_says() {
    use FailureClass::{Permanent, Transient, Unknown, WholeTarget};
    use Verdict::{Right, Weak, Wrong};
    let of_result = |class, reason| Outcome::Failed(failed(class, reason, Some(200)));
    let shared =
        |class, reason, status| Outcome::Failed(Failure { shared: true, ..failed(class, reason, status) });
    let halved = |status| {
        let failure = failed(Permanent, "http_400", Some(status));
        Outcome::Failed(Failure { shared: true, bisect: true, ..failure })
    };
    let bounded = Outcome::Failed(Failure { bounded: true, ..failed(Transient, "result_failed", Some(200)) });
    let good = || delivered("c1");
    let cases = [
        (Check::Create, 1, [delivered(""), good()], Weak, "no id of the user"),
        (Check::Duplicate, 10, [delivered("c2"), good()], Wrong, "two records"),
        (Check::Resend, 10, [stale(Some(10)), good()], Right, "counts as superseded"),
        (Check::Return, 30, [stale(Some(20)), good()], Wrong, "of which nobody has told it"),
        (Check::Return, 30, [delivered("c2"), good()], Right, ""),
        (Check::Update, 10, [good(), of_result(Transient, "result_missing")], Wrong, "the other user"),
        (Check::StaleVersion, 5, [stale(Some(10)), good()], Right, ""),
        (Check::StaleVersion, 5, [stale(None), good()], Right, "not which version"),
        (Check::StaleVersion, 5, [stale(Some(9)), good()], Wrong, "the newest it took is 10"),
        (Check::StaleVersion, 5, [stale(Some(10)), stale(None)], Wrong, "the other user"),
        (
            Check::StaleVersion,
            5,
            [shared(Transient, "http_409", Some(409)), shared(Transient, "http_409", Some(409))],
            Wrong,
            "but not as one",
        ),
        (
            Check::LateUpdate,
            5,
            [
                shared(WholeTarget, "connection_refused", None),
                shared(WholeTarget, "connection_refused", None),
            ],
            Wrong,
            "no answer",
        ),
        (Check::PartialFailure, 1, [of_result(Permanent, "result_refused"), good()], Right, ""),
        (Check::PartialFailure, 1, [bounded, good()], Weak, "tried again and again"),
        (Check::PartialFailure, 1, [halved(400), halved(400)], Weak, "refuses all"),
        (
            Check::PartialFailure,
            1,
            [good(), of_result(Transient, "result_failed")],
            Wrong,
            "a good user fails",
        ),
        (Check::PartialFailure, 1, [good(), good()], Right, "whose email is a number"),
        (
            Check::PartialFailure,
            1,
            [shared(Unknown, "timeout", None), shared(Unknown, "timeout", None)],
            Wrong,
            "nobody can tell whose",
        ),
        (Check::BadKey, 40, [halved(400), halved(400)], Weak, "as if the user were at fault"),
        (
            Check::BadKey,
            40,
            [shared(WholeTarget, "http_401", Some(401)), shared(WholeTarget, "http_401", Some(401))],
            Right,
            "",
        ),
        (Check::OldSignature, 40, [good(), good()], Wrong, "whoever records a request"),
        (
            Check::Delete,
            20,
            [shared(WholeTarget, "http_429", Some(429)), shared(WholeTarget, "http_429", Some(429))],
            Weak,
            "rate limit",
        ),
    ];
    let endpoint = endpoint(Contract::CrmBatch);
    let memory = Memory { held: 10, ids: Some("id c1".to_owned()) };
    for (check, version, outcomes, verdict, said) in cases {
        let judged = judge(check, &states(version), &outcomes, &memory, &endpoint);
        let why = judged.why.clone().unwrap_or_default();
        assert_eq!(judged.verdict, verdict, "{check:?}: {outcomes:?}: {why}");
        assert!(why.contains(said) && (why.is_empty() == said.is_empty()), "{check:?}: {outcomes:?}: {why}");
        assert_eq!(judged.mend.is_some(), verdict != Right, "{check:?}: {outcomes:?}");
    }
}

#[test]
fn a_workflow_is_to_tell_all_ids_and_the_same_when_it_is_triggered_again() {
    use Verdict::{Right, Weak, Wrong};
    let endpoint = endpoint(Contract::WorkflowTrigger);
    let told = |ids: &[(&str, &str)]| Outcome::Delivered {
        external_id: None,
        links: ids
            .iter()
            .map(|(system, id)| ExternalLink { system: (*system).into(), id: (*id).to_owned() })
            .collect(),
    };
    let both = || told(&[("crmContactId", "c1"), ("frontendUserId", "f1")]);
    let memory = Memory { held: 1, ids: explain::ids(&both()) };
    for (check, outcome, verdict, said) in [
        (Check::Create, both(), Right, ""),
        (Check::Create, told(&[("crmContactId", "c1")]), Weak, "no frontendUserId of the user"),
        (Check::Create, told(&[]), Weak, "no crmContactId and no frontendUserId"),
        (Check::Duplicate, both(), Right, ""),
        (Check::Duplicate, told(&[("crmContactId", "c2"), ("frontendUserId", "f1")]), Wrong, "two records"),
        (Check::Return, told(&[("crmContactId", "c2"), ("frontendUserId", "f2")]), Right, ""),
    ] {
        let judged = judge(check, &states(1)[..1], std::slice::from_ref(&outcome), &memory, &endpoint);
        let why = judged.why.clone().unwrap_or_default();
        assert_eq!(judged.verdict, verdict, "{check:?}: {outcome:?}: {why}");
        assert!(why.contains(said) && (why.is_empty() == said.is_empty()), "{check:?}: {outcome:?}: {why}");
    }
    let judged = judge(Check::Create, &states(1)[..1], &[both()], &memory, &endpoint);
    assert_eq!(judged.answer, "2xx, crmContactId c1, frontendUserId f1");
    assert_eq!(judged.postbound, "settles it as delivered, and links the ids to the user");
}

#[test]
fn a_target_said_to_guard_versions_must() {
    let mut endpoint = endpoint(Contract::BackendSync);
    let memory = Memory { held: 10, ids: None };
    let mut verdict = |guards_versions| {
        endpoint.guards_versions = guards_versions;
        judge(Check::StaleVersion, &states(5)[..1], &[delivered("")], &memory, &endpoint).verdict
    };
    assert_eq!((verdict(false), verdict(true)), (Verdict::Weak, Verdict::Wrong));
}

#[test]
fn a_slow_answer_is_weak() {
    let endpoint = endpoint(Contract::BackendSync);
    let judged = |took: u64| {
        let judged = judge(Check::Create, &states(1)[..1], &[delivered("")], &Memory::default(), &endpoint);
        judged.timed(Duration::from_secs(took), &endpoint).verdict
    };
    assert_eq!((judged(5), judged(6)), (Verdict::Right, Verdict::Weak));
}

#[test]
fn people_read_a_line_per_check_and_below_it_what_it_leads_to() {
    let endpoint = endpoint(Contract::BackendSync);
    let finding = |check, version, outcome| {
        let memory = Memory { held: 10, ids: None };
        let judged = judge(check, &states(version)[..1], &[outcome], &memory, &endpoint);
        let sent = Sent { user: "u1".to_owned(), action: "updated", version };
        Finding::of(check, sent, Duration::from_millis(4), judged)
    };
    let findings = vec![
        finding(Check::Update, 10, delivered("")),
        finding(Check::LateUpdate, 5, stale(None)),
        finding(Check::Resend, 10, Outcome::Failed(failed(FailureClass::Transient, "http_409", Some(409)))),
        finding(Check::StaleVersion, 5, delivered("")),
        Finding::skipped(Some(Check::BadKey), "no key is sent"),
    ];
    let held = [("u1".to_owned(), false), ("u2".to_owned(), true)].into();
    let report = Report::new(&endpoint, Seen { findings, held }, &[Check::StaleVersion]);
    assert!(!report.is_right());
    insta::assert_snapshot!(report.render(), @r#"
    update         ok       updated, version 10: 2xx
                            Postbound: settles it as delivered
    late-update    ok       updated, version 5: refused: it holds a newer version
                            Postbound: settles it as superseded
                            note: it says not which version it holds: `heldVersion` would tell operators
    resend         wrong    updated, version 10: 409
                            Postbound: tries it again by the schedule, and dead-letters it after 1day if others succeed meanwhile
                            why: a state is sent once more, under a new key, after a request of unknown outcome: it is held, so it is a success
                            mend: answer 2xx for a state that is held already: 409 without a body that says more means to come again
    stale-version  weak     updated, version 5: 2xx (accepted)
                            Postbound: settles it as delivered
                            why: version 5 was a success over version 10. If it was applied, an older state is in force until the newest state is sent once more: a request that was lost on its way can arrive late
                            mend: compare the header postbound-user-version with the version held, in the statement that writes; answer 409 with {"type": "/problems/stale-version", "heldVersion": n} to an older one
    bad-key        skipped  no key is sent

    2 ok, 0 weak, 1 wrong, 1 accepted
    left there as deleted, in tenant t: u1
    left there, delete them by hand, in tenant t: u2
    "#);
}
