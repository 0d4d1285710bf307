mod parked;
mod queued;
mod schedule;
mod step;

pub(crate) use schedule::held_back;
pub(crate) use step::{Next, Park, Read, Step};

use parked::Unread;
use postbound_event::{Action, Event, JobPart};
use postbound_store::{Held, ItemOutcome, Unknown};
use queued::{Folded, Queued, Running};
use schedule::Schedule;
use std::collections::VecDeque;
use step::item_outcome;
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

impl Lane {
    /// A lane of a user of whom nothing is parked. With `folds`, states that wait give way to the newest.
    pub(crate) fn new(held: Held, folds: bool) -> Self {
        Self { held, folds, ..Self::default() }
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
            && running.takes_in(&event, self.folds)
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

    /// Whether the target holds everything that was wanted before what comes now (decision 14).
    fn holds_all_before(&self) -> bool {
        self.queue.is_empty()
            && self.unread.is_none()
            && self.running.is_none()
            && self.schedule.is_none()
            && self.held.dead_version <= self.held.delivered_version
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
}

#[cfg(test)]
mod tests;
