//! A worker at its partition: `crates/worker/src/partition/`, `delivery.rs` and `feeder.rs`.

use super::{
    Action, Delivery, Event, Message, Source, State,
    lane::{Entered, Lane, Next, Step, Tag},
    outcome::{answer, parks, settles_dead},
    store::{Held, ParkedState, ParkedUser, Unknown, Write},
};

/// Messages a session takes ahead at most.
const PREFETCH: usize = 3;

/// What a worker has in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Session {
    /// Whether its channel is up; else it only finishes what is under way.
    consumes: bool,
    /// Whether its lease holds.
    leased: bool,
    unacknowledged: Vec<(Tag, Message)>,
    intake: Option<Intake>,
    fed: Option<Fed>,
    pub(super) lane: Option<Lane>,
    pub(super) work: Option<Work>,
    unparking: Option<u8>,
}

/// What is on its way into the lane, and what was read of the user, if there was no lane then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Intake {
    what: Arriving,
    read: Read,
}

/// What the ledger says of the user, and what is parked.
type Read = Option<(Held, Option<Parked>)>;
type Parked = (ParkedUser, Vec<ParkedState>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Arriving {
    Message(Tag, Message),
    Fed(Fed),
}

/// What the feeder took.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Fed {
    /// As it was, as it was written when it was taken, and its states.
    Parked(ParkedUser, ParkedUser, Vec<ParkedState>),
    Doubtful(Event),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Work {
    Ready(Next),
    Sent(Next),
    Burying(Next),
    Writing(Write, Then),
    Written(Then),
}

/// What the lane is told when it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Then {
    Settled { held: Held, dead: bool, letter: Option<u8> },
    Parked(Vec<ParkedState>),
}

/// One step of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerAction {
    /// Takes the lease and begins to consume.
    Open,
    /// Takes a message and reads what the ledger says.
    Take(Source),
    /// The feeder takes a parked user who is due.
    TakeDue,
    /// The feeder takes the state that is to be sent once more.
    TakeDoubtful,
    /// Takes what the feeder took, and reads what the ledger says.
    TakeFed,
    /// Puts it into the lane.
    Enter,
    /// Begins the lane's next step.
    Start,
    /// The same, the target being closed.
    StartClosed,
    /// Sends the request.
    Send,
    /// Drops what was not sent.
    Abandon,
    /// The answer comes.
    Answered,
    /// The answer is a failure.
    Failed,
    /// The answer is a refusal for the content; it will be tried again.
    Refused,
    /// The answer is such a refusal, and the last.
    GivenUp,
    /// No answer comes in time.
    TimedOut,
    /// The letter is confirmed.
    Bury,
    /// The statement is committed.
    Commit,
    /// The lane learns of it, and messages are acknowledged.
    Done,
    /// What the ledger has is taken out of the parked states.
    Unpark,
    /// Loses the channel.
    Cut,
    /// Loses lease and channel.
    Evict,
    /// Dies.
    Crash,
}

impl Session {
    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = &Message> {
        self.unacknowledged.iter().map(|(_, message)| message)
    }

    /// Whether the parked user is on the way to be tried here.
    pub(super) fn tries_parked(&self) -> bool {
        let is_fed = |fed: &Fed| matches!(fed, Fed::Parked(..));
        self.consumes
            && (self.work.is_some()
                || self.unparking.is_some()
                || self.fed.as_ref().is_some_and(is_fed)
                || matches!(&self.intake, Some(Intake { what: Arriving::Fed(fed), .. }) if is_fed(fed))
                || self.lane.as_ref().is_some_and(Lane::is_due))
    }

    /// Whether there surely is a step of its own.
    pub(super) fn is_busy(&self) -> bool {
        self.consumes && self.intake.is_some()
            || matches!(self.work, Some(Work::Writing(..) | Work::Written(_)))
    }

    pub(super) fn may_have_item(&self) -> bool {
        self.work.is_some() || self.unacknowledged.iter().any(|((source, _), _)| *source == Source::Backfill)
    }

    fn resends(&self) -> bool {
        self.consumes
            && (self.work.is_some()
                || self.fed.is_some()
                || matches!(&self.intake, Some(Intake { what: Arriving::Fed(_), .. }))
                || self.lane.as_ref().is_some_and(Lane::resends))
    }

    fn can_start(&self, model: &Delivery, closed: bool) -> bool {
        let starts = |lane: &Lane| lane.clone().start(model, closed).is_some();
        self.consumes && self.work.is_none() && self.lane.as_ref().is_some_and(starts)
    }

    pub(super) fn acknowledge(&mut self, tags: &[Tag]) {
        if self.consumes {
            self.unacknowledged.retain(|(tag, _)| !tags.contains(tag));
        }
    }

    /// The lowest number that is free: which one it is makes no difference.
    fn new_tag(&self, source: Source) -> Tag {
        let is_free = |number: &u8| self.unacknowledged.iter().all(|(tag, _)| *tag != (source, *number));
        (source, (0..).find(is_free).unwrap_or(u8::MAX))
    }
}

pub(super) fn steps(model: &Delivery, state: &State, steps: &mut Vec<Action>) {
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

pub(super) fn mishaps(model: &Delivery, state: &State, mishaps: &mut Vec<Action>) {
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

/// Does it.
pub(super) fn act(model: &Delivery, state: &mut State, w: usize, action: WorkerAction) {
    if action == WorkerAction::Open {
        state.owner = Some(w);
        state.workers[w] = Some(Session {
            consumes: true,
            leased: true,
            unacknowledged: Vec::new(),
            intake: None,
            fed: None,
            lane: None,
            work: None,
            unparking: None,
        });
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
        WorkerAction::Start | WorkerAction::StartClosed => {
            let closed = action == WorkerAction::StartClosed;
            state.faults.closings -= u8::from(closed);
            let step = session.lane.as_mut().and_then(|lane| lane.start(model, closed));
            session.work = step.map(|step| match step {
                Step::Deliver(next) => Work::Ready(next),
                Step::Park(parking) => parks(parking),
            });
        }
        WorkerAction::Send => {
            if let Some(Work::Ready(next)) = session.work.take() {
                state.target.told_the_dead |= state.store.ledger.is_given_up(&next.event);
                state.target.send(next.event, next.told, w);
                session.work = Some(Work::Sent(next));
            }
        }
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
        WorkerAction::Bury => {
            if let Some(Work::Burying(next)) = session.work.take() {
                let version = next.event.version;
                let after = !model.protections.letter_before_ledger;
                if !after {
                    state.letters |= 1 << version;
                }
                session.work = Some(settles_dead(model, &session, &next, after.then_some(version)));
            }
        }
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
        WorkerAction::Evict => {
            state.faults.evictions -= 1;
            (session.leased, state.owner) = (false, None);
            if model.protections.writes_fenced
                && matches!(session.work, Some(Work::Writing(..) | Work::Burying(_)))
            {
                session.work = None;
            }
            if model.protections.waits_for_consumer {
                lose_channel(state, &mut session);
            }
        }
        WorkerAction::Crash => {
            state.faults.crashes -= 1;
            return crash(model, state, w, session);
        }
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

fn crash(model: &Delivery, state: &mut State, w: usize, mut session: Session) {
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
