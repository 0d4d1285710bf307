use super::*;

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
