use postbound_event::{Action, Event, JobPart};
use postbound_store::{
    Held, ItemOutcome, NextAttempt, ParkedSchedule, ParkedState, ParkedUser, ParkingCause, StateWrites,
    Unknown,
};
use std::{collections::VecDeque, time::Duration};
use tokio_util::sync::CancellationToken;

/// Names a message of one of the partition's consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    /// Which queue it came from.
    pub(crate) source: Source,
    /// The consumer's own tag.
    pub(crate) number: u64,
}

/// The queues of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// Changes as they are committed.
    Live,
    /// What jobs send.
    Backfill,
}

/// One user's states at one target: they are delivered one after the other, those that are parked and those of jobs
/// among them, while other users' run beside them.
///
/// Architecture invariant: a lane has at most one delivery under way, and the next starts only when the ledger has
/// the last. A crash between the two then sends the newest state again, never an older one after it.
///
/// Architecture invariant: of a parked user the lane holds all that is stored, so that parking can replace it whole. Where
/// every event is delivered, that may be a lot: then it knows how far what is stored goes, adds to it, and reads it in
/// pages once it is due.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    folds: bool,
    held: Held,
    /// By version, each once, none settled.
    queue: VecDeque<Queued>,
    running: Option<Running>,
    /// Of a parked user; None: the user is not parked.
    schedule: Option<Schedule>,
    /// Versions that may be on their way to the target in requests nobody knows the outcome of.
    unknown: Unknown,
    /// What is stored and not in the queue.
    unread: Option<Unread>,
}

/// States of a parked user that were not read.
#[derive(Debug, Clone, Copy, Default)]
struct Unread {
    /// Versions up to this one were.
    after: i64,
    /// The newest of them.
    up_to: i64,
}

#[derive(Debug)]
struct Queued {
    event: Event,
    /// What the target was told at the first attempt: it stays so.
    send_as: Option<Action>,
    tags: Vec<Tag>,
    items: Vec<JobPart>,
    /// It is stored with its parked user; so it has no tags.
    stored: bool,
    /// It came from the target itself, which held everything before it.
    echo: bool,
}

#[derive(Debug)]
struct Schedule {
    parked: ParkedSchedule,
    due: bool,
}

#[derive(Debug, Default)]
struct Running {
    version: i64,
    /// One for each event that is settled with it, itself and those folded into it.
    tags: Vec<Tag>,
    /// Items that joined it under way, with their versions; those it began with, its delivery settles.
    late_items: Vec<(JobPart, i64)>,
    /// Versions below it that joined it under way and may have been sent before: it was begun without knowing of them.
    late_unknown: Unknown,
    /// It is settled without being sent.
    echo: bool,
    /// See [`Next::hurry`].
    hurry: Option<CancellationToken>,
}

/// An event on its way into its lane.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) event: Event,
    /// The message it came in; None: it was loaded from what is stored.
    pub(crate) tag: Option<Tag>,
    /// A request with it may have been sent before, and nobody knows what became of it.
    pub(crate) maybe_sent: bool,
    /// It came from the target itself (its origin is the target's).
    pub(crate) from_target: bool,
}

/// What became of an event that entered its lane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It waits, or is the same as one that does; its message stays unacknowledged.
    Waits,
    /// The target holds it or a newer one, it was dead-lettered, or it is stored: nothing to do.
    Settled,
}

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
    /// See [`Lane::unknown`].
    pub(crate) unknown: Unknown,
    /// Items of jobs that are settled with it, and their versions.
    pub(crate) items: Vec<(JobPart, i64)>,
    /// It is stored with its parked user, action included.
    stored: bool,
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

impl Lane {
    /// A lane of a user of whom nothing is parked. With `folds`, states that wait give way to the newest.
    pub(crate) fn new(held: Held, folds: bool) -> Self {
        Self { held, folds, ..Self::default() }
    }

    /// A lane of a parked user; `due`: the next attempt is.
    pub(crate) fn parked(held: Held, folds: bool, parked: ParkedUser, due: bool) -> Self {
        let mut lane = Self::new(held, folds);
        lane.unknown = parked.schedule.unknown;
        lane.restore(parked.states);
        lane.leave_unread(parked.unread_up_to);
        lane.schedule = Some(Schedule { parked: parked.schedule, due });
        lane
    }

