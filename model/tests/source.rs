use crate::{found, proved};
use insta::assert_snapshot;
use postbound_model::{
    ends, explore,
    source::{Faults, Protections, Source},
};

const A: u8 = 0;
const B: u8 = 1;

/// Two transactions of one user, and one of both: all that can come between windows.
const CROWD: &[&[u8]] = &[&[A], &[A, B], &[B]];
const PAIR: &[&[u8]] = &[&[A], &[A]];

fn model(transactions: &'static [&'static [u8]], faults: Faults, protections: Protections) -> Source {
    Source { transactions, faults, protections }
}

fn holds(name: &str, transactions: &'static [&'static [u8]], faults: Faults) {
    proved(&format!("source: {name}"), explore(&model(transactions, faults, Protections::default())));
}

#[test]
fn nothing_is_lost_whoever_commits_when() {
    let faults = Faults { rollbacks: 1, ..Faults::default() };
    holds("3 transactions, 1 rollback", CROWD, faults);
}

#[test]
fn nothing_is_lost_over_takeovers_and_crashes() {
    let faults = Faults { crashes: 1, takeovers: 1, refusals: 1, ..Faults::default() };
    holds("2 transactions, 1 crash, 1 takeover, 1 refusal", PAIR, faults);
}

#[test]
fn nothing_is_lost_though_a_queue_is() {
    let faults = Faults { takeovers: 1, queue_losses: 1, ..Faults::default() };
    holds("2 transactions, 1 takeover, 1 lost queue", PAIR, faults);
}

#[test]
fn every_run_comes_to_an_end() {
    let faults = Faults { rollbacks: 1, crashes: 1, takeovers: 1, refusals: 1, queue_losses: 1 };
    assert!(ends(&model(&[&[A]], faults, Protections::default())).is_ok());
}

/// The trace without one of the protections.
fn without(
    transactions: &'static [&'static [u8]],
    faults: Faults,
    take_out: impl FnOnce(&mut Protections),
) -> String {
    let mut protections = Protections::default();
    take_out(&mut protections);
    found(explore(&model(transactions, faults, protections)))
}

#[test]
fn without_the_lock_of_the_users_row_versions_come_in_the_wrong_order() {
    assert_snapshot!(without(&[&[A], &[A]], Faults::default(), |p| p.user_row_lock = false));
}

#[test]
fn with_an_id_drawn_before_the_lock_versions_come_in_the_wrong_order() {
    assert_snapshot!(without(&[&[A], &[A]], Faults::default(), |p| p.id_under_lock = false));
}

#[test]
fn with_windows_bounded_by_ids_a_change_is_lost() {
    assert_snapshot!(without(&[&[A], &[B]], Faults::default(), |p| p.windows_by_xid = false));
}

#[test]
fn with_a_new_s2_after_a_takeover_a_late_commit_is_lost() {
    let faults = Faults { takeovers: 1, ..Faults::default() };
    assert_snapshot!(without(&[&[A], &[B]], faults, |p| p.window_keeps_s2 = false));
}

#[test]
fn with_a_cursor_that_waits_for_no_confirm_a_change_is_lost() {
    let faults = Faults { takeovers: 1, ..Faults::default() };
    assert_snapshot!(without(&[&[A]], faults, |p| p.cursor_awaits_confirms = false));
}

#[test]
fn with_two_messages_out_a_refused_one_comes_after_a_newer_one() {
    let faults = Faults { refusals: 1, ..Faults::default() };
    assert_snapshot!(without(&[&[A, A]], faults, |p| p.one_unconfirmed = false));
}

#[test]
fn without_the_fence_of_rewinds_what_a_lost_queue_held_stays_lost() {
    let faults = Faults { queue_losses: 1, ..Faults::default() };
    assert_snapshot!(without(&[&[A]], faults, |p| p.rewind_fence = false));
}

#[test]
fn with_a_queue_declared_before_the_rewind_what_it_held_is_lost() {
    let faults = Faults { queue_losses: 1, ..Faults::default() };
    assert_snapshot!(without(&[&[A]], faults, |p| p.rewinds_first = false));
}

/// Each session's cursor tells the truth about what is confirmed, wherever it begins; and rewinds, which take something
/// back, have a fence of their own. So the token saves work, not changes.
#[test]
fn without_the_token_a_cursor_goes_back_but_nothing_is_lost() {
    let faults = Faults { takeovers: 1, queue_losses: 1, ..Faults::default() };
    let protections = Protections { token_fence: false, ..Protections::default() };
    proved("source: no token, 1 takeover, 1 lost queue", explore(&model(&[&[A, A]], faults, protections)));
}
