//! From a target's queue to the target.
//!
//! As built in `crates/worker/src/{lane,delivery,feeder,fence}.rs`, `crates/worker/src/partition/` and
//! `crates/store/src/{ledger,parked,worker_lease}.rs`. Two workers, one of which owns the partition; a lane for the one
//! user there is; its states are sent, settled, parked, fed again, buried, replayed. A worker may die, lose its lease or
//! its channel anywhere; its statements may reach Postgres after that. A request whose answer nobody waits for may be
//! executed at any time until the doubt about it is due.
//!
//! Taken as given: what [`crate::source`] proves; that requests not answered within `timeout` are executed within
//! `doubt_after`, or never; that a quorum queue gives messages back in their order, marked as given out before, to a consumer
//! that is alone and takes all of them, as workers are; and that statements are atomic. Left out: breakers' own states (they
//! may close at any time), several users in one request, the number of tries, changes of the target's own origin, another
//! number of partitions, and that an event target's lane reads what is parked page by page.

mod bounds;
mod lane;
mod outcome;
mod store;
mod target;
mod worker;

pub use bounds::{Change, Faults, Job, Protections};
use stateright::{Model, Property};
use store::{ItemState, Ledger, Store, Write};
use target::Target;
use worker::{Session, WorkerAction};

/// The bounds of one exploration.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The user's changes, versions 1 and on.
    pub changes: &'static [Change],
    /// Whether states that wait give way to the newest.
    pub folds: bool,
    /// Whether the target refuses older versions.
    pub guards_versions: bool,
    /// What an operator may do once.
    pub job: Option<Job>,
    /// What may go wrong.
    pub faults: Faults,
    /// What keeps it harmless.
    pub protections: Protections,
}

/// A state of the user on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Event {
    version: u8,
    change: Change,
    resend: u8,
    job: Option<JobPart>,
}

/// The item of the job; there is one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct JobPart {
    repeats: bool,
}

/// Which queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Changes.
    Live,
    /// What the job sends.
    Backfill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Message {
    event: Event,
    given_out_before: bool,
}

/// One state of it all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Versions committed and published so far.
    published: u8,
    live: Vec<Message>,
    backfill: Vec<Message>,
    store: Store,
    /// Versions with a letter in the dead-letter queue.
    letters: u16,
    /// Statements of workers that died, which may still reach Postgres.
    stray: Vec<Write>,
    owner: Option<usize>,
    workers: [Option<Session>; 2],
    target: Target,
    job_started: bool,
    faults: Faults,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The next version comes into the queue.
    Publish,
    /// A version comes once more.
    Repeat(u8),
    /// A worker does something.
    Worker(usize, WorkerAction),
    /// The target executes the request at this place.
    Execute(usize),
    /// The request at this place, of which nobody waits for the answer, is never executed.
    Vanish(usize),
    /// A statement of a dead worker reaches Postgres.
    StrayCommits(usize),
    /// Or it does not.
    StrayIsLost(usize),
    /// The parked user's next attempt is due.
    Due,
    /// The doubt is due, and there was nothing newer to be put over.
    ForgetDoubt,
    /// The operator starts the job, and the relay sends its item.
    StartJob,
    /// The relay sends the item again that nobody has any more.
    SendItemAgain,
}

impl Delivery {
    /// Whether a request that is executed late may undo what came after it.
    fn has_doubts(&self) -> bool {
        !self.guards_versions && (self.folds || !self.protections.events_are_undoubted)
    }

    fn event(&self, version: u8) -> Event {
        Event { version, change: self.changes[usize::from(version) - 1], resend: 0, job: None }
    }