    /// The next attempt of the parked user is due, as the feeder found.
    pub(crate) fn wake(&mut self, parked: ParkedUser) {
        if self.running.is_some() {
            // It is being tried, or stored: with what is stored then it goes on.
            if let Some(schedule) = &mut self.schedule {
                *schedule = Schedule { parked: parked.schedule, due: true };
            }
            return;
        }
        self.restore(parked.states);
        self.leave_unread(parked.unread_up_to);
        // What was taken may have been delivered before it got here.
        if !self.queue.is_empty() || self.unread.is_some() {
            self.held.parked = true;
            self.schedule = Some(Schedule { parked: parked.schedule, due: true });
        }
    }

    /// What waits and comes is stored before it is tried: each state then stands and falls alone.
    pub(crate) fn set_apart(&mut self) {
        if self.running.is_none() && self.schedule.is_none() {
            self.schedule = Some(Schedule { parked: held_back(None), due: false });
        }
    }

    /// Adds an event by its version; one that arrives twice (a redelivery, a relay's takeover) is one event.
    pub(crate) fn enter(&mut self, arrival: Arrival) -> Entered {
        let Arrival { mut event, tag, maybe_sent, from_target } = arrival;
        if maybe_sent {
            self.unknown = self.unknown.and(Unknown::of(event.version));
        }
        if self.is_settled(&event) {
            return Entered::Settled;
        }
        let item = event.job;
        if let Some(running) = &mut self.running
            && (event.version == running.version && !(running.echo && item.is_some())
                || event.version < running.version && (self.folds || item.is_none()))
        {
            if item.is_none() {
                running.make_haste();
            }
            running.tags.extend(tag);
            running.late_items.extend(item.map(|item| (item, event.version)));
            if maybe_sent && event.version < running.version {
                running.late_unknown = running.late_unknown.and(Unknown::of(event.version));
            }
            return Entered::Waits;
        }
        match self.queue.binary_search_by_key(&event.version, |queued| queued.event.version) {
            Ok(same) => {
                let queued = &mut self.queue[same];
                if queued.stored && item.is_none() {
                    return Entered::Settled;
                }
                if item.is_some() {
                    queued.echo = false;
                    queued.stored = false;
                    queued.event.job = queued.event.job.or(item);
                    queued.event.resend = queued.event.resend.max(event.resend);
                }
                queued.tags.extend(tag);
                queued.items.extend(item);
            }
            Err(place) => {
                let is_newest = place == self.queue.len();
                let is_below_stored = self.unread.is_some_and(|unread| event.version <= unread.up_to)
                    || self.queue.iter().skip(place).any(|newer| newer.stored);
                if is_below_stored && item.is_none() {
                    // What is stored was stored in order: whatever is below it and not there is settled.
                    return Entered::Settled;
                }
                if is_newest {
                    self.renew_schedule();
                }
                let echo = from_target && self.holds_all_before();
                let items = item.into_iter().collect();
                event.job = item;
                self.queue.insert(
                    place,
                    Queued { event, send_as: None, tags: Vec::from_iter(tag), items, stored: false, echo },
                );
            }
        }
        if let (Some(running), None) = (&self.running, item) {
            running.make_haste();
        }
        Entered::Waits
    }

    /// Starts the next step, if none is under way. `closed`: the target is closed to this user for a while; what waits
    /// is to be stored rather than tried.
    ///
    /// Where states fold, those that wait give way to the newest, up to and including the next delete: a delete is
    /// never folded away, and what follows it is a step of its own.
    pub(crate) fn start(&mut self, closed: bool) -> Option<Step> {
        if self.running.is_some() || self.queue.is_empty() && self.unread.is_none() {
            return None;
        }
        let is_echo = self.queue.front().is_some_and(|queued| queued.echo);
        if is_echo && (self.queue.len() == 1 || !self.folds) {
            return self.queue.pop_front().map(|queued| {
                self.running = Some(Running { echo: true, ..Running::of(queued.event.version, queued.tags) });
                Step::Echo(queued.event)
            });
        }
        let due = self.schedule.as_ref().is_none_or(|schedule| schedule.due);
        if closed || !due {
            // What is stored comes back when it is due; one that was due and cannot be tried is due again at once.
            let waits_stored = !due && self.queue.iter().all(|queued| queued.stored);
            return (!waits_stored).then(|| Step::Park(self.park(None)));
        }
        if let Some(Unread { after, .. }) = self.unread
            && self.queue.front().is_none_or(|queued| queued.event.version > after)
        {
            self.running = Some(Running::default());
            return Some(Step::Read { after });
        }
        let (queued, folded) = self.next_step()?;
        let stored = queued.stored && queued.send_as.is_some() && folded.events == 0;
        let action = queued.send_as.unwrap_or(match (queued.event.action, self.held.present) {
            (Action::Deleted, _) => Action::Deleted,
            (_, true) => Action::Updated,
            (_, false) => Action::Created,
        });
        let Queued { event, tags, items, .. } = queued;
        let mut running = Running::of(event.version, tags);
        running.tags.extend(folded.tags);
        let hurry = event.job.map(|_| CancellationToken::new());
        running.hurry.clone_from(&hurry);
        self.running = Some(running);
        let items = items.into_iter().map(|item| (item, event.version)).chain(folded.items).collect();
        let schedule = self.schedule.as_ref().map(|schedule| schedule.parked.clone());
        let (unknown, folded) = (self.unknown, folded.events);
        Some(Step::Deliver(Next { event, action, folded, schedule, unknown, items, stored, hurry }))
    }

