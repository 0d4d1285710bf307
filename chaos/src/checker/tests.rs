//! The checker must be able to fail: each case breaks one promise in a history that keeps all of them.

use super::*;
use crate::history::{Jobs, Standstill, Step};
use crate::producer::{Outcome, Transaction};
use crate::target::TARGETS;
use crate::wire::Request;

const SECOND: i64 = 1_000_000;

fn user() -> User {
    User { tenant: "acme".to_owned(), id: "u".to_owned() }
}

fn change(version: i64, action: &str) -> Change {
    Change { version, action: action.to_owned(), mark: format!("m{version}"), bare: false }
}

/// Version `version`, taken at second `at_s` under a key of its own.
fn seen(version: i64, at_s: i64) -> Seen {
    Seen {
        id: at_s,
        version: Some(version),
        mark: Some(format!("m{version}")),
        outcome: "applied".to_owned(),
        status: 200,
        key: Some(format!("k{version}")),
        body_sha256: format!("b{version}"),
        at_us: at_s * SECOND,
    }
}

/// The request of that, answered a tenth of a second after it began.
fn request(version: i64, began_s: i64) -> Request {
    Request {
        worker: "worker-1".to_owned(),
        key: format!("k{version}"),
        tenant: "acme".to_owned(),
        users: vec![("u".to_owned(), Some(version))],
        body_sha256: format!("b{version}"),
        began_us: began_s * SECOND,
        answered_us: Some(began_s * SECOND + SECOND / 10),
        status: Some(200),
        abandoned_us: None,
    }
}

fn step(delivered_version: i64, at_s: i64) -> Step {
    Step { entry: Entry { delivered_version, dead_version: 0 }, at_us: at_s * SECOND + SECOND / 5 }
}

/// One user, created, updated and deleted, each of which every target took in order.
fn sound() -> History {
    let targets = TARGETS.map(|target| TargetHistory {
        target,
        seen: [(user(), vec![seen(1, 10), seen(2, 20), seen(3, 30)])].into(),
        holds: [(user(), Holding { version: Some(3), mark: Some("m3".to_owned()), is_active: false })].into(),
        requests: vec![request(1, 10), request(2, 20), request(3, 30)],
        ledger: [(user(), Entry { delivered_version: 3, dead_version: 0 })].into(),
        steps: [(user(), vec![step(1, 10), step(2, 20), step(3, 30)])].into(),
        parked: BTreeMap::new(),
        by_jobs: BTreeMap::new(),
        letters: BTreeMap::new(),
    });
    let changes = vec![change(1, "created"), change(2, "updated"), change(3, "deleted")];
    let marks = ["m1", "m2", "m3"].map(|mark| (user(), mark.to_owned()));
    History {
        source: [(user(), changes)].into(),
        projected: [(user(), 3)].into(),
        jobs: Jobs::default(),
        transactions: vec![
            Transaction { changes: marks.to_vec(), outcome: Outcome::Committed },
            Transaction { changes: vec![(user(), "gone".to_owned())], outcome: Outcome::RolledBack },
            Transaction { changes: vec![(user(), "lost".to_owned())], outcome: Outcome::InDoubt },
        ],
        targets: targets.into(),
        standstills: BTreeMap::new(),
    }
}

fn rows(target: &mut TargetHistory) -> &mut Vec<Seen> {
    target.seen.entry(user()).or_default()
}

/// Breaks the history, of which the closure gets the first target and all, and expects violations of just `invariants`.
fn case(name: &str, invariants: &[&str], spoil: impl Fn(&mut TargetHistory)) {
    whole_case(name, invariants, |history| spoil(&mut history.targets[0]));
}

fn whole_case(name: &str, invariants: &[&str], spoil: impl Fn(&mut History)) {
    let mut history = sound();
    spoil(&mut history);
    let violations = check(&history);
    let found: BTreeSet<&str> = violations.iter().map(|violation| violation.invariant).collect();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), invariants, "{name}: {violations:#?}");
}

#[test]
fn a_history_that_keeps_its_promises_has_no_violation() {
    whole_case("sound", &[], |_| {});
}

#[test]
fn a_client_that_was_lied_to_is_found() {
    whole_case("a commit is lost", &["I1"], |history| {
        history.transactions[0].changes.push((user(), "m4".to_owned()));
    });
    whole_case("a rollback is there", &["I1"], |history| {
        history.transactions[1].changes.push((user(), "m1".to_owned()));
    });
    whole_case("half of a doubtful transaction is there", &["I1"], |history| {
        history.transactions[2].changes.push((user(), "m1".to_owned()));
    });
    whole_case("the whole of a doubtful transaction is there", &[], |history| {
        history.transactions[2].changes = vec![(user(), "m1".to_owned())];
    });
}

