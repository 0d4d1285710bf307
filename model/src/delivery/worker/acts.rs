use super::{Arriving, Fed, Intake, Read, Session, Then, Work, WorkerAction};
use crate::delivery::{
    Delivery, Message, Source, State,
    lane::{Entered, Lane, Step},
    outcome::{answer, parks, settles_dead},
    store::{ParkedUser, Unknown, Write},
};

/// Does it.
pub(in crate::delivery) fn act(model: &Delivery, state: &mut State, w: usize, action: WorkerAction) {
    if action == WorkerAction::Open {
        state.owner = Some(w);
        state.workers[w] = Some(Session::open());
        return;
    }
    let Some(mut session) = state.workers[w].take() else { return };
    match action {
        WorkerAction::Take(_)
        | WorkerAction::TakeDue
        | WorkerAction::TakeDoubtful
        | WorkerAction::TakeFed => {
            take(model, state, &mut session, action);
        }
        WorkerAction::Enter => enter(model, state, &mut session),
        WorkerAction::Start => start(model, &mut session, false),
        WorkerAction::StartClosed => {
            state.faults.closings -= 1;
            start(model, &mut session, true);
        }
        WorkerAction::Send => send(state, w, &mut session),
        WorkerAction::Abandon => session.work = None,
        WorkerAction::Answered
        | WorkerAction::Failed
        | WorkerAction::Refused
        | WorkerAction::GivenUp
        | WorkerAction::TimedOut => {
            if let Some(Work::Sent(next)) = session.work.take() {
                answer(model, state, w, &mut session, next, action);
            }
        }
        WorkerAction::Bury => bury(model, state, &mut session),
        WorkerAction::Commit => {
            if let Some(Work::Writing(write, then)) = session.work.take() {
                state.store.apply(model, &write);
                session.work = Some(Work::Written(then));
            }
        }
        WorkerAction::Done => done(model, state, &mut session),
        WorkerAction::Unpark => {
            if let Some(version) = session.unparking.take() {
                state.store.apply(model, &Write::Unpark(version));
            }
        }
        WorkerAction::Cut => {
            if session.leased {
                state.faults.cuts -= 1;
            }
            lose_channel(state, &mut session);
        }
        WorkerAction::Evict => evict(model, state, &mut session),
        WorkerAction::Crash => return crash(model, state, w, session),
        WorkerAction::Open => {}
    }
    if session.intake.is_none() && session.lane.as_ref().is_some_and(Lane::is_idle) {
        session.lane = None;
    }
    let is_over = !session.consumes && session.work.is_none() && session.unparking.is_none();
    state.workers[w] = (!is_over).then_some(session);
}

fn take(model: &Delivery, state: &mut State, session: &mut Session, action: WorkerAction) {
    let what = match action {
        WorkerAction::Take(source) => {
            let queue = if source == Source::Live { &mut state.live } else { &mut state.backfill };
            let message = queue.remove(0);
            let tag = session.new_tag(source);
            session.unacknowledged.push((tag, message));
            Arriving::Message(tag, message)
        }
        WorkerAction::TakeDue => {
            if let Some((user, states)) = state.store.parked() {
                // Whoever takes the user may die with the attempt under way.
                let versions = states.iter().map(|state| Unknown::of(state.event.version));
                let taken =
                    ParkedUser { due: false, unknown: versions.fold(user.unknown, Unknown::and), ..user };
                state.store.parked_user = Some(taken);
                session.fed = Some(Fed::Parked(user, taken, states));
            }
            return;
        }
        WorkerAction::TakeDoubtful => {
            session.fed = state.store.doubt.map(|doubt| Fed::Doubtful(doubt.event));
            return;
        }
        _ => match session.fed.take() {
            Some(fed) => Arriving::Fed(fed),
            None => return,
        },
    };
    let read = session.lane.is_none().then(|| {
        let held = state.store.held(model);
        (held, state.store.parked().filter(|_| held.parked))
    });
    session.intake = Some(Intake { what, read });
}