    /// The delivery under way was not settled: the user is to be parked by `schedule`, with all that waits. None: what was
    /// refused gives way to a newer state, which is the next step, with a clean slate.
    pub(crate) fn park_failed(
        &mut self,
        next: Next,
        schedule: ParkedSchedule,
        cause: ParkingCause,
    ) -> Option<Park> {
        let Running { tags, late_items, .. } = self.running.take().unwrap_or_default();
        self.unknown = self.unknown.and(schedule.unknown);
        let version = next.event.version;
        let items = next.items.into_iter().chain(late_items);
        let gives_way = cause == ParkingCause::Failed
            && is_refused(&schedule)
            && self.folds
            && next.action != Action::Deleted
            && !self.queue.is_empty();
        let (own, older): (Vec<_>, Vec<_>) =
            items.partition(|(_, of_version)| gives_way || *of_version == version);
        let superseded: Vec<JobPart> = older.into_iter().map(|(item, _)| item).collect();
        self.queue.push_front(Queued {
            send_as: Some(next.action),
            items: own.into_iter().map(|(item, _)| item).collect(),
            event: next.event,
            tags,
            stored: next.stored,
            echo: false,
        });
        if gives_way {
            if self.schedule.is_some() {
                self.schedule = Some(Schedule { parked: clean_slate(schedule), due: true });
            }
            return None;
        }
        let mut park = self.park(Some((schedule, cause)));
        park.superseded.extend(superseded);
        Some(park)
    }

    /// What waits is stored, as `states`. Gives the messages that are settled by it.
    /// And the items that joined them under way: the stored state stands for them.
    pub(crate) fn parked_now(&mut self, states: Vec<ParkedState>) -> (Vec<Tag>, Vec<(JobPart, ItemOutcome)>) {
        self.held.parked = true;
        let Running { tags, late_items, .. } = self.running.take().unwrap_or_default();
        if self.folds {
            self.restore(states);
        } else {
            // What was read is left, too: it may wait for long.
            self.unread = self.unread.map(|unread| Unread { after: 0, ..unread });
            self.leave_unread(states.last().map_or(0, |state| state.event.version));
        }
        (tags, late_items.into_iter().map(|(item, _)| (item, ItemOutcome::Superseded)).collect())
    }

    /// The next states that are stored were read; `all`: there are no more of them.
    pub(crate) fn read(&mut self, states: Vec<ParkedState>, all: bool) -> Read {
        self.running = None;
        let after = states.last().map_or(0, |state| state.event.version);
        self.unread = self.unread.filter(|unread| !all && after < unread.up_to);
        if let Some(unread) = &mut self.unread {
            unread.after = after;
        }
        self.restore(states);
        if self.unread.is_some() || self.queue.iter().any(|queued| queued.stored) {
            return Read::GoesOn;
        }
        self.schedule = None;
        Read::NothingLeft
    }

