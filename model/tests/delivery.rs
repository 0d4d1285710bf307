use crate::{found, proved};
use insta::assert_snapshot;
use postbound_model::{
    delivery::{
        Change::{self, Created, Deleted, Updated},
        Delivery, Faults, Job, Protections,
    },
    ends, explore,
};

const NONE: Faults = Faults {
    repeats: 0,
    crashes: 0,
    evictions: 0,
    cuts: 0,
    timeouts: 0,
    failures: 0,
    refusals: 0,
    closings: 0,
    early_dues: 0,
};

const C: &[Change] = &[Created];
const CU: &[Change] = &[Created, Updated];
const CD: &[Change] = &[Created, Deleted];
const CUU: &[Change] = &[Created, Updated, Updated];
const CUD: &[Change] = &[Created, Updated, Deleted];
const CDC: &[Change] = &[Created, Deleted, Created];

/// A target that takes whatever comes: for it the order must be right by itself.
fn guardless(changes: &'static [Change], faults: Faults) -> Delivery {
    let protections = Protections::default();
    Delivery { changes, folds: true, guards_versions: false, job: None, faults, protections }
}

/// A target that refuses older versions.
fn guarded(changes: &'static [Change], faults: Faults) -> Delivery {
    // For it settlements are not fenced, and there is no doubt.
    let protections = Protections { writes_fenced: false, ..Protections::default() };
    Delivery { guards_versions: true, protections, ..guardless(changes, faults) }
}

/// A target that gets every event.
fn event_target(changes: &'static [Change], faults: Faults) -> Delivery {
    Delivery { folds: false, ..guarded(changes, faults) }
}

fn holds(name: &str, model: &Delivery) {
    proved(&format!("delivery: {name}"), explore(model));
}

#[test]
fn a_guarded_target_converges_whatever_happens_to_workers() {
    holds("guarded, eviction, crash", &guarded(CUD, Faults { evictions: 1, crashes: 1, ..NONE }));
    holds(
        "guarded, cut, repeat, closing",
        &guarded(CDC, Faults { cuts: 1, repeats: 1, closings: 1, ..NONE }),
    );
}

#[test]
fn a_guarded_target_converges_whatever_it_answers() {
    let faults = Faults { failures: 1, timeouts: 1, evictions: 1, ..NONE };
    holds("guarded, failure, timeout, eviction", &guarded(CU, faults));
    holds(
        "guarded, timeout, early due",
        &guarded(CDC, Faults { timeouts: 1, early_dues: 1, failures: 1, ..NONE }),
    );
    holds(
        "guarded, refusal, timeout, crash",
        &guarded(CU, Faults { refusals: 1, timeouts: 1, crashes: 1, ..NONE }),
    );
}

#[test]
fn a_guarded_target_converges_with_jobs_beside_live_changes() {
    let job = |job, faults| Delivery { job: Some(job), ..guarded(CU, faults) };
    holds(
        "guarded, replay, 2 refusals, crash",
        &job(Job::Replay, Faults { refusals: 2, crashes: 1, ..NONE }),
    );
    holds("guarded, resync, crash", &job(Job::Resync, Faults { crashes: 1, ..NONE }));
    holds(
        "guarded, resync, failure, closing",
        &job(Job::Resync, Faults { failures: 1, closings: 1, ..NONE }),
    );
}

#[test]
fn an_event_target_gets_every_event_in_order() {
    holds("events, eviction, crash", &event_target(CDC, Faults { evictions: 1, crashes: 1, ..NONE }));
    holds(
        "events, timeout, closing, early due",
        &event_target(CUD, Faults { timeouts: 1, closings: 1, early_dues: 1, ..NONE }),
    );
    let replay =
        Delivery { job: Some(Job::Replay), ..event_target(CU, Faults { refusals: 1, crashes: 1, ..NONE }) };
    holds("events, replay, refusal, crash", &replay);
}

