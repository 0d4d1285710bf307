use postbound_event::{Action, Event, JobPart};
use postbound_store::{ItemOutcome, ParkedSchedule, ParkedState, ParkingCause, StateWrites, Unknown};
use tokio_util::sync::CancellationToken;

/// What a lane wants done next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Deliver a state.
    Deliver(Next),
    /// Settle a state that came from the target itself, without sending it.
    Echo(Event),
    /// Store what waits, with the schedule of the next attempt.
    Park(Park),
    /// Read the next of what is stored, from the version after this one on.
    Read { after: i64 },
}

/// What reading a page of what is stored came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The lane goes on.
    GoesOn,
    /// All that is stored is settled: it was parked late, by a worker that had lost its lease.
    NothingLeft,
}

/// The state a lane wants to deliver next.
#[derive(Debug)]
pub(crate) struct Next {
    /// The event that holds the state.
    pub(crate) event: Event,
    /// What the target is to do: `created` while it does not hold the user, else `updated`; `deleted` stays.
    pub(crate) action: Action,
    /// Events that were folded into this one.
    pub(crate) folded: usize,
    /// The user's schedule, if the user is parked.
    pub(crate) schedule: Option<ParkedSchedule>,
    /// See [`super::Lane::unknown`].
    pub(crate) unknown: Unknown,
    /// Items of jobs that are settled with it, and their versions.
    pub(crate) items: Vec<(JobPart, i64)>,
    /// It is stored with its parked user, action included.
    pub(super) stored: bool,
    /// Of a job's: cancelled once a live change waits behind it, which must not wait for the turn of a job.
    pub(crate) hurry: Option<CancellationToken>,
}

/// A user to be parked.
#[derive(Debug)]
pub(crate) struct Park {
    pub(crate) schedule: ParkedSchedule,
    pub(crate) cause: ParkingCause,
    /// All states that wait.
    pub(crate) states: Vec<ParkedState>,
    /// How they differ from those stored.
    pub(crate) writes: StateWrites,
    /// Items whose state gave way to a newer one.
    pub(crate) superseded: Vec<JobPart>,
}

impl Next {
    /// What becomes of its items when it comes to `outcome`.
    pub(crate) fn item_outcomes(&self, outcome: ItemOutcome) -> Vec<(JobPart, ItemOutcome)> {
        let of =
            |(item, version): &(JobPart, i64)| (*item, item_outcome(outcome, *version == self.event.version));
        self.items.iter().map(of).collect()
    }
}

/// A state that was folded into a newer one is superseded, whatever became of that.
pub(super) fn item_outcome(outcome: ItemOutcome, is_the_state: bool) -> ItemOutcome {
    if is_the_state { outcome } else { ItemOutcome::Superseded }
}
