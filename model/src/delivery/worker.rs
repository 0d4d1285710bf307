//! A worker at its partition: `crates/worker/src/partition/`, `delivery.rs` and `feeder.rs`.

mod acts;
mod steps;

pub(super) use acts::act;
pub(super) use steps::{mishaps, steps};

use super::{
    Delivery, Event, Message, Source,
    lane::{Lane, Next, Tag},
    store::{Held, ParkedState, ParkedUser, Write},
};

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
    fn open() -> Self {
        Self {
            consumes: true,
            leased: true,
            unacknowledged: Vec::new(),
            intake: None,
            fed: None,
            lane: None,
            work: None,
            unparking: None,
        }
    }

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