#[test]
fn an_event_target_without_a_guard_gets_every_event_in_order_too() {
    let model = |changes, faults| Delivery { folds: false, ..guardless(changes, faults) };
    holds("guardless events, timeout, crash", &model(CUD, Faults { timeouts: 1, crashes: 1, ..NONE }));
    holds("guardless events, 2 timeouts, refusal", &model(CU, Faults { timeouts: 2, refusals: 1, ..NONE }));
}

/// Left open: a job beside a worker that dies. What the job sent last may be given out again after live changes have
/// passed it, and the doubt about it goes then.
#[test]
fn a_target_without_a_guard_converges_too() {
    holds("guardless, eviction, repeat", &guardless(CDC, Faults { evictions: 1, repeats: 1, ..NONE }));
    holds("guardless, crash, closing", &guardless(CUD, Faults { crashes: 1, closings: 1, ..NONE }));
    holds("guardless, failure, crash", &guardless(CDC, Faults { failures: 1, crashes: 1, ..NONE }));
    holds("guardless, timeout, refusal", &guardless(CUD, Faults { timeouts: 1, refusals: 1, ..NONE }));
    holds("guardless, timeout, crash", &guardless(CDC, Faults { timeouts: 1, crashes: 1, ..NONE }));
    let faults = Faults { timeouts: 1, closings: 1, early_dues: 1, ..NONE };
    holds("guardless, timeout, closing, early due", &guardless(CDC, faults));
    holds("guardless, 2 timeouts, refusal", &guardless(CUU, Faults { timeouts: 2, refusals: 1, ..NONE }));
    let job = |job, faults| Delivery { job: Some(job), ..guardless(CUD, faults) };
    holds(
        "guardless, replay, timeout, refusal",
        &job(Job::Replay, Faults { timeouts: 1, refusals: 1, ..NONE }),
    );
    holds("guardless, resync, timeout", &job(Job::Resync, Faults { timeouts: 1, ..NONE }));
}

#[test]
fn every_run_comes_to_an_end() {
    let ways = [
        guardless(CU, Faults { crashes: 1, timeouts: 1, failures: 1, ..NONE }),
        guarded(CD, Faults { evictions: 1, refusals: 1, closings: 1, ..NONE }),
    ];
    for model in ways {
        if let Err(circle) = ends(&model) {
            panic!("{circle}");
        }
    }
}

/// The trace without one of the protections.
fn without(mut model: Delivery, take_out: impl FnOnce(&mut Protections)) -> String {
    take_out(&mut model.protections);
    found(explore(&model))
}

#[test]
fn without_the_version_gate_a_repeated_message_goes_over_a_newer_state() {
    assert_snapshot!(without(guardless(CU, Faults { repeats: 1, ..NONE }), |p| p.version_gate = false));
}

#[test]
fn without_the_fence_of_the_lease_an_old_owner_goes_over_the_new_one() {
    assert_snapshot!(without(guardless(CU, Faults { evictions: 1, ..NONE }), |p| p.lease_fence = false));
}

#[test]
fn without_waiting_for_the_last_consumer_an_event_is_skipped() {
    assert_snapshot!(
        without(event_target(CU, Faults { evictions: 1, ..NONE }), |p| p.waits_for_consumer = false)
    );
}

#[test]
fn with_an_acknowledgement_before_the_ledger_a_change_is_lost() {
    assert_snapshot!(without(guarded(C, Faults { crashes: 1, ..NONE }), |p| p.ledger_before_ack = false));
}

#[test]
fn with_an_acknowledgement_before_a_user_is_parked_a_change_is_lost() {
    let model = guarded(C, Faults { failures: 1, crashes: 1, ..NONE });
    assert_snapshot!(without(model, |p| p.parks_before_ack = false));
}

#[test]
fn with_the_ledger_before_the_letter_a_change_is_lost() {
    let model = guarded(C, Faults { refusals: 1, crashes: 1, ..NONE });
    assert_snapshot!(without(model, |p| p.letter_before_ledger = false));
}

