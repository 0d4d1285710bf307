use super::{Action, Source, State, postgres::Snapshot};

/// A relay process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Relay {
    /// Of its lease; 0: it stands by.
    token: u8,
    session: Option<Session>,
}

/// What it has in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Session {
    rewinds: u8,
    done: Snapshot,
    open: Option<Window>,
    /// Ids read and not yet published.
    pending: u32,
    flights: Vec<Flight>,
    /// Whether it has something to store.
    moved: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Window {
    s2: Snapshot,
    read: u8,
    all_read: bool,
}

/// A message that is not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    ids: u32,
    in_queue: bool,
}

/// One step of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayAction {
    /// Takes the lease.
    TakeLease,
    /// Learns that another one has it.
    StandDown,
    /// Claims the cursor and begins a session.
    Claim,
    /// Learns that the cursor was rewound.
    NoticeRewind,
    /// Takes a snapshot and opens a window.
    Look,
    /// Reads a row of it.
    Read,
    /// Publishes what has gathered.
    Publish,
    /// RabbitMQ puts the message at this place into the queue.
    Arrives(usize),
    /// RabbitMQ refuses it.
    Refused(usize),
    /// The confirm comes.
    Confirmed(usize),
    /// Stores the cursor.
    Save,
    /// Dies.
    Crash,
}

pub(super) fn steps(model: &Source, state: &State, steps: &mut Vec<Action>) {
    let led = state.relays.iter().any(|relay| relay.token == state.token && state.token > 0);
    for (r, relay) in state.relays.iter().enumerate() {
        let mut can = |action| steps.push(Action::Relay(r, action));
        if relay.token == 0 {
            if !led {
                can(RelayAction::TakeLease);
            }
            continue;
        }
        if relay.token < state.token {
            can(RelayAction::StandDown);
        }
        match &relay.session {
            None => can(RelayAction::Claim),
            Some(session) => session.steps(model, state, can),
        }
    }
}

pub(super) fn mishaps(state: &State, mishaps: &mut Vec<Action>) {
    for (r, relay) in state.relays.iter().enumerate() {
        let mut can = |action| mishaps.push(Action::Relay(r, action));
        if relay.token == 0 {
            let led = state.relays.iter().any(|relay| relay.token == state.token && state.token > 0);
            if led && state.faults.takeovers > 0 {
                can(RelayAction::TakeLease);
            }
            continue;
        }
        if state.faults.crashes > 0 {
            can(RelayAction::Crash);
        }
        if state.faults.refusals > 0 {
            let flights = relay.session.iter().flat_map(|session| session.flights.iter().enumerate());
            flights
                .filter(|(_, flight)| !flight.in_queue)
                .for_each(|(place, _)| can(RelayAction::Refused(place)));
        }
    }
}

/// Does it; what it does to the fault budget is settled here, too.
pub(super) fn act(model: &Source, state: &mut State, r: usize, action: RelayAction) {
    match action {
        RelayAction::TakeLease => {
            let led = state.relays.iter().any(|relay| relay.token == state.token && state.token > 0);
            state.faults.takeovers -= u8::from(led);
            state.token += 1;
            state.relays[r].token = state.token;
        }
        RelayAction::StandDown => state.stop(r, true),
        RelayAction::Crash => {
            state.faults.crashes -= 1;
            state.stop(r, true);
        }
        RelayAction::NoticeRewind => state.stop(r, false),
        RelayAction::Claim => claim(model, state, r),
        RelayAction::Save => save(model, state, r),
        RelayAction::Arrives(place) => {
            if let Some(session) = &mut state.relays[r].session {
                session.flights[place].in_queue = true;
                state.queue.take(session.flights[place].ids, &state.postgres);
            }
        }
        RelayAction::Refused(place) => {
            state.faults.refusals -= 1;
            if let Some(session) = &mut state.relays[r].session {
                // The same message goes out again, behind any other that is out.
                let flight = session.flights.remove(place);
                session.flights.push(flight);
            }
        }
        RelayAction::Look | RelayAction::Read | RelayAction::Publish | RelayAction::Confirmed(_) => {
            let postgres = &state.postgres;
            if let Some(session) = &mut state.relays[r].session {
                session.act(model, postgres, action);
            }
        }
    }
}

fn claim(model: &Source, state: &mut State, r: usize) {
    let token = state.relays[r].token;
    if model.protections.token_fence && state.cursor.token > token {
        return state.stop(r, true);
    }
    state.cursor.token = token;
    let super::StoredCursor { done, open, rewinds, .. } = state.cursor;
    let mut session = Session { rewinds, done, open: None, pending: 0, flights: Vec::new(), moved: false };
    if let Some((s2, confirmed)) = open {
        let s2 = if model.protections.window_keeps_s2 { s2 } else { state.postgres.snapshot(model) };
        session.open_window(model, &state.postgres, s2, confirmed);
    }
    state.relays[r].session = Some(session);
}

