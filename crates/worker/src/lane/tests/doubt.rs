use super::*;

fn maybe_sent(version: i64) -> Arrival {
    Arrival { maybe_sent: true, ..arrives(event(version, Updated), version as u64) }
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
