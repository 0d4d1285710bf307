use super::*;
use postbound_store::{NextAttempt, ParkingCause, StateWrites};
use std::time::Duration;

#[test]
fn a_user_the_target_is_closed_to_is_stored_folded_and_settles_its_messages() {
    let mut lane = Lane::new(delivered(1, true), true);
    for (version, action) in [(2, Updated), (3, Deleted), (4, Created), (5, Updated)] {
        lane.enter(arrives(event(version, action), version as u64));
    }
    let park = park(&mut lane);
    assert_eq!(versions(&park.states), [(3, Deleted), (5, Updated)]);
    assert_eq!((park.schedule.attempts, park.schedule.class.as_str()), (0, "held"));
    let mut tags = lane.parked_now(park.states).0;
    tags.sort_by_key(|tag| tag.number);
    assert_eq!(tags, [tag(2), tag(3), tag(4), tag(5)]);
    assert!(lane.is_idle());
}

#[test]
fn what_comes_while_a_user_is_being_stored_is_stored_with_it() {
    let mut lane = Lane::new(delivered(1, true), true);
    lane.enter(arrives(event(2, Deleted), 2));
    let first = park(&mut lane);
    lane.enter(arrives(event(3, Created), 3));
    assert!(lane.start(true).is_none());
    assert_eq!(lane.parked_now(first.states).0, [tag(2)]);
    let second = park(&mut lane);
    assert_eq!(versions(&second.states), [(2, Deleted), (3, Created)], "the delete is still the first step");
    assert_eq!((second.writes, second.cause), (StateWrites::All, ParkingCause::Folded));
}

#[test]
fn a_parked_user_that_is_not_due_takes_newer_states_in_without_an_attempt() {
    let mut lane =
        Lane::parked(delivered(1, true), true, parked_user(vec![event(5, Updated)], "transient"), false);
    assert_eq!(lane.enter(arrives(event(4, Updated), 4)), Entered::Settled, "by version, never by arrival");
    assert_eq!(lane.enter(arrives(event(5, Updated), 5)), Entered::Settled, "it is stored");
    assert_eq!(lane.enter(arrives(event(6, Updated), 6)), Entered::Waits);
    let Some(Step::Park(park)) = lane.start(false) else { panic!("it is not due") };
    assert_eq!(versions(&park.states), [(6, Updated)]);
    assert_eq!((park.schedule.attempts, park.cause), (2, ParkingCause::Folded), "the schedule stays");
}

#[test]
fn a_newer_state_than_a_refused_one_is_tried_at_once() {
    let mut lane =
        Lane::parked(delivered(1, true), true, parked_user(vec![event(5, Updated)], "permanent"), false);
    lane.enter(arrives(event(6, Updated), 6));
    let next = deliver(&mut lane);
    assert_eq!((next.event.version, next.schedule.unwrap().repeats), (6, 0));
}

#[test]
fn a_newer_state_that_comes_while_a_refusal_is_under_way_starts_with_a_clean_slate() {
    let parked = || parked_user(vec![event(5, Updated)], "permanent");
    for was_parked in [true, false] {
        let mut lane = match was_parked {
            true => Lane::parked(delivered(1, true), true, parked(), true),
            false => Lane::new(delivered(1, true), true),
        };
        if !was_parked {
            lane.enter(arrives(event(5, Updated), 5));
        }
        let refused = deliver(&mut lane);
        lane.enter(arrives(event(6, Updated), 6));
        assert!(lane.park_failed(refused, schedule("permanent", 3), ParkingCause::Failed).is_none());
        let next = deliver(&mut lane);
        let slate = next.schedule.as_ref().map(|schedule| (schedule.attempts, schedule.repeats));
        assert_eq!((next.event.version, slate), (6, was_parked.then_some((0, 0))), "{was_parked}");
        let park = lane.park_failed(next, schedule("permanent", 1), ParkingCause::Failed).unwrap();
        assert_eq!((versions(&park.states), park.schedule.attempts), (vec![(6, Updated)], 1));
        assert_eq!(lane.parked_now(park.states).0.len(), if was_parked { 1 } else { 2 });
    }
}

#[test]
fn what_was_not_refused_or_does_not_give_way_is_parked_with_what_came_meanwhile() {
    let check = |what: &str, action, folds, class, cause| {
        let mut lane = Lane::new(delivered(1, true), folds);
        lane.enter(arrives(event(2, action), 2));
        let next = deliver(&mut lane);
        lane.enter(arrives(event(3, Created), 3));
        let park = lane.park_failed(next, schedule(class, 3), cause);
        assert_eq!(park.map(|park| park.schedule.attempts), Some(3), "{what}");
    };
    check("a failure that says nothing of the content", Updated, true, "transient", ParkingCause::Failed);
    check("no failure", Updated, true, "permanent", ParkingCause::NotTried);
    check("a delete is never folded away", Deleted, true, "permanent", ParkingCause::Failed);
    check("every event is sent", Updated, false, "permanent", ParkingCause::Failed);
}

#[test]
fn a_refused_delete_keeps_its_schedule_whatever_comes_after_it() {
    let mut lane =
        Lane::parked(delivered(1, true), true, parked_user(vec![event(5, Deleted)], "permanent"), false);
    lane.enter(arrives(event(6, Created), 6));
    let Some(Step::Park(park)) = lane.start(false) else { panic!("it is not due") };
    assert_eq!((park.schedule.attempts, park.cause), (2, ParkingCause::Folded));
}