    /// The delivery under way is in the ledger: `held` is what that says now, `outcome` what it came to. Gives the
    /// message of every event it settled, once for each, and the items that joined it under way.
    ///
    /// If an older version joined it that may still be executed over it, `event` is sent once more: that raises doubt.
    pub(crate) fn settled(
        &mut self,
        event: Event,
        held: Held,
        outcome: ItemOutcome,
    ) -> (Vec<Tag>, Vec<(JobPart, ItemOutcome)>) {
        let is_stored = self.unread.is_some() || self.queue.iter().any(|queued| queued.stored);
        let still_parked = self.held.parked && is_stored;
        self.held = Held { parked: still_parked, ..held };
        let running = self.running.take().unwrap_or_default();
        let mut tags = running.tags;
        let is_dead = matches!(outcome, ItemOutcome::Dead { .. });
        if !is_dead {
            self.unknown = self.unknown.after(running.version);
        }
        // What is left of a parked user is due at once, with a clean slate.
        self.schedule = None;
        // A target that is ahead of us settles what waits below its version, too.
        while self.queue.front().is_some_and(|queued| {
            queued.items.is_empty() && !queued.stored && queued.event.version <= held.settled_version()
        }) {
            tags.extend(self.queue.pop_front().into_iter().flat_map(|queued| queued.tags));
        }
        if !is_dead {
            self.send_again(event, running.late_unknown);
        }
        let items = running.late_items.iter();
        (
            tags,
            items
                .map(|(item, version)| (*item, item_outcome(outcome, *version == running.version)))
                .collect(),
        )
    }

    /// Sends a settled state once more, in doubt about `unknown` versions. Where every event is delivered, none undoes
    /// another.
    fn send_again(&mut self, event: Event, unknown: Unknown) {
        self.unknown = self.unknown.and(unknown);
        // An item with that very state says the same.
        let is_next = self.queue.front().is_some_and(|queued| queued.event.version == event.version);
        if unknown.is_none() || is_next || !self.folds {
            return;
        }
        let event = Event { resend: event.resend + 1, job: None, ..event };
        let (tags, items) = (Vec::new(), Vec::new());
        self.queue.push_front(Queued { event, send_as: None, tags, items, stored: false, echo: false });
    }

    pub(crate) fn held(&self) -> Held {
        self.held
    }

    /// Nothing is under way, and nothing waits that is not stored.
    pub(crate) fn is_idle(&self) -> bool {
        let is_due = self.schedule.as_ref().is_none_or(|schedule| schedule.due);
        let has_no_step = match is_due {
            true => self.queue.is_empty() && self.unread.is_none(),
            false => self.queue.iter().all(|queued| queued.stored),
        };
        self.running.is_none() && has_no_step
    }

    fn is_settled(&self, event: &Event) -> bool {
        match event.job {
            // Of an event target a job sends what was never sent, whatever came after it.
            Some(_) if !self.folds => false,
            Some(part) => {
                event.version < self.held.delivered_version
                    || event.version == self.held.delivered_version && !part.repeats
            }
            None if event.resend > 0 => event.version < self.held.delivered_version,
            None => event.version <= self.held.settled_version(),
        }
    }

    /// What a target that gets every event did not get is not dead because a later one is: that may be one RabbitMQ gave
    /// up, out of its order.
    fn is_settled_though_stored(&self, event: &Event) -> bool {
        match self.folds || event.job.is_some() || event.resend > 0 {
            true => self.is_settled(event),
            false => event.version <= self.held.delivered_version || event.version == self.held.dead_version,
        }
    }

    /// Whether the target holds everything that was wanted before what comes now (decision 14).
    fn holds_all_before(&self) -> bool {
        self.queue.is_empty()
            && self.unread.is_none()
            && self.running.is_none()
            && self.schedule.is_none()
            && self.held.dead_version <= self.held.delivered_version
    }

    /// A newer state than the one that was refused for its content deserves a try of its own. A delete is never folded
    /// away: what comes after one waits for it.
    fn renew_schedule(&mut self) {
        let waits_for_delete =
            self.queue.front().is_some_and(|queued| queued.event.action == Action::Deleted);
        if self.folds
            && !waits_for_delete
            && let Some(schedule) = self.schedule.take_if(|schedule| is_refused(&schedule.parked))
        {
            self.schedule = Some(Schedule { parked: clean_slate(schedule.parked), due: true });
        }
    }

    /// Takes the next state to deliver, and what folds into it.
    fn next_step(&mut self) -> Option<(Queued, Folded)> {
        let mut step = self.queue.pop_front()?;
        let mut folded = Folded::default();
        while self.folds && step.event.action != Action::Deleted {
            let Some(newer) = self.queue.pop_front() else { break };
            step = folded.fold(step, newer);
        }
        Some((step, folded))
    }

