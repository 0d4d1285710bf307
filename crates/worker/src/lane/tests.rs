mod doubt;
mod jobs;
mod parking;
mod properties;
mod reading;

use super::*;
use Action::{Created, Deleted, Updated};
use postbound_event::UserKey;
use postbound_store::{ParkedSchedule, ParkedState, ParkedUser};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

fn event(version: i64, action: Action) -> Event {
    Event {
        id: Uuid::from_u128(version as u128),
        log_id: version,
        key: UserKey::new("t", "u"),
        version,
        action,
        origin: None,
        traceparent: None,
        logged_at: OffsetDateTime::UNIX_EPOCH,
        data: RawValue::from_string("{}".to_owned()).unwrap(),
        resend: 0,
        job: None,
    }
}

fn with_data(version: i64, action: Action, data: &str) -> Event {
    Event { data: RawValue::from_string(data.to_owned()).unwrap(), ..event(version, action) }
}

fn of_job(version: i64, item: i64, repeats: bool) -> Event {
    Event { job: Some(JobPart { job: 1, item, repeats, full: false }), ..event(version, Updated) }
}

fn tag(number: u64) -> Tag {
    Tag { source: Source::Live, number }
}

fn arrives(event: Event, number: u64) -> Arrival {
    Arrival { event, tag: Some(tag(number)), maybe_sent: false, from_target: false }
}

fn delivered(version: i64, present: bool) -> Held {
    Held { delivered_version: version, present, ..Held::default() }
}

fn deliver(lane: &mut Lane) -> Next {
    match lane.start(false) {
        Some(Step::Deliver(next)) => next,
        other => panic!("{other:?}"),
    }
}

fn settle(lane: &mut Lane, held: Held) -> Vec<Tag> {
    lane.settled(event(held.delivered_version, Updated), held, ItemOutcome::Delivered).0
}

fn park(lane: &mut Lane) -> Park {
    match lane.start(true) {
        Some(Step::Park(park)) => park,
        other => panic!("{other:?}"),
    }
}

fn versions(states: &[ParkedState]) -> Vec<(i64, Action)> {
    states.iter().map(|state| (state.event.version, state.event.action)).collect()
}

fn schedule(class: &str, attempts: u32) -> ParkedSchedule {
    ParkedSchedule { attempts, class: class.to_owned(), ..held_back(None) }
}

fn parked_user(states: Vec<Event>, class: &str) -> ParkedUser {
    ParkedUser {
        key: UserKey::new("t", "u"),
        schedule: schedule(class, 2),
        unknown_stored: Unknown::default(),
        unread_up_to: 0,
        states: states.into_iter().map(|event| ParkedState { event, send_as: None }).collect(),
    }
}

/// Enters events of these actions as versions 1, 2, ..., message `version * 10`, and delivers all of them.
/// Gives what was sent: version and action.
fn sent(folds: bool, actions: &[Action]) -> Vec<(i64, Action)> {
    let mut lane = Lane::new(Held::default(), folds);
    for (index, action) in actions.iter().enumerate() {
        let version = index as i64 + 1;
        assert_eq!(lane.enter(arrives(event(version, *action), version as u64 * 10)), Entered::Waits);
    }
    let mut sent = Vec::new();
    let mut acked = Vec::new();
    while !lane.is_idle() {
        let next = deliver(&mut lane);
        assert!(lane.start(false).is_none(), "one at a time");
        sent.push((next.event.version, next.action));
        acked.extend(settle(&mut lane, delivered(next.event.version, next.action != Deleted)));
    }
    acked.sort_by_key(|tag| tag.number);
    assert_eq!(acked, (1..=actions.len() as u64).map(|version| tag(version * 10)).collect::<Vec<_>>());
    sent
}

#[test]
fn without_folding_every_event_is_sent_in_order() {
    assert_eq!(
        sent(false, &[Created, Updated, Updated, Deleted, Created]),
        [(1, Created), (2, Updated), (3, Updated), (4, Deleted), (5, Created)]
    );
}

#[test]
fn folding_sends_the_newest_state_but_never_folds_a_delete_away() {
    assert_eq!(sent(true, &[Created, Updated, Updated]), [(3, Created)]);
    assert_eq!(sent(true, &[Created, Updated, Deleted]), [(3, Deleted)]);
    assert_eq!(sent(true, &[Updated, Deleted, Created, Updated]), [(2, Deleted), (4, Created)]);
    assert_eq!(sent(true, &[Deleted, Deleted, Created]), [(1, Deleted), (2, Deleted), (3, Created)]);
}

#[test]
fn a_bare_delete_takes_the_state_folded_into_it() {
    let mut lane = Lane::new(Held::default(), true);
    let known = r#"{"email":"a@example.com"}"#;
    lane.enter(arrives(with_data(1, Created, known), 1));
    lane.enter(arrives(event(2, Deleted), 2));
    assert_eq!(deliver(&mut lane).event.data.get(), known);
}

#[test]
fn what_the_ledger_has_is_not_sent_again() {
    let held = Held { delivered_version: 3, dead_version: 5, present: true, ..Held::default() };
    let mut lane = Lane::new(held, true);
    assert_eq!(lane.enter(arrives(event(3, Updated), 1)), Entered::Settled);
    assert_eq!(lane.enter(arrives(event(5, Updated), 2)), Entered::Settled);
    assert_eq!(lane.enter(arrives(event(6, Created), 3)), Entered::Waits);
    assert_eq!(deliver(&mut lane).action, Updated, "the target holds the user already");
}

#[test]
fn an_event_that_comes_twice_is_sent_once_and_acknowledges_both_messages() {
    let mut lane = Lane::new(Held::default(), false);
    lane.enter(arrives(event(1, Created), 1));
    lane.enter(arrives(event(2, Updated), 2));
    assert_eq!(deliver(&mut lane).event.version, 1);
    lane.enter(arrives(event(1, Created), 3));
    lane.enter(arrives(event(2, Updated), 4));
    assert_eq!(settle(&mut lane, delivered(1, true)), [tag(1), tag(3)]);
    assert_eq!(deliver(&mut lane).event.version, 2);
    assert_eq!(settle(&mut lane, delivered(2, true)), [tag(2), tag(4)]);
    assert!(lane.is_idle());
}

#[test]
fn a_target_that_is_ahead_settles_all_it_has_passed() {
    let mut lane = Lane::new(Held::default(), false);
    for version in 1..=4 {
        lane.enter(arrives(event(version, Updated), version as u64));
    }
    deliver(&mut lane);
    assert_eq!(settle(&mut lane, delivered(3, true)), [tag(1), tag(2), tag(3)]);
    assert_eq!(deliver(&mut lane).event.version, 4);
}

#[test]
fn a_change_that_came_from_the_target_counts_as_held_only_when_nothing_is_pending() {
    let echo = |version| Arrival { from_target: true, ..arrives(event(version, Updated), version as u64) };
    let mut quiet = Lane::new(delivered(1, true), true);
    quiet.enter(echo(2));
    assert!(matches!(quiet.start(false), Some(Step::Echo(event)) if event.version == 2));

    let mut pending = Lane::new(delivered(1, true), true);
    pending.enter(arrives(event(2, Updated), 2));
    pending.enter(echo(3));
    assert_eq!(deliver(&mut pending).event.version, 3, "it gets the merged state");

    let mut dead = Lane::new(Held { dead_version: 2, ..delivered(1, true) }, true);
    dead.enter(echo(3));
    assert_eq!(deliver(&mut dead).event.version, 3);
}
