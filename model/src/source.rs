//! From a producer's transaction into a target's queue.
//!
//! As built in `migrations/0003_emit.sql`, `crates/store/src/{log,cursor,relay_lease}.rs` and
//! `crates/relay/src/{stream,window,slot}.rs`. Transactions emit under the lock of the user's row, draw log ids, and
//! commit or roll back at any later time. Two relays read windows between snapshots, publish, and store their cursor;
//! one may go on though the other has taken over. RabbitMQ may refuse messages, and lose a queue with all that is in it.
//!
//! Taken as given: Postgres' snapshots (the newest xid that ended is what bounds them, as in Postgres), statements that
//! are atomic, publisher confirms that are true. One target with one partition: others share nothing but the log.

mod postgres;
mod relay;

use postgres::{Postgres, Snapshot};
use relay::{Relay, RelayAction};
use stateright::{Model, Property};

/// The bounds of one exploration.
#[derive(Debug, Clone)]
pub struct Source {
    /// The transactions that may run at the same time; each emits a change of these users, in order.
    pub transactions: &'static [&'static [u8]],
    /// What may go wrong.
    pub faults: Faults,
    /// What keeps it harmless.
    pub protections: Protections,
}

/// How often each may happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A transaction rolls back.
    pub rollbacks: u8,
    /// A relay dies with all it has in memory; its message may still be on the way.
    pub crashes: u8,
    /// A relay takes over while the other one goes on.
    pub takeovers: u8,
    /// RabbitMQ refuses a message.
    pub refusals: u8,
    /// The queue vanishes, and an operator declares it anew.
    pub queue_losses: u8,
}

/// What can be taken out, to see what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protections {
    /// The user's row is locked from the drawing of the version to the end of the transaction.
    pub user_row_lock: bool,
    /// The log id is drawn when the row is locked.
    pub id_under_lock: bool,
    /// Windows are bounded by xid; else by the log id at the snapshot.
    pub windows_by_xid: bool,
    /// A window that was begun keeps its S2 over a takeover.
    pub window_keeps_s2: bool,
    /// The cursor passes only what is confirmed.
    pub cursor_awaits_confirms: bool,
    /// At most one message is unconfirmed.
    pub one_unconfirmed: bool,
    /// A cursor that was rewound is not overwritten by a session from before.
    pub rewind_fence: bool,
    /// Nor one that another relay has claimed.
    pub token_fence: bool,
    /// A vanished queue is declared only after the rewind.
    pub rewinds_first: bool,
}

impl Default for Protections {
    fn default() -> Self {
        Self {
            user_row_lock: true,
            id_under_lock: true,
            windows_by_xid: true,
            window_keeps_s2: true,
            cursor_awaits_confirms: true,
            one_unconfirmed: true,
            rewind_fence: true,
            token_fence: true,
            rewinds_first: true,
        }
    }
}

/// One state of it all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    postgres: Postgres,
    cursor: StoredCursor,
    /// The token of the newest lease.
    token: u8,
    relays: [Relay; 2],
    queue: Queue,
    faults: Faults,
}

/// The row of `stream_cursor`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct StoredCursor {
    token: u8,
    rewinds: u8,
    done: Snapshot,
    /// S2 and the confirmed id.
    open: Option<(Snapshot, u8)>,
}

/// The queue, as sets of log ids: what is checked of their order is kept beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Queue {
    holds: u32,
    ever_held: u32,
    /// By user, the newest version that ever came in.
    newest: [u8; USERS],
    /// An older version came in for the first time after a newer one.
    disordered: bool,
    vanished: bool,
    must_rewind: bool,
    /// Messages of relays that died, which may still arrive.
    stray: Vec<u32>,
}

const USERS: usize = 2;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The transaction locks its next user and draws the version.
    DrawVersion(usize),
    /// The transaction draws the next log id (before the lock: only where that protection is out).
    DrawId(usize),
    /// The transaction writes the change into the log.
    Insert(usize),
    /// The transaction commits.
    Commit(usize),
    /// The transaction rolls back.
    RollBack(usize),
    /// A relay does something.
    Relay(usize, RelayAction),
    /// A dead relay's message arrives after all.
    StrayArrives(usize),
    /// Or it does not.
    StrayIsLost(usize),
    /// The queue is gone, and what was in it.
    QueueVanishes,
    /// The operator's `topology apply` rewinds the cursor.
    Rewind,
    /// And declares the queue.
    Declare,
}

