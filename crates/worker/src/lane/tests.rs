use super::*;
use Action::{Created, Deleted, Updated};
use postbound_event::UserKey;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

fn event(version: i64, action: Action) -> Event {
    Event {
        id: Uuid::nil(),
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
fn a_replay_passes_a_dead_version_but_never_a_delivered_one() {
    let held =
        |delivered_version| Held { delivered_version, dead_version: 5, present: true, ..Held::default() };
    let mut lane = Lane::new(held(4), true);
    assert_eq!(lane.enter(arrives(of_job(5, 1, false), 1)), Entered::Waits);
    let next = deliver(&mut lane);
    assert_eq!(next.event.version, 5);
    let item = JobPart { job: 1, item: 1, repeats: false, full: false };
    assert_eq!(next.item_outcomes(ItemOutcome::Delivered), [(item, ItemOutcome::Delivered)]);
    for newer in [5, 6] {
        assert_eq!(Lane::new(held(newer), true).enter(arrives(of_job(5, 1, false), 1)), Entered::Settled);
    }
    let event_target = Lane::new(held(6), false).enter(arrives(of_job(5, 1, false), 1));
    assert_eq!(event_target, Entered::Waits, "what was never sent is, whatever came after it");
}

#[test]
fn a_resync_sends_what_the_target_holds_but_nothing_older() {
    let mut lane = Lane::new(delivered(5, true), true);
    assert_eq!(lane.enter(arrives(of_job(5, 1, true), 1)), Entered::Waits);
    assert_eq!(deliver(&mut lane).action, Updated);
    assert_eq!(Lane::new(delivered(6, true), true).enter(arrives(of_job(5, 1, true), 1)), Entered::Settled);
}

#[test]
fn an_item_whose_state_gives_way_to_a_newer_one_is_superseded() {
    let mut lane = Lane::new(Held { dead_version: 5, ..delivered(4, true) }, true);
    lane.enter(arrives(of_job(5, 1, false), 1));
    lane.enter(arrives(event(6, Updated), 2));
    let next = deliver(&mut lane);
    let item = JobPart { job: 1, item: 1, repeats: false, full: false };
    assert_eq!(next.item_outcomes(ItemOutcome::Delivered), [(item, ItemOutcome::Superseded)]);
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

#[test]
fn what_may_have_been_sent_before_is_remembered_until_a_newer_state_is_settled() {
    let mut lane = Lane::new(Held::default(), true);
    lane.enter(Arrival { maybe_sent: true, ..arrives(event(1, Created), 1) });
    lane.enter(arrives(event(2, Updated), 2));
    assert_eq!(deliver(&mut lane).unknown, Unknown::of(1));
    settle(&mut lane, delivered(2, true));
    lane.enter(arrives(event(3, Updated), 3));
    assert!(deliver(&mut lane).unknown.is_none());
}

fn maybe_sent(version: i64) -> Arrival {
    Arrival { maybe_sent: true, ..arrives(event(version, Updated), version as u64) }
}

#[test]
fn of_several_versions_that_may_have_been_sent_the_oldest_is_known_too() {
    let mut lane = Lane::new(Held::default(), true);
    lane.enter(maybe_sent(1));
    lane.enter(maybe_sent(2));
    let next = deliver(&mut lane);
    assert_eq!((next.event.version, next.unknown), (2, Unknown { oldest: 1, newest: 2 }));
    // One that comes while the other is under way stays in doubt after it.
    lane.enter(maybe_sent(3));
    settle(&mut lane, delivered(2, true));
    assert_eq!(deliver(&mut lane).unknown, Unknown::of(3));

    let mut parks = Lane::new(Held::default(), true);
    parks.enter(maybe_sent(1));
    parks.enter(maybe_sent(2));
    assert_eq!(park(&mut parks).schedule.unknown, Unknown { oldest: 1, newest: 2 });
}

#[test]
fn a_doubtful_version_that_joins_a_newer_one_under_way_has_that_sent_again() {
    let mut lane = Lane::new(Held::default(), true);
    // A job was faster than what was handed out before.
    lane.enter(arrives(of_job(2, 1, true), 1));
    assert!(deliver(&mut lane).unknown.is_none());
    assert_eq!(lane.enter(maybe_sent(1)), Entered::Waits);
    assert_eq!(settle(&mut lane, delivered(2, true)), [tag(1), tag(1)]);
    let again = deliver(&mut lane);
    assert_eq!((again.event.version, again.event.resend, again.unknown), (2, 1, Unknown::of(1)));
    settle(&mut lane, delivered(2, true));
    assert!(lane.is_idle());

    let mut dies = Lane::new(Held::default(), true);
    dies.enter(arrives(event(2, Updated), 2));
    deliver(&mut dies);
    dies.enter(maybe_sent(1));
    let dead = ItemOutcome::Dead { reason: "http_422" };
    dies.settled(event(2, Updated), Held { dead_version: 2, ..Held::default() }, dead);
    assert!(dies.is_idle(), "what is dead is not sent again");
    dies.enter(arrives(event(3, Updated), 3));
    assert_eq!(deliver(&mut dies).unknown, Unknown::of(1), "but the doubt stays");

    let mut event_target = Lane::new(Held::default(), false);
    event_target.enter(arrives(event(2, Updated), 2));
    deliver(&mut event_target);
    event_target.enter(maybe_sent(1));
    settle(&mut event_target, delivered(2, true));
    assert!(event_target.is_idle(), "an event undoes no other");
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

#[test]
fn a_due_user_the_target_is_closed_to_is_due_again_at_once() {
    let mut lane =
        Lane::parked(delivered(1, true), true, parked_user(vec![event(5, Updated)], "transient"), true);
    let park = park(&mut lane);
    assert_eq!((park.writes, park.cause), (StateWrites::Nothing, ParkingCause::NotTried));
    assert_eq!(park.schedule.next_attempt, NextAttempt::In(Duration::ZERO));
}

#[test]
fn an_item_that_meets_a_change_from_the_target_is_sent_all_the_same() {
    let echo = |version| Arrival { from_target: true, ..arrives(event(version, Updated), 1) };
    let mut waits = Lane::new(delivered(1, true), true);
    waits.enter(echo(2));
    waits.enter(arrives(of_job(2, 1, true), 2));
    assert_eq!(deliver(&mut waits).items.len(), 1);

    let mut runs = Lane::new(delivered(1, true), true);
    runs.enter(echo(2));
    assert!(matches!(runs.start(false), Some(Step::Echo(_))));
    runs.enter(arrives(of_job(2, 1, true), 2));
    settle(&mut runs, delivered(2, true));
    assert_eq!(deliver(&mut runs).event.version, 2);
}

#[test]
fn a_jobs_delivery_makes_haste_for_a_live_change_and_for_no_other_item() {
    for (version, arriving, hurries) in [
        (5, event(4, Updated), true),
        (5, event(5, Updated), true),
        (5, event(6, Updated), true),
        (5, of_job(6, 2, true), false),
    ] {
        let mut lane = Lane::new(delivered(3, true), true);
        lane.enter(arrives(of_job(version, 1, true), 1));
        let hurry = deliver(&mut lane).hurry.expect("it is of a job");
        let arrived = arriving.version;
        assert_eq!(lane.enter(arrives(arriving, 2)), Entered::Waits);
        assert_eq!(hurry.is_cancelled(), hurries, "version {arrived}");
    }
    let mut lane = Lane::new(delivered(3, true), true);
    lane.enter(arrives(event(5, Updated), 1));
    assert!(deliver(&mut lane).hurry.is_none(), "a live change has nothing to wait for");
}
