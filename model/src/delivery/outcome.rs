//! What answers come to: `crates/worker/src/delivery.rs`.

use super::{
    Change, Delivery, Event, State,
    lane::Next,
    store::{DoubtChange, Held, Parking, ParkingCause, Settlement, Unknown, Verdict, Write},
    target::Answer,
    worker::{Session, Then, Work, WorkerAction},
};

/// What the answer, or its absence, comes to.
pub(super) fn answer(
    model: &Delivery,
    state: &mut State,
    w: usize,
    session: &mut Session,
    mut next: Next,
    action: WorkerAction,
) {
    let version = next.event.version;
    if action == WorkerAction::Answered {
        let Some(at) = state.target.awaited(w) else { return };
        let is_superseded = match state.target.wire.remove(at).answer {
            Some(Answer::Stale(held)) => (version..=state.published).contains(&held),
            _ => true,
        };
        session.work = Some(if is_superseded { settles(model, session, &next) } else { Work::Burying(next) });
        if !model.protections.ledger_before_ack
            && let Some(lane) = &session.lane
        {
            let tags = lane.running_tags();
            session.acknowledge(&tags);
        }
        return;
    }
    let faults = &mut state.faults;
    let budget = match action {
        WorkerAction::TimedOut => &mut faults.timeouts,
        WorkerAction::Failed => &mut faults.failures,
        _ => &mut faults.refusals,
    };
    *budget -= 1;
    if action == WorkerAction::TimedOut {
        next.unknown = next.unknown.and(Unknown::of(version));
        state.target.give_up_waiting(w);
    } else if let Some(at) = state.target.awaited(w) {
        state.target.wire.remove(at);
    }
    if action == WorkerAction::GivenUp {
        session.work = Some(Work::Burying(next));
        return;
    }
    let refused = action == WorkerAction::Refused;
    let Some(lane) = &mut session.lane else { return };
    session.work = lane.park_failed(model, &next, ParkingCause::Failed, refused).map(parks);
    if !model.protections.parks_before_ack {
        let tags = lane.running_tags();
        session.acknowledge(&tags);
    }
}

pub(super) fn parks(parking: Parking) -> Work {
    let then = Then::Parked(parking.states.clone());
    Work::Writing(Write::Park(parking), then)
}

fn settles(model: &Delivery, session: &Session, next: &Next) -> Work {
    let held = session.lane.as_ref().map_or_else(Held::default, |lane| lane.held);
    let present = next.told != Change::Deleted;
    let doubt = doubt(model, &held, next);
    let is_doubtful = match doubt {
        Some(DoubtChange::Raised { late: Some(_), .. }) => true,
        Some(DoubtChange::Cleared { .. }) => false,
        _ => held.doubt,
    };
    let version = next.event.version;
    let settlement = Settlement {
        version,
        verdict: Verdict::Delivered { present },
        unparks: held.parked,
        doubt,
        item: next.item,
    };
    let held =
        Held { delivered: held.delivered.max(version), present, parked: false, doubt: is_doubtful, ..held };
    Work::Writing(Write::Settle(settlement), Then::Settled { held, dead: false, letter: None })
}

pub(super) fn settles_dead(model: &Delivery, session: &Session, next: &Next, letter: Option<u8>) -> Work {
    let held = session.lane.as_ref().map_or_else(Held::default, |lane| lane.held);
    let version = next.event.version;
    let (verdict, unparks, item) = (Verdict::Dead, held.parked, next.item);
    // It is never sent itself: only what is newer needs to know.
    let raises = model.protections.letters_keep_doubt && model.has_doubts() && next.unknown.newest > 0;
    let event = Event { resend: next.event.resend + 1, job: None, ..next.event };
    let doubt = raises.then_some(DoubtChange::Raised { event, late: Some(version) });
    let settlement = Settlement { version, verdict, unparks, doubt, item };
    let held = Held { dead: held.dead.max(version), parked: false, doubt: held.doubt || raises, ..held };
    Work::Writing(Write::Settle(settlement), Then::Settled { held, dead: true, letter })
}

fn doubt(model: &Delivery, held: &Held, next: &Next) -> Option<DoubtChange> {
    if !model.has_doubts() || !model.protections.doubts {
        return None;
    }
    let Next { event, unknown, .. } = next;
    let is_resend = event.resend > 0 && event.job.is_none();
    // Of newer ones their own delivery says.
    let older = if unknown.oldest <= event.version { unknown.oldest } else { 0 };
    let outlives = held.doubt && !is_resend && model.protections.replays_keep_doubt;
    let late = match model.protections.doubt_knows_oldest {
        false => unknown.newest,
        // The doubt there was may be forgotten by now, and was of an older version.
        true if outlives || held.doubt && older > 0 => 1,
        true => older,
    };
    if is_resend && late == 0 {
        return Some(DoubtChange::Cleared { resend: event.resend });
    }
    let late = (late > 0).then_some(late);
    if late.is_none() && !held.doubt {
        return None;
    }
    let event = Event { resend: event.resend + 1, job: None, ..*event };
    Some(DoubtChange::Raised { event, late })
}