#[test]
fn with_deletes_folded_a_user_is_never_deleted() {
    assert_snapshot!(without(guarded(CDC, NONE), |p| p.keeps_deletes = false));
}

#[test]
fn with_all_taken_out_by_a_success_what_was_stored_meanwhile_is_lost() {
    let model = guarded(CDC, Faults { closings: 1, ..NONE });
    assert_snapshot!(without(model, |p| p.unparks_by_version = false));
}

#[test]
fn without_the_gate_of_replays_a_letter_goes_over_a_newer_state() {
    let model = guardless(CU, Faults { refusals: 1, ..NONE });
    assert_snapshot!(without(Delivery { job: Some(Job::Replay), ..model }, |p| p.replay_gate = false));
}

#[test]
fn without_doubt_a_late_request_stays_over_a_newer_state() {
    assert_snapshot!(without(guardless(CU, Faults { timeouts: 1, ..NONE }), |p| p.doubts = false));
}

#[test]
fn without_doubt_about_redelivered_messages_a_dead_workers_request_stays_over_a_newer_state() {
    assert_snapshot!(
        without(guardless(CU, Faults { crashes: 1, ..NONE }), |p| p.redelivery_is_doubtful = false)
    );
}

#[test]
fn a_doubt_that_knows_only_the_newest_version_is_forgotten_too_early() {
    assert_snapshot!(without(guardless(CU, Faults { crashes: 1, ..NONE }), |p| p.doubt_knows_oldest = false));
}

#[test]
fn a_late_settlement_of_an_old_owner_hides_that_an_older_state_was_sent() {
    assert_snapshot!(without(guardless(CU, Faults { evictions: 1, ..NONE }), |p| p.writes_fenced = false));
}

#[test]
fn a_letter_that_forgets_the_doubt_leaves_an_older_state_there() {
    let model = guardless(CU, Faults { crashes: 1, refusals: 1, ..NONE });
    assert_snapshot!(without(model, |p| p.letters_keep_doubt = false));
}

#[test]
fn a_letter_that_takes_the_place_of_an_older_doubt_is_sent_again() {
    let model = guardless(CU, Faults { timeouts: 2, refusals: 1, ..NONE });
    assert_snapshot!(without(model, |p| p.letters_keep_older_doubt = false));
}

#[test]
fn doubt_about_an_event_tells_an_event_target_twice() {
    let model = Delivery { folds: false, ..guardless(CU, Faults { timeouts: 1, ..NONE }) };
    assert_snapshot!(without(model, |p| p.events_are_undoubted = false));
}

#[test]
fn a_replay_that_ends_its_letters_doubt_leaves_an_older_state_there() {
    let model = guardless(CUD, Faults { timeouts: 1, refusals: 1, ..NONE });
    assert_snapshot!(without(Delivery { job: Some(Job::Replay), ..model }, |p| p.replays_keep_doubt = false));
}

#[test]
fn a_doubtful_state_that_joins_a_newer_one_unnoticed_may_stay_over_it() {
    let model = guardless(CU, Faults { crashes: 1, ..NONE });
    assert_snapshot!(without(Delivery { job: Some(Job::Resync), ..model }, |p| p.joining_is_doubtful = false));
}

#[test]
fn a_feed_that_is_not_checked_forgets_an_unknown_outcome() {
    let model = guardless(CUD, Faults { timeouts: 1, refusals: 1, ..NONE });
    assert_snapshot!(without(model, |p| p.feeds_are_checked = false));
}

#[test]
fn a_resend_that_clears_every_doubt_clears_a_newer_one() {
    let model = guardless(CDC, Faults { timeouts: 1, closings: 1, early_dues: 1, ..NONE });
    assert_snapshot!(without(model, |p| {
        p.resends_clear_their_own = false;
        p.feeds_are_checked = false;
    }));
}