    /// What goes on by itself.
    fn steps(&self, state: &State, steps: &mut Vec<Action>) {
        if usize::from(state.published) < self.changes.len() {
            steps.push(Action::Publish);
        }
        steps.extend(
            (0..state.stray.len()).flat_map(|at| [Action::StrayCommits(at), Action::StrayIsLost(at)]),
        );
        for (at, request) in state.target.wire.iter().enumerate() {
            if request.answer.is_none() {
                steps.push(Action::Execute(at));
            }
            if request.waiter.is_none() {
                steps.push(Action::Vanish(at));
            }
        }
        if state.item_is_lost() {
            steps.push(Action::SendItemAgain);
        }
        let is_tried = state.workers.iter().flatten().any(Session::tries_parked);
        if state.store.parked_user.as_ref().is_some_and(|user| !user.due) && !is_tried {
            steps.push(Action::Due);
        }
        if state.doubt_is_due()
            && state.store.doubt.as_ref().is_some_and(|doubt| doubt.event.version <= doubt.late)
        {
            steps.push(Action::ForgetDoubt);
        }
        worker::steps(self, state, steps);
    }

    fn mishaps(&self, state: &State, mishaps: &mut Vec<Action>) {
        if state.faults.repeats > 0 {
            mishaps.extend((1..=state.published).map(Action::Repeat));
        }
        if state.faults.early_dues > 0 && state.store.parked_user.as_ref().is_some_and(|user| !user.due) {
            mishaps.push(Action::Due);
        }
        let can_start = match self.job {
            Some(Job::Replay) => state.letters != 0,
            Some(Job::Resync) => state.published > 0,
            None => false,
        };
        if can_start && !state.job_started {
            mishaps.push(Action::StartJob);
        }
        worker::mishaps(self, state, mishaps);
    }

    fn is_quiet(&self, state: &State) -> bool {
        // Most states are not, and tell so at once.
        if usize::from(state.published) < self.changes.len()
            || state.workers.iter().flatten().any(Session::is_busy)
        {
            return false;
        }
        let mut steps = Vec::new();
        self.steps(state, &mut steps);
        steps.is_empty()
    }

    fn job_event(&self, state: &State) -> Event {
        match self.job {
            Some(Job::Resync) => {
                let job = Some(JobPart { repeats: true });
                Event { resend: 1, job, ..self.event(state.published) }
            }
            _ => {
                let letter = state.letters.trailing_zeros() as u8;
                Event { job: Some(JobPart { repeats: false }), ..self.event(letter) }
            }
        }
    }
}

impl Model for Delivery {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            published: 0,
            live: Vec::new(),
            backfill: Vec::new(),
            store: Store::default(),
            letters: 0,
            stray: Vec::new(),
            owner: None,
            workers: Default::default(),
            target: Target::default(),
            job_started: false,
            faults: self.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.steps(state, actions);
        self.mishaps(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Publish => {
                state.published += 1;
                let event = self.event(state.published);
                state.live.push(Message { event, given_out_before: false });
            }
            Action::Repeat(version) => {
                state.faults.repeats -= 1;
                state.live.push(Message { event: self.event(version), given_out_before: false });
            }
            Action::Worker(w, action) => worker::act(self, &mut state, w, action),
            Action::Execute(at) => {
                state.target.execute(self, at, state.store.ledger.delivered, state.letters);
            }
            Action::Vanish(at) => drop(state.target.wire.remove(at)),
            Action::StrayCommits(at) => {
                let write = state.stray.remove(at);
                state.store.apply(self, &write);
            }
            Action::StrayIsLost(at) => drop(state.stray.remove(at)),
            Action::Due => {
                let is_tried = state.workers.iter().flatten().any(Session::tries_parked);
                state.faults.early_dues = state.faults.early_dues.saturating_sub(u8::from(is_tried));
                if let Some(user) = &mut state.store.parked_user {
                    user.due = true;
                }
            }
            Action::ForgetDoubt => state.store.doubt = None,
            Action::StartJob | Action::SendItemAgain => {
                state.job_started = true;
                state.store.item = ItemState::Sent;
                let event = self.job_event(&state);
                state.backfill.push(Message { event, given_out_before: false });
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "I1: what is not settled is in the queue or stored",
                |model: &Self, state: &State| {
                    (1..=state.published).all(|version| state.is_settled_or_pending(model, version))
                },
            ),
            Property::always("I1: what is settled as dead has its letter", |_, state: &State| {
                state.store.ledger.dead == 0 || state.letters & 1 << state.store.ledger.dead != 0
            }),
            Property::always(
                "I1: when nothing is left to do, all is settled",
                |model: &Self, state: &State| state.all_is_settled() || !model.is_quiet(state),
            ),
            Property::always("I3: no state goes over a newer one that is settled", |_, state: &State| {
                !state.target.regressed
            }),
            Property::always("I3: an event target gets every event in order", |_, state: &State| {
                !state.target.skipped
            }),
            Property::always("I3: no delete is folded away", |model: &Self, state: &State| {
                // A resync sends the newest state, whatever waits before it.
                model.job == Some(Job::Resync) || state.every_delete_was_told(model) || !model.is_quiet(state)
            }),
            Property::always(
                "I4: when nothing is left to do, the target holds the newest state, or a letter says why not",
                |model: &Self, state: &State| state.has_converged(model) || !model.is_quiet(state),
            ),
            Property::always(
                "I5: of one state the target is told the same each time",
                |model: &Self, state: &State| {
                    // What was told by a worker that died nobody knows; the key is a digest of the body then, too.
                    let forgets = model.faults.crashes + model.faults.evictions + model.faults.cuts > 0
                        || !model.protections.version_gate;
                    forgets || model.job.is_some() || !state.target.told_otherwise
                },
            ),
            Property::always(
                "I5: of one event an event target is told once, but by a job",
                |model: &Self, state: &State| {
                    model.folds || model.job.is_some() || !state.target.was_told_again()
                },
            ),
            Property::always("I4: no doubt has sent again what is dead", |_, state: &State| {
                !state.target.told_the_dead
            }),
            Property::always("I1: no state is sent again without end", |_, state: &State| {
                state.store.doubt.is_none_or(|doubt| doubt.event.resend < 6)
            }),
            Property::sometimes("all is delivered", |model: &Self, state: &State| {
                usize::from(state.store.ledger.delivered) == model.changes.len()
            }),
        ]
    }
}