#[test]
fn loss_is_found() {
    case("the newest change is not settled", &["I1"], |target| {
        target.ledger.insert(user(), Entry { delivered_version: 2, dead_version: 0 });
    });
    case("the ledger says more than there is", &["I1"], |target| {
        target.ledger.insert(user(), Entry { delivered_version: 3, dead_version: 4 });
    });
    case("somebody is still parked", &["I1"], |target| {
        target.parked.insert(user(), "timeout".to_owned());
    });
    // The ledger's word alone would do for nobody.
    case("what the ledger calls delivered was never executed", &["I1"], |target| {
        rows(target).retain(|seen| seen.version != Some(3));
    });
    case("what was dead has no letter", &["I1"], |target| {
        target.ledger.insert(user(), Entry { delivered_version: 2, dead_version: 3 });
    });
    for version in [2, 4] {
        whole_case("the projection is not at the newest", &["I1"], |history| {
            history.projected.insert(user(), version);
        });
    }
    whole_case("a delete was folded away", &["I1"], |history| {
        history.source.entry(user()).or_default()[1].action = "deleted".to_owned();
        rows(&mut history.targets[0]).retain(|seen| seen.version != Some(2));
    });
    for (version, invariants) in [(3, &[][..]), (2, &["I1"])] {
        whole_case("a delete was overtaken by a job with a newer state, or by none", invariants, |history| {
            history.source.entry(user()).or_default()[1].action = "deleted".to_owned();
            let target = &mut history.targets[0];
            rows(target).retain(|seen| seen.version != Some(2));
            target.by_jobs.insert(user(), vec![version]);
        });
    }
    case("an update was folded away at a target that folds", &[], |target| {
        rows(target).retain(|seen| seen.version != Some(2));
    });
    whole_case("an update was folded away at an event target", &["I1"], |history| {
        rows(&mut history.targets[2]).retain(|seen| seen.version != Some(2));
    });
}

#[test]
fn ghosts_are_found() {
    case("a version nobody committed", &["I2"], |target| rows(target).push(seen(9, 40)));
    case("a state nobody committed", &["I2"], |target| rows(target)[1].mark = Some("gone".to_owned()));
    case("another version's state", &["I2"], |target| rows(target)[1].mark = Some("m1".to_owned()));
    case("a user nobody knows", &["I2"], |target| {
        target.seen.insert(User { tenant: "globex".to_owned(), id: "u".to_owned() }, vec![seen(1, 10)]);
    });
    whole_case("a bare delete bears the last known state", &[], |history| {
        history.source.entry(user()).or_default()[2].bare = true;
        for target in &mut history.targets {
            rows(target)[2].mark = Some("m2".to_owned());
        }
    });
}

/// Version 1 is sent again at `began_s` and executed at second 40, after version 3.
fn late(target: &mut TargetHistory, began_s: i64) {
    target.requests.push(Request { answered_us: None, ..request(1, began_s) });
    rows(target).push(seen(1, 40));
    // Somebody put it right.
    rows(target).push(seen(3, 50));
}

#[test]
fn an_older_state_that_was_sent_after_the_ledger_had_a_newer_one_is_found() {
    case("sent when the ledger had version 3", &["I3"], |target| late(target, 35));
    case("sent when the ledger had version 2", &["I3"], |target| late(target, 25));
    case("refused by a guarded receiver", &["I3"], |target| {
        late(target, 35);
        rows(target)[3].outcome = "stale".to_owned();
    });
    case("nobody saw it on the wire", &["I3"], |target| {
        rows(target).push(Seen { key: Some("k0".to_owned()), body_sha256: "b0".to_owned(), ..seen(1, 40) });
    });
}

#[test]
fn a_request_of_unknown_outcome_that_is_executed_late_is_excused() {
    case("sent before the ledger had anything newer", &[], |target| late(target, 15));
    let frozen = |from_s: i64, to_s: i64| Standstill { from_us: from_s * SECOND, to_us: to_s * SECOND };
    for (name, still, invariants) in [
        ("in the hands of a worker that stood still meanwhile", frozen(14, 34), &[][..]),
        ("its worker went on long before", frozen(14, 30), &["I3"]),
        ("its worker stood still only when the ledger had it already", frozen(25, 34), &["I3"]),
    ] {
        whole_case(name, invariants, |history| {
            late(&mut history.targets[0], 35);
            history.standstills.insert("worker-1".to_owned(), vec![still]);
        });
    }
}

#[test]
fn an_event_that_an_event_target_sees_first_after_a_newer_one_is_found() {
    let swapped = |target: &mut TargetHistory| {
        target.requests[0].answered_us = None;
        rows(target)[0].id = 25;
        rows(target)[0].at_us = 25 * SECOND;
        rows(target).swap(0, 1);
        // Nothing was settled before: no other rule minds.
        target.steps.clear();
    };
    whole_case("at an event target", &["I3"], |history| swapped(&mut history.targets[2]));
    whole_case("at a target that folds", &[], |history| swapped(&mut history.targets[0]));
    whole_case("an event that had been given up", &[], |history| {
        let target = &mut history.targets[2];
        swapped(target);
        let letter = Letter { version: 1, reason: "timeout".to_owned(), class: "unknown".to_owned() };
        target.letters.insert(user(), vec![letter]);
    });
}