    /// All that waits, folded, to be stored.
    fn park(&mut self, schedule: Option<(ParkedSchedule, ParkingCause)>) -> Park {
        let (schedule, cause) = schedule
            .or_else(|| {
                let Schedule { parked, due } = self.schedule.take()?;
                Some(match due {
                    true => (held_back(Some(parked)), ParkingCause::NotTried),
                    false => (parked, ParkingCause::Folded),
                })
            })
            .unwrap_or_else(|| (held_back(None), ParkingCause::NotTried));
        let schedule = ParkedSchedule { unknown: schedule.unknown.and(self.unknown), ..schedule };
        let news = self.queue.iter().filter(|queued| !queued.stored).map(|queued| queued.event.version);
        let writes = match (Vec::from_iter(news), self.folds) {
            (news, _) if news.is_empty() => StateWrites::Nothing,
            (_, true) => StateWrites::All,
            (news, false) => StateWrites::Only(news),
        };
        let newest = self.queue.back().map_or(0, |queued| queued.event.version);
        let mut running = Running { version: newest, ..Running::default() };
        let mut superseded = Vec::new();
        let mut states = Vec::with_capacity(self.queue.len());
        while let Some((mut step, folded)) = self.next_step() {
            running.tags.append(&mut step.tags);
            running.tags.extend(folded.tags);
            superseded.extend(folded.items.iter().map(|(item, _)| *item));
            // One item travels with a state; any other of the same state is taken for done by it.
            superseded.extend(step.items.iter().filter(|item| Some(**item) != step.event.job));
            states.push(ParkedState { event: step.event, send_as: step.send_as });
        }
        self.running = Some(running);
        self.schedule = Some(Schedule { parked: schedule.clone(), due: false });
        Park { schedule, cause, states, writes, superseded }
    }

    /// There is more stored, up to that version; 0: there is not. What the feeder read may be from before the last parking.
    fn leave_unread(&mut self, up_to: i64) {
        if up_to > 0 {
            let Unread { after, up_to: before } = self.unread.unwrap_or_default();
            self.unread = Some(Unread { after, up_to: up_to.max(before) });
        }
    }

    fn restore(&mut self, states: Vec<ParkedState>) {
        for ParkedState { event, send_as } in states.into_iter().rev() {
            let items = event.job.into_iter().collect();
            let place = self.queue.partition_point(|queued| queued.event.version < event.version);
            let waits = self.queue.get(place).is_some_and(|queued| queued.event.version == event.version);
            if waits || self.is_settled_though_stored(&event) {
                continue;
            }
            let queued = Queued { event, send_as, tags: Vec::new(), items, stored: true, echo: false };
            self.queue.insert(place, queued);
        }
    }
}

/// What gave way to a newer state.
#[derive(Debug, Default)]
struct Folded {
    events: usize,
    tags: Vec<Tag>,
    items: Vec<(JobPart, i64)>,
}

impl Folded {
    fn fold(&mut self, older: Queued, mut newer: Queued) -> Queued {
        if newer.event.action == Action::Deleted && newer.event.data.get() == "{}" {
            // A bare delete is rendered from the ids and the last known state: here it is.
            newer.event.data = older.event.data;
        }
        self.events += 1;
        self.tags.extend(older.tags);
        self.items.extend(older.items.iter().map(|item| (*item, older.event.version)));
        newer
    }
}

impl Running {
    fn of(version: i64, tags: Vec<Tag>) -> Self {
        Self { version, tags, ..Self::default() }
    }

    /// A live change waits for it.
    fn make_haste(&self) {
        if let Some(hurry) = &self.hurry {
            hurry.cancel();
        }
    }
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
fn item_outcome(outcome: ItemOutcome, is_the_state: bool) -> ItemOutcome {
    if is_the_state { outcome } else { ItemOutcome::Superseded }
}

/// Whether the last try was refused for the state's content.
fn is_refused(schedule: &ParkedSchedule) -> bool {
    schedule.class == "permanent"
}

/// What failed was an older state.
fn clean_slate(schedule: ParkedSchedule) -> ParkedSchedule {
    ParkedSchedule {
        attempts: 0,
        repeats: 0,
        first_failed_at: None,
        recent_failures: Vec::new(),
        ..held_back(Some(schedule))
    }
}

/// The schedule of a user the target was closed to: no attempt failed, the next is due as soon as it opens.
pub(crate) fn held_back(schedule: Option<ParkedSchedule>) -> ParkedSchedule {
    let next_attempt = NextAttempt::In(Duration::ZERO);
    match schedule {
        Some(schedule) => ParkedSchedule { next_attempt, ..schedule },
        None => ParkedSchedule {
            attempts: 0,
            repeats: 0,
            next_attempt,
            first_failed_at: None,
            last_failed_at: None,
            reason: "target_closed".to_owned(),
            class: "held".to_owned(),
            status: None,
            detail: String::new(),
            unknown: Unknown::default(),
            recent_failures: Vec::new(),
        },
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
