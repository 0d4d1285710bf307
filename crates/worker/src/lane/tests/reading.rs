use super::*;
use postbound_store::{ParkingCause, StateWrites};

/// A user of a target that gets every event, as read without the states: the newest that waits is version `newest`.
fn unread_user(newest: i64) -> ParkedUser {
    ParkedUser { unread_up_to: newest, ..parked_user(Vec::new(), "transient") }
}

fn page(versions: impl IntoIterator<Item = i64>) -> Vec<ParkedState> {
    let state = |version| ParkedState { event: event(version, Updated), send_as: None };
    versions.into_iter().map(state).collect()
}

fn reads(lane: &mut Lane) -> i64 {
    match lane.start(false) {
        Some(Step::Read { after }) => after,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_for_a_parked_user_who_is_not_due_is_stored_without_a_look_at_what_waits() {
    let mut lane = Lane::parked(delivered(1, true), false, unread_user(9), false);
    assert!(lane.is_idle() && lane.start(false).is_none());
    assert_eq!(lane.enter(arrives(event(9, Updated), 1)), Entered::Settled, "it is stored");
    assert_eq!(lane.enter(arrives(event(10, Updated), 2)), Entered::Waits);
    let Some(Step::Park(park)) = lane.start(false) else { panic!("{lane:?}") };
    assert_eq!((park.writes, park.cause), (StateWrites::Only(vec![10]), ParkingCause::Folded));
    assert_eq!(versions(&park.states), [(10, Updated)]);
    assert_eq!(lane.parked_now(park.states).0, [tag(2)]);
    assert!(lane.is_idle());
}

#[test]
fn what_waits_of_a_due_user_is_read_page_by_page_and_what_comes_meanwhile_follows_it() {
    let mut lane = Lane::parked(delivered(1, true), false, unread_user(5), true);
    lane.enter(arrives(event(6, Updated), 1));
    let mut sent = Vec::new();
    for (after, states) in [(0, 2..=3), (3, 4..=5)] {
        assert_eq!(reads(&mut lane), after);
        assert_eq!(lane.read(page(states.clone()), false), Read::GoesOn);
        for _ in states {
            let version = deliver(&mut lane).event.version;
            sent.push(version);
            settle(&mut lane, Held { parked: true, ..delivered(version, true) });
        }
    }
    sent.push(deliver(&mut lane).event.version);
    assert_eq!(sent, [2, 3, 4, 5, 6]);
    assert_eq!(settle(&mut lane, delivered(6, true)), [tag(1)]);
    assert!(lane.is_idle());
}

#[test]
fn a_page_of_what_was_settled_meanwhile_leaves_the_lane_with_nothing_but_what_came() {
    let mut lane = Lane::parked(delivered(5, true), false, unread_user(5), true);
    assert_eq!(reads(&mut lane), 0);
    assert_eq!(lane.read(page(2..=5), false), Read::NothingLeft);
    assert!(lane.is_idle());
    lane.enter(arrives(event(6, Updated), 1));
    assert_eq!(deliver(&mut lane).event.version, 6);
}

#[test]
fn of_pages_read_only_what_is_new_is_written_when_one_fails() {
    let mut lane = Lane::parked(delivered(1, true), false, unread_user(5), true);
    reads(&mut lane);
    lane.read(page(2..=3), false);
    lane.enter(arrives(event(6, Updated), 1));
    let next = deliver(&mut lane);
    let park = lane.park_failed(next, schedule("transient", 3), ParkingCause::Failed).unwrap();
    assert_eq!(park.writes, StateWrites::Only(vec![2, 6]), "the one that was tried, and the one that came");
    lane.parked_now(park.states);
    assert!(lane.is_idle());
    // The feeder took the user before.
    lane.wake(unread_user(5));
    assert_eq!(reads(&mut lane), 0, "from the start");
    lane.read(page(2..=5), false);
    for version in 2..=5 {
        assert_eq!(deliver(&mut lane).event.version, version);
        settle(&mut lane, Held { parked: true, ..delivered(version, true) });
    }
    assert_eq!(reads(&mut lane), 5, "to the end");
}
