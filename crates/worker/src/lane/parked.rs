use super::{
    Lane, Tag,
    queued::{Queued, Running},
    schedule::{Schedule, clean_slate, held_back, is_refused},
    step::{Next, Park, Read},
};
use postbound_event::{Action, Event, JobPart};
use postbound_store::{
    Held, ItemOutcome, ParkedSchedule, ParkedState, ParkedUser, ParkingCause, StateWrites,
};

/// States of a parked user that were not read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unread {
    /// Versions up to this one were.
    pub(super) after: i64,
    /// The newest of them.
    pub(super) up_to: i64,
}

/// What a lane knows of its user being parked: what is stored, until when it waits, and what is to be stored.
impl Lane {
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

    /// All that waits, folded, to be stored.
    pub(super) fn park(&mut self, schedule: Option<(ParkedSchedule, ParkingCause)>) -> Park {
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

    /// What waits is stored, as `states`. Gives the messages that are settled by it, and the items that joined them under
    /// way: the stored state stands for them.
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

    /// A newer state than the one that was refused for its content deserves a try of its own. A delete is never folded
    /// away: what comes after one waits for it.
    pub(super) fn renew_schedule(&mut self) {
        let waits_for_delete =
            self.queue.front().is_some_and(|queued| queued.event.action == Action::Deleted);
        if self.folds
            && !waits_for_delete
            && let Some(schedule) = self.schedule.take_if(|schedule| is_refused(&schedule.parked))
        {
            self.schedule = Some(Schedule { parked: clean_slate(schedule.parked), due: true });
        }
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

    /// What a target that gets every event did not get is not dead because a later one is: that may be one RabbitMQ gave
    /// up, out of its order.
    fn is_settled_though_stored(&self, event: &Event) -> bool {
        match self.folds || event.job.is_some() || event.resend > 0 {
            true => self.is_settled(event),
            false => event.version <= self.held.delivered_version || event.version == self.held.dead_version,
        }
    }
}