#[test]
fn a_replayed_event_may_follow_newer_ones_at_an_event_target_alone() {
    let replayed = |target: &mut TargetHistory| {
        late(target, 35);
        let letter = Letter { version: 1, reason: "http_422".to_owned(), class: "permanent".to_owned() };
        target.letters.insert(user(), vec![letter]);
    };
    whole_case("at an event target", &[], |history| replayed(&mut history.targets[2]));
    whole_case("at a target that folds", &["I3"], |history| replayed(&mut history.targets[0]));
}

#[test]
fn only_an_event_target_may_be_left_with_an_older_event_that_it_took_last() {
    let took_last = |target: &mut TargetHistory, began_s| {
        late(target, began_s);
        // No guard refuses it, and nothing comes after it.
        rows(target).pop();
        let held = Holding { version: Some(1), mark: Some("m1".to_owned()), is_active: true };
        target.holds.insert(user(), held);
    };
    whole_case("an event executed late", &[], |history| took_last(&mut history.targets[2], 15));
    whole_case("an event sent too late", &["I3"], |history| took_last(&mut history.targets[2], 35));
    whole_case("an event it did not take last", &["I4"], |history| {
        took_last(&mut history.targets[2], 15);
        rows(&mut history.targets[2]).push(seen(3, 50));
    });
    whole_case("an event that it did not take as it was", &["I4"], |history| {
        took_last(&mut history.targets[2], 15);
        let other = Holding { version: Some(1), mark: Some("m2".to_owned()), is_active: true };
        history.targets[2].holds.insert(user(), other);
    });
    whole_case("a delete that it took last and did not carry out", &["I4"], |history| {
        let active = Holding { version: Some(3), mark: Some("m3".to_owned()), is_active: true };
        history.targets[2].holds.insert(user(), active);
    });
    whole_case("a state", &["I4"], |history| took_last(&mut history.targets[0], 15));
}

#[test]
fn two_requests_of_one_user_at_once_are_found() {
    let hurried = |target: &mut TargetHistory| {
        target.requests[1].answered_us = None;
        target.requests.insert(2, Request { worker: "worker-2".to_owned(), ..request(2, 21) });
    };
    case("the first was not given up", &["I3"], hurried);
    case("the first had lost its connection", &[], |target| {
        hurried(target);
        target.requests[1].abandoned_us = Some(20 * SECOND + SECOND / 2);
    });
    whole_case("the first one's worker stood still", &[], |history| {
        hurried(&mut history.targets[0]);
        let still = Standstill { from_us: 20 * SECOND, to_us: 27 * SECOND };
        history.standstills.insert("worker-1".to_owned(), vec![still]);
    });
}

#[test]
fn a_target_that_differs_from_the_source_is_found() {
    let holding = |version, mark: &str, is_active| Holding {
        version: Some(version),
        mark: Some(mark.to_owned()),
        is_active,
    };
    case("a deleted user is active", &["I4"], |target| {
        target.holds.insert(user(), holding(3, "m3", true));
    });
    case("a deleted user is not there", &[], |target| target.holds.clear());
    let undeleted = |history: &mut History| {
        history.source.entry(user()).or_default()[2].action = "updated".to_owned();
        for target in &mut history.targets {
            target.holds.insert(user(), holding(3, "m3", true));
        }
    };
    whole_case("an updated user is there", &[], undeleted);
    for (name, held) in [
        ("in an older version", holding(2, "m3", true)),
        ("in another state", holding(3, "m2", true)),
        ("but inactive", holding(3, "m3", false)),
    ] {
        whole_case(name, &["I4"], |history| {
            undeleted(history);
            history.targets[0].holds.insert(user(), held.clone());
        });
    }
    whole_case("an updated user is not there", &["I4"], |history| {
        undeleted(history);
        history.targets[0].holds.clear();
    });
    whole_case("a dead letter says why", &[], |history| {
        undeleted(history);
        let target = &mut history.targets[0];
        target.holds.insert(user(), holding(2, "m2", true));
        target.ledger.insert(user(), Entry { delivered_version: 2, dead_version: 3 });
        let letter = Letter { version: 3, reason: "http_422".to_owned(), class: "permanent".to_owned() };
        target.letters.insert(user(), vec![letter]);
    });
}

#[test]
fn a_key_with_two_bodies_and_a_request_without_one_are_found() {
    case("in the receiver's log", &["I5"], |target| rows(target)[1].key = Some("k1".to_owned()));
    case("on the wire alone", &["I5"], |target| target.requests[1].body_sha256 = "other".to_owned());
    case("no key", &["I5"], |target| rows(target)[1].key = None);
}