fn save(model: &Source, state: &mut State, r: usize) {
    let token = state.relays[r].token;
    let Some(session) = &mut state.relays[r].session else { return };
    let fenced = model.protections.token_fence && state.cursor.token > token
        || model.protections.rewind_fence && state.cursor.rewinds != session.rewinds;
    if fenced {
        let lost_lease = state.token > token;
        return state.stop(r, lost_lease);
    }
    session.moved = false;
    let confirmed = session.confirmed(model);
    state.cursor = super::StoredCursor {
        token: token.max(state.cursor.token),
        rewinds: state.cursor.rewinds,
        done: session.done,
        open: session.open.as_ref().map(|window| (window.s2, confirmed)),
    };
}

impl State {
    /// The session ends; its messages may be on the way.
    fn stop(&mut self, r: usize, stands_by: bool) {
        if let Some(session) = self.relays[r].session.take() {
            self.queue
                .stray
                .extend(session.flights.iter().filter(|flight| !flight.in_queue).map(|flight| flight.ids));
        }
        if stands_by {
            self.relays[r].token = 0;
        }
    }
}

impl Session {
    fn steps(&self, model: &Source, state: &State, mut can: impl FnMut(RelayAction)) {
        if self.rewinds != state.cursor.rewinds {
            can(RelayAction::NoticeRewind);
        }
        match &self.open {
            None if state.postgres.snapshot(model) != self.done => can(RelayAction::Look),
            Some(window) if !window.all_read => can(RelayAction::Read),
            _ => {}
        }
        let out_max = if model.protections.one_unconfirmed { 1 } else { 2 };
        if self.pending != 0 && self.flights.len() < out_max {
            can(RelayAction::Publish);
        }
        // A channel keeps the order of what is published; only a message that went out again falls behind.
        if let Some(next) = self.flights.iter().position(|flight| !flight.in_queue)
            && !state.queue.vanished
        {
            can(RelayAction::Arrives(next));
        }
        let taken = self.flights.iter().enumerate().filter(|(_, flight)| flight.in_queue);
        taken.for_each(|(place, _)| can(RelayAction::Confirmed(place)));
        if self.moved {
            can(RelayAction::Save);
        }
    }

    fn act(&mut self, model: &Source, postgres: &super::Postgres, action: RelayAction) {
        match action {
            RelayAction::Look => self.open_window(model, postgres, postgres.snapshot(model), 0),
            RelayAction::Read => self.read(model, postgres),
            RelayAction::Publish => {
                self.flights.push(Flight { ids: std::mem::take(&mut self.pending), in_queue: false });
            }
            RelayAction::Confirmed(place) => {
                self.flights.remove(place);
                self.moved = true;
                self.close_finished_window();
            }
            _ => {}
        }
    }

    fn open_window(&mut self, model: &Source, postgres: &super::Postgres, s2: Snapshot, read: u8) {
        if postgres.window(model, &self.done, &s2) == 0 {
            // Nothing of ours in between: S2 becomes S1 by itself.
            (self.done, self.moved) = (s2, true);
        } else {
            self.open = Some(Window { s2, read, all_read: false });
        }
    }

    /// A page is one row.
    fn read(&mut self, model: &Source, postgres: &super::Postgres) {
        let Some(window) = &mut self.open else { return };
        let rest = postgres.window(model, &self.done, &window.s2) >> (window.read + 1);
        if rest == 0 {
            window.all_read = true;
        } else {
            window.read += 1 + rest.trailing_zeros() as u8;
            window.all_read = rest.count_ones() == 1;
            self.pending |= 1 << window.read;
        }
        self.moved = true;
        self.close_finished_window();
    }

    /// S1 := S2, once every row of the window is read and confirmed.
    fn close_finished_window(&mut self) {
        if self.pending == 0
            && self.flights.is_empty()
            && self.open.as_ref().is_some_and(|window| window.all_read)
            && let Some(window) = self.open.take()
        {
            self.done = window.s2;
        }
    }

    /// The confirmed prefix of the window.
    fn confirmed(&self, model: &Source) -> u8 {
        let read = self.open.as_ref().map_or(0, |window| window.read);
        let unconfirmed = self.flights.iter().fold(self.pending, |ids, flight| ids | flight.ids);
        match model.protections.cursor_awaits_confirms && unconfirmed != 0 {
            true => unconfirmed.trailing_zeros() as u8 - 1,
            false => read,
        }
    }
}