#[test]
fn an_event_target_keeps_every_parked_event_in_order() {
    let states = vec![event(5, Updated), event(6, Updated)];
    let mut lane = Lane::parked(delivered(4, true), false, parked_user(states, "transient"), false);
    assert_eq!(lane.enter(arrives(event(6, Updated), 1)), Entered::Settled);
    lane.enter(arrives(event(7, Deleted), 2));
    let Some(Step::Park(park)) = lane.start(false) else { panic!("it is not due") };
    assert_eq!(versions(&park.states), [(5, Updated), (6, Updated), (7, Deleted)]);
    assert_eq!(park.writes, StateWrites::Only(vec![7]), "the others are stored");
}

#[test]
fn a_stored_event_is_sent_though_rabbitmq_gave_a_later_one_up() {
    let held = Held { dead_version: 6, ..delivered(4, true) };
    let states = vec![event(5, Updated), event(6, Updated), event(7, Updated)];
    let mut lane = Lane::parked(held, false, parked_user(states, "transient"), true);
    assert_eq!(deliver(&mut lane).event.version, 5);
    settle(&mut lane, Held { dead_version: 6, ..delivered(5, true) });
    assert_eq!(deliver(&mut lane).event.version, 7, "and the one it gave up is not sent");
}

#[test]
fn a_schedule_that_was_read_anew_while_its_user_was_stored_takes_the_place_of_the_old_one() {
    let mut lane =
        Lane::parked(delivered(1, true), true, parked_user(vec![event(5, Updated)], "transient"), false);
    lane.enter(arrives(event(6, Updated), 6));
    let Some(Step::Park(park)) = lane.start(false) else { panic!("it is not due") };
    let refunded = schedule("transient", 0);
    lane.wake(ParkedUser { schedule: refunded, ..parked_user(vec![event(5, Updated)], "transient") });
    lane.parked_now(park.states);
    assert_eq!(deliver(&mut lane).schedule.map(|schedule| schedule.attempts), Some(0));
}

#[test]
fn a_failed_delivery_is_parked_with_what_came_after_it_and_told_the_same_again() {
    let mut lane = Lane::new(Held::default(), true);
    lane.enter(arrives(event(1, Created), 1));
    let next = deliver(&mut lane);
    lane.enter(arrives(event(2, Deleted), 2));
    let park = lane.park_failed(next, schedule("transient", 3), ParkingCause::Failed).unwrap();
    assert_eq!(versions(&park.states), [(2, Deleted)]);
    let mut tags = lane.parked_now(park.states).0;
    tags.sort_by_key(|tag| tag.number);
    assert_eq!(tags, [tag(1), tag(2)]);

    let mut lane = Lane::new(Held::default(), true);
    lane.enter(arrives(event(1, Updated), 1));
    let next = deliver(&mut lane);
    assert_eq!(next.action, Created);
    let park = lane.park_failed(next, schedule("transient", 3), ParkingCause::Failed).unwrap();
    let user = ParkedUser { schedule: park.schedule, states: park.states, ..parked_user(Vec::new(), "") };
    let mut again = Lane::parked(delivered(0, true), true, user, true);
    let next = deliver(&mut again);
    assert_eq!(next.action, Created, "fixed at the first attempt");
    let park = again.park_failed(next, schedule("transient", 4), ParkingCause::Failed).unwrap();
    assert_eq!(park.writes, StateWrites::Nothing, "only the schedule is new");
}

#[test]
fn a_success_leaves_the_rest_of_a_parked_user_due() {
    let states = vec![event(5, Deleted), event(6, Created)];
    let mut lane = Lane::parked(delivered(4, true), true, parked_user(states, "transient"), true);
    assert_eq!(deliver(&mut lane).event.version, 5);
    settle(&mut lane, delivered(5, false));
    let next = deliver(&mut lane);
    assert_eq!((next.event.version, next.action), (6, Created));
    assert!(next.schedule.is_none(), "a clean slate");
}

#[test]
fn a_parked_user_that_was_delivered_before_it_got_here_is_not_sent_again() {
    let mut lane = Lane::new(delivered(5, true), true);
    lane.wake(parked_user(vec![event(5, Updated)], "transient"));
    assert!(lane.is_idle() && lane.start(false).is_none());
    assert!(
        Lane::parked(delivered(5, true), true, parked_user(vec![event(5, Updated)], "transient"), true)
            .is_idle()
    );
}

#[test]
fn a_lane_that_is_kept_after_its_user_was_stored_still_knows_all_that_is_stored() {
    let mut lane = Lane::new(delivered(1, true), false);
    lane.enter(arrives(event(2, Updated), 2));
    let first = park(&mut lane);
    lane.parked_now(first.states);
    assert!(
        lane.is_idle() && lane.start(false).is_none(),
        "nothing to do, and yet it may be kept for a while"
    );
    assert_eq!(lane.enter(arrives(event(2, Updated), 4)), Entered::Settled);
    lane.enter(arrives(event(3, Updated), 3));
    assert_eq!(versions(&park(&mut lane).states), [(3, Updated)]);
}

#[test]
fn a_due_user_the_target_is_closed_to_is_due_again_at_once() {
    let mut lane =
        Lane::parked(delivered(1, true), true, parked_user(vec![event(5, Updated)], "transient"), true);
    let park = park(&mut lane);
    assert_eq!((park.writes, park.cause), (StateWrites::Nothing, ParkingCause::NotTried));
    assert_eq!(park.schedule.next_attempt, NextAttempt::In(Duration::ZERO));
}
