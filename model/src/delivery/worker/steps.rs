use super::{Session, Work, WorkerAction};
use crate::delivery::{Action, Delivery, Source, State};

/// Messages a session takes ahead at most.
const PREFETCH: usize = 3;

/// What workers may do next.
pub(in crate::delivery) fn steps(model: &Delivery, state: &State, steps: &mut Vec<Action>) {
    for (w, session) in state.workers.iter().enumerate() {
        let mut can = |action| steps.push(Action::Worker(w, action));
        let Some(session) = session else {
            let is_consumed = state.workers.iter().flatten().any(|other| other.consumes);
            let is_free = state.owner.is_none_or(|owner| owner == w);
            if is_free && (!is_consumed || !model.protections.waits_for_consumer) {
                can(WorkerAction::Open);
            }
            continue;
        };
        if session.consumes {
            intake_steps(model, state, session, &mut can);
        }
        if session.consumes && !session.leased {
            can(WorkerAction::Cut);
        }
        if session.unparking.is_some() {
            can(WorkerAction::Unpark);
        }
        match &session.work {
            Some(Work::Ready(_)) => {
                if session.leased || !model.protections.lease_fence {
                    can(WorkerAction::Send);
                }
                if !session.consumes {
                    can(WorkerAction::Abandon);
                }
            }
            Some(Work::Sent(_)) => {
                if let Some(at) = state.target.awaited(w)
                    && state.target.wire[at].answer.is_some()
                {
                    can(WorkerAction::Answered);
                }
            }
            Some(Work::Burying(_)) => can(WorkerAction::Bury),
            Some(Work::Writing(..)) => can(WorkerAction::Commit),
            Some(Work::Written(_)) => can(WorkerAction::Done),
            None => {}
        }
    }
}

fn intake_steps(model: &Delivery, state: &State, session: &Session, mut can: impl FnMut(WorkerAction)) {
    if session.intake.is_some() {
        can(WorkerAction::Enter);
    } else {
        if session.unacknowledged.len() < PREFETCH {
            if !state.live.is_empty() {
                can(WorkerAction::Take(Source::Live));
            }
            if !state.backfill.is_empty() {
                can(WorkerAction::Take(Source::Backfill));
            }
        }
        if session.fed.is_some() {
            can(WorkerAction::TakeFed);
        }
    }
    if session.fed.is_none() {
        if state.store.parked_user.is_some_and(|user| user.due) {
            can(WorkerAction::TakeDue);
        }
        let is_resent = state.workers.iter().flatten().any(Session::resends);
        if state.doubt_is_due()
            && !is_resent
            && state.store.parked_user.is_none()
            && state.store.doubt.is_some_and(|doubt| doubt.event.version > doubt.late)
        {
            can(WorkerAction::TakeDoubtful);
        }
    }
    if session.can_start(model, false) {
        can(WorkerAction::Start);
    }
}

/// What may go wrong with them.
pub(in crate::delivery) fn mishaps(model: &Delivery, state: &State, mishaps: &mut Vec<Action>) {
    let faults = &state.faults;
    for (w, session) in state.workers.iter().enumerate() {
        let Some(session) = session else { continue };
        let mut can = |action| mishaps.push(Action::Worker(w, action));
        if faults.crashes > 0 {
            can(WorkerAction::Crash);
        }
        let is_sent = matches!(session.work, Some(Work::Sent(_)));
        // A lease outlives every request that was started under it.
        if faults.evictions > 0 && session.leased && (!is_sent || !model.protections.lease_fence) {
            can(WorkerAction::Evict);
        }
        if faults.cuts > 0 && session.consumes {
            can(WorkerAction::Cut);
        }
        if faults.closings > 0 && session.can_start(model, true) {
            can(WorkerAction::StartClosed);
        }
        if is_sent {
            if faults.timeouts > 0 {
                can(WorkerAction::TimedOut);
            }
            let is_unanswered =
                state.target.awaited(w).is_some_and(|at| state.target.wire[at].answer.is_none());
            if faults.failures > 0 && is_unanswered {
                can(WorkerAction::Failed);
            }
            if faults.refusals > 0 && is_unanswered {
                can(WorkerAction::Refused);
                can(WorkerAction::GivenUp);
            }
        }
    }
}