impl Source {
    /// What goes on by itself.
    fn steps(&self, state: &State, steps: &mut Vec<Action>) {
        state.postgres.steps(self, steps);
        relay::steps(self, state, steps);
        for place in 0..state.queue.stray.len() {
            steps.push(Action::StrayIsLost(place));
            if !state.queue.vanished {
                steps.push(Action::StrayArrives(place));
            }
        }
        let Queue { vanished, must_rewind, .. } = state.queue;
        if vanished && must_rewind {
            steps.push(Action::Rewind);
        }
        if vanished && (!must_rewind || !self.protections.rewinds_first) {
            steps.push(Action::Declare);
        }
    }

    fn mishaps(&self, state: &State, mishaps: &mut Vec<Action>) {
        if state.faults.rollbacks > 0 {
            mishaps.extend(state.postgres.open().map(Action::RollBack));
        }
        if state.faults.queue_losses > 0 && !state.queue.vanished {
            mishaps.push(Action::QueueVanishes);
        }
        relay::mishaps(state, mishaps);
    }

    fn is_quiet(&self, state: &State) -> bool {
        let mut steps = Vec::new();
        self.steps(state, &mut steps);
        steps.is_empty()
    }
}

impl Model for Source {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let start = Snapshot::start();
        vec![State {
            postgres: Postgres::new(self.transactions.len()),
            cursor: StoredCursor { token: 0, rewinds: 0, done: start, open: None },
            token: 0,
            relays: Default::default(),
            queue: Queue::default(),
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
            Action::DrawVersion(t) => state.postgres.draw_version(self, t),
            Action::DrawId(t) => state.postgres.draw_id(t),
            Action::Insert(t) => state.postgres.insert(self, t),
            Action::Commit(t) => state.postgres.end(t, true),
            Action::RollBack(t) => {
                state.faults.rollbacks -= 1;
                state.postgres.end(t, false);
            }
            Action::Relay(r, action) => relay::act(self, &mut state, r, action),
            Action::StrayArrives(place) => {
                let ids = state.queue.stray.remove(place);
                state.queue.take(ids, &state.postgres);
            }
            Action::StrayIsLost(place) => drop(state.queue.stray.remove(place)),
            Action::QueueVanishes => {
                state.faults.queue_losses -= 1;
                (state.queue.holds, state.queue.vanished, state.queue.must_rewind) = (0, true, true);
            }
            Action::Rewind => {
                state.cursor = StoredCursor {
                    done: Snapshot::start(),
                    open: None,
                    rewinds: state.cursor.rewinds + 1,
                    ..state.cursor
                };
                state.queue.must_rewind = false;
            }
            Action::Declare => state.queue.vanished = false,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I1: what the cursor has passed is in the queue", |_, state: &State| {
                let Queue { vanished, must_rewind, holds, .. } = state.queue;
                vanished && must_rewind || state.passed() & !holds == 0
            }),
            Property::always(
                "I1: when nothing is left to do, every committed change is in the queue",
                |model: &Self, state: &State| {
                    state.postgres.committed() & !state.queue.holds == 0 || !model.is_quiet(state)
                },
            ),
            Property::always(
                "I2: nothing that was not committed is ever in the queue",
                |_, state: &State| state.queue.ever_held & !state.postgres.committed() == 0,
            ),
            Property::always("I3: of a user, no version comes before an older one", |_, state: &State| {
                !state.queue.disordered
            }),
            Property::sometimes("changes arrive", |_, state: &State| state.queue.ever_held.count_ones() > 1),
        ]
    }
}

impl State {
    /// The committed rows that no relay will read again.
    fn passed(&self) -> u32 {
        let StoredCursor { done, open, .. } = &self.cursor;
        let passed = |id: u8, xid: u8| {
            done.sees(xid) || open.as_ref().is_some_and(|(s2, confirmed)| s2.sees(xid) && id <= *confirmed)
        };
        self.postgres
            .committed_rows()
            .filter(|row| passed(row.id, row.xid))
            .fold(0, |ids, row| ids | 1 << row.id)
    }
}

impl Queue {
    /// A message arrives.
    fn take(&mut self, ids: u32, postgres: &Postgres) {
        for row in postgres.rows().iter().filter(|row| ids & 1 << row.id != 0) {
            let user = usize::from(row.user);
            if self.ever_held & 1 << row.id == 0 {
                self.disordered |= row.version < self.newest[user];
                self.newest[user] = self.newest[user].max(row.version);
            }
            self.ever_held |= 1 << row.id;
            self.holds |= 1 << row.id;
        }
    }
}