impl State {
    /// Late requests are executed by then, or never; so the doubt waits for them.
    fn doubt_is_due(&self) -> bool {
        self.store.doubt.is_some() && self.target.wire.iter().all(|request| request.waiter.is_some())
    }

    fn item_is_lost(&self) -> bool {
        self.store.item == ItemState::Sent
            && self.backfill.is_empty()
            && self.stray.is_empty()
            && self.store.parked_states.iter().all(|state| state.event.job.is_none())
            && !self.workers.iter().flatten().any(Session::may_have_item)
    }

    fn is_settled_or_pending(&self, model: &Delivery, version: u8) -> bool {
        let stands_for = |other: u8| if model.folds { other >= version } else { other == version };
        let held = self.workers.iter().flatten().flat_map(Session::unacknowledged);
        version <= self.store.ledger.settled()
            || self.live.iter().chain(held).any(|message| message.event.version == version)
            || self.store.parked_user.is_some()
                && self.store.parked_states.iter().any(|state| stands_for(state.event.version))
    }

    fn all_is_settled(&self) -> bool {
        self.store.ledger.settled() == self.published
            && self.store.parked_user.is_none()
            && self.store.parked_states.is_empty()
            && self.store.doubt.is_none()
            && !matches!(self.store.item, ItemState::Sent)
    }

    fn every_delete_was_told(&self, model: &Delivery) -> bool {
        (1..=self.published)
            .filter(|version| model.event(*version).change == Change::Deleted)
            .all(|version| self.target.executed & 1 << version != 0 || self.letters & 1 << version != 0)
    }

    fn has_converged(&self, model: &Delivery) -> bool {
        let Target { version, present, executed, .. } = self.target;
        if !model.folds {
            return (1..=self.published).all(|version| (executed | self.letters) & 1 << version != 0);
        }
        let is_newest = version == self.published
            && (version == 0 || present == (model.event(version).change != Change::Deleted));
        let Ledger { delivered, dead, .. } = self.store.ledger;
        // What was delivered last is not gone back behind either.
        is_newest || dead == self.published && delivered < self.published && version >= delivered
    }
}