fn enter(model: &Delivery, state: &mut State, session: &mut Session) {
    let Some(Intake { what, read }) = session.intake.take() else { return };
    match what {
        Arriving::Message(tag, message) => {
            let doubtful = message.given_out_before && model.protections.redelivery_is_doubtful;
            let maybe_sent = doubtful && !model.guards_versions;
            let lane = lane_of(model, &mut session.lane, read);
            let event = message.event;
            if lane.enter(model, event, Some(tag), maybe_sent) == Entered::Settled {
                if event.job.is_some() {
                    state.store.settle_item();
                }
                session.acknowledge(&[tag]);
            }
        }
        Arriving::Fed(Fed::Doubtful(event)) => {
            lane_of(model, &mut session.lane, read).enter(model, event, None, false);
        }
        Arriving::Fed(Fed::Parked(user, taken, states)) => {
            if let Some(lane) = &mut session.lane {
                return lane.wake(model, user, states);
            }
            if let Some((held, Some((stored, states)))) = read {
                let is_stale = model.protections.feeds_are_checked && stored != taken;
                let user = if is_stale { stored } else { user };
                let lane = Lane::parked(model, held, ParkedUser { due: true, ..user }, states);
                match lane.is_idle() {
                    true => session.unparking = Some(held.settled()),
                    false => session.lane = Some(lane),
                }
            }
        }
    }
}

fn lane_of<'l>(model: &Delivery, lane: &'l mut Option<Lane>, read: Read) -> &'l mut Lane {
    lane.get_or_insert_with(|| {
        let (held, parked) = read.unwrap_or_default();
        match parked {
            Some((user, states)) => Lane::parked(model, held, ParkedUser { due: false, ..user }, states),
            None => Lane::new(held),
        }
    })
}

fn start(model: &Delivery, session: &mut Session, closed: bool) {
    let step = session.lane.as_mut().and_then(|lane| lane.start(model, closed));
    session.work = step.map(|step| match step {
        Step::Deliver(next) => Work::Ready(next),
        Step::Park(parking) => parks(parking),
    });
}

fn send(state: &mut State, w: usize, session: &mut Session) {
    if let Some(Work::Ready(next)) = session.work.take() {
        state.target.told_the_dead |= state.store.ledger.is_given_up(&next.event);
        state.target.send(next.event, next.told, w);
        session.work = Some(Work::Sent(next));
    }
}

fn bury(model: &Delivery, state: &mut State, session: &mut Session) {
    if let Some(Work::Burying(next)) = session.work.take() {
        let version = next.event.version;
        let after = !model.protections.letter_before_ledger;
        if !after {
            state.letters |= 1 << version;
        }
        session.work = Some(settles_dead(model, session, &next, after.then_some(version)));
    }
}

fn done(model: &Delivery, state: &mut State, session: &mut Session) {
    let (Some(Work::Written(then)), Some(lane)) = (session.work.take(), &mut session.lane) else { return };
    let (tags, late_item) = match then {
        Then::Settled { held, dead, letter } => {
            state.letters |= letter.map_or(0, |version| 1 << version);
            lane.settled(model, held, dead)
        }
        Then::Parked(states) => lane.parked_now(model, states),
    };
    if late_item {
        state.store.settle_item();
    }
    session.acknowledge(&tags);
}

/// What is not acknowledged goes back to the front of its queue, in order.
fn lose_channel(state: &mut State, session: &mut Session) {
    for (tag, message) in session.unacknowledged.drain(..).rev() {
        let queue = if tag.0 == Source::Live { &mut state.live } else { &mut state.backfill };
        queue.insert(0, Message { given_out_before: true, ..message });
    }
    (session.consumes, session.intake, session.fed) = (false, None, None);
}

fn evict(model: &Delivery, state: &mut State, session: &mut Session) {
    state.faults.evictions -= 1;
    (session.leased, state.owner) = (false, None);
    if model.protections.writes_fenced && matches!(session.work, Some(Work::Writing(..) | Work::Burying(_))) {
        session.work = None;
    }
    if model.protections.waits_for_consumer {
        lose_channel(state, session);
    }
}

fn crash(model: &Delivery, state: &mut State, w: usize, mut session: Session) {
    state.faults.crashes -= 1;
    lose_channel(state, &mut session);
    state.target.give_up_waiting(w);
    if let Some(Work::Writing(write, _)) = session.work
        && !model.protections.writes_fenced
    {
        state.stray.push(write);
    }
    if state.owner == Some(w) {
        state.owner = None;
    }
}
