//! `crates/worker/src/lane.rs`, with versions in the place of events. What differs is left out: data, schedules but for
//! being due, and changes of the target's own origin.

use super::{
    Change, Delivery, Event, JobPart, Source,
    store::{Held, ParkedState, ParkedUser, Parking, ParkingCause, Unknown},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub(super) held: Held,
    queue: Vec<Queued>,
    running: Option<Running>,
    schedule: Option<ParkedUser>,
    unknown: Unknown,
}

pub(super) type Tag = (Source, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Queued {
    event: Event,
    send_as: Option<Change>,
    tags: Vec<Tag>,
    item: Option<JobPart>,
    stored: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Running {
    version: u8,
    tags: Vec<Tag>,
    /// The item joined it under way.
    late_item: bool,
    /// What is delivered; None: it is stored.
    event: Option<Event>,
    /// Of those that joined it under way.
    late_unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Next {
    pub(super) event: Event,
    pub(super) told: Change,
    pub(super) item: Option<JobPart>,
    pub(super) unknown: Unknown,
    stored: bool,
}

pub(super) enum Step {
    Deliver(Next),
    Park(Parking),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered {
    Waits,
    Settled,
}

impl Lane {
    pub(super) fn new(held: Held) -> Self {
        Self { held, queue: Vec::new(), running: None, schedule: None, unknown: Unknown::default() }
    }

    pub(super) fn parked(model: &Delivery, held: Held, user: ParkedUser, states: Vec<ParkedState>) -> Self {
        let mut lane = Self::new(held);
        lane.unknown = user.unknown;
        lane.restore(model, states);
        lane.schedule = Some(user);
        lane
    }

    pub(super) fn wake(&mut self, model: &Delivery, user: ParkedUser, states: Vec<ParkedState>) {
        if self.running.is_some() {
            if let Some(schedule) = &mut self.schedule {
                *schedule = ParkedUser { due: true, ..user };
            }
            return;
        }
        self.restore(model, states);
        if !self.queue.is_empty() {
            self.held.parked = true;
            self.schedule = Some(ParkedUser { due: true, ..user });
        }
    }

    pub(super) fn enter(
        &mut self,
        model: &Delivery,
        event: Event,
        tag: Option<Tag>,
        maybe_sent: bool,
    ) -> Entered {
        if maybe_sent {
            self.unknown = self.unknown.and(Unknown::of(event.version));
        }
        if self.is_settled(model, &event) {
            return Entered::Settled;
        }
        let item = event.job;
        if let Some(running) = &mut self.running
            && (event.version == running.version
                || event.version < running.version && (model.folds || item.is_none()))
        {
            running.tags.extend(tag);
            running.late_item |= item.is_some();
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
                    queued.stored = false;
                    queued.event.job = queued.event.job.or(item);
                    queued.event.resend = queued.event.resend.max(event.resend);
                    queued.item = item;
                }
                queued.tags.extend(tag);
            }
            Err(place) => {
                if item.is_none() && self.queue[place..].iter().any(|newer| newer.stored) {
                    return Entered::Settled;
                }
                if place == self.queue.len() {
                    self.renew_schedule(model);
                }
                let queued = Queued { event, send_as: None, tags: Vec::from_iter(tag), item, stored: false };
                self.queue.insert(place, queued);
            }
        }
        Entered::Waits
    }

    pub(super) fn start(&mut self, model: &Delivery, closed: bool) -> Option<Step> {
        if self.running.is_some() || self.queue.is_empty() {
            return None;
        }
        let due = self.schedule.is_none_or(|schedule| schedule.due);
        if closed || !due {
            let waits_stored = !due && self.queue.iter().all(|queued| queued.stored);
            return (!waits_stored).then(|| Step::Park(self.park(model, None)));
        }
        let (Queued { event, send_as, tags, item, stored }, folded) = self.next_step(model)?;
        let told = send_as.unwrap_or(match (event.change, self.held.present) {
            (Change::Deleted, _) => Change::Deleted,
            (_, true) => Change::Updated,
            (_, false) => Change::Created,
        });
        let tags = tags.into_iter().chain(folded.tags).collect();
        let version = event.version;
        self.running = Some(Running { version, tags, event: Some(event), ..Running::default() });
        let stored = stored && send_as.is_some() && folded.events == 0;
        Some(Step::Deliver(Next { event, told, item: item.or(folded.item), unknown: self.unknown, stored }))
    }

    /// None: what was refused gives way to a newer state, which is the next step.
    pub(super) fn park_failed(
        &mut self,
        model: &Delivery,
        next: &Next,
        cause: ParkingCause,
        refused: bool,
    ) -> Option<Parking> {
        let Running { tags, late_item, .. } = self.running.take().unwrap_or_default();
        self.unknown = self.unknown.and(next.unknown);
        let gives_way = refused && model.folds && next.told != Change::Deleted && !self.queue.is_empty();
        let late = late_item.then_some(JobPart { repeats: false });
        let (send_as, stored) = (Some(next.told), next.stored);
        self.queue.insert(0, Queued { event: next.event, send_as, tags, item: next.item.or(late), stored });
        let schedule = ParkedUser { due: false, unknown: next.unknown, refused };
        if gives_way {
            if self.schedule.is_some() {
                self.schedule = Some(ParkedUser { due: true, ..schedule });
            }
            return None;
        }
        Some(self.park(model, Some((schedule, cause))))
    }

    /// Gives the messages that are settled by it, and whether an item is.
    pub(super) fn parked_now(&mut self, model: &Delivery, states: Vec<ParkedState>) -> (Vec<Tag>, bool) {
        self.held.parked = true;
        let Running { tags, late_item, .. } = self.running.take().unwrap_or_default();
        self.restore(model, states);
        (tags, late_item)
    }

    pub(super) fn settled(&mut self, model: &Delivery, held: Held, dead: bool) -> (Vec<Tag>, bool) {
        let still_parked = self.held.parked && self.queue.iter().any(|queued| queued.stored);
        self.held = Held { parked: still_parked, ..held };
        let Running { version, mut tags, late_item, event, late_unknown } =
            self.running.take().unwrap_or_default();
        if !dead {
            self.unknown = self.unknown.after(version, model.protections.doubt_knows_oldest);
        }
        self.schedule = None;
        while self.queue.first().is_some_and(|queued| {
            queued.item.is_none() && !queued.stored && queued.event.version <= held.settled()
        }) {
            tags.extend(self.queue.remove(0).tags);
        }
        if model.protections.joining_is_doubtful && !dead {
            self.send_again(model, event, late_unknown);
        }
        (tags, late_item)
    }

    fn send_again(&mut self, model: &Delivery, event: Option<Event>, unknown: Unknown) {
        self.unknown = self.unknown.and(unknown);
        let is_doubtful = unknown.newest > 0 && (model.folds || !model.protections.events_are_undoubted);
        let Some(event) = event.filter(|_| is_doubtful) else { return };
        if self.queue.first().is_none_or(|queued| queued.event.version != event.version) {
            let event = Event { resend: event.resend + 1, job: None, ..event };
            self.queue
                .insert(0, Queued { event, send_as: None, tags: Vec::new(), item: None, stored: false });
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        let waits_stored = || {
            self.schedule.is_some_and(|schedule| !schedule.due)
                && self.queue.iter().all(|queued| queued.stored)
        };
        self.running.is_none() && (self.queue.is_empty() || waits_stored())
    }

    pub(super) fn is_due(&self) -> bool {
        self.schedule.is_some_and(|schedule| schedule.due)
    }

    pub(super) fn resends(&self) -> bool {
        self.queue.iter().any(|queued| queued.event.resend > 0)
    }

    /// Messages of the delivery under way.
    pub(super) fn running_tags(&self) -> Vec<Tag> {
        self.running.as_ref().map_or_else(Vec::new, |running| running.tags.clone())
    }

    fn is_settled(&self, model: &Delivery, event: &Event) -> bool {
        match event.job {
            Some(_) if !model.folds || !model.protections.replay_gate => false,
            Some(part) => {
                event.version < self.held.delivered || event.version == self.held.delivered && !part.repeats
            }
            None if event.resend > 0 => event.version < self.held.delivered,
            None => event.version <= self.held.settled(),
        }
    }

    fn next_step(&mut self, model: &Delivery) -> Option<(Queued, Folded)> {
        if self.queue.is_empty() {
            return None;
        }
        let mut step = self.queue.remove(0);
        let mut folded = Folded::default();
        let stays = |change| change == Change::Deleted && model.protections.keeps_deletes;
        while model.folds && !stays(step.event.change) && !self.queue.is_empty() {
            folded.events += 1;
            folded.tags.append(&mut step.tags);
            folded.item = folded.item.or(step.item);
            step = self.queue.remove(0);
        }
        Some((step, folded))
    }

    fn park(&mut self, model: &Delivery, schedule: Option<(ParkedUser, ParkingCause)>) -> Parking {
        let waiting = self.schedule.map(|schedule| match schedule.due {
            true => (schedule, ParkingCause::NotTried),
            false => (schedule, ParkingCause::Folded),
        });
        let held_back = ParkedUser { due: true, unknown: Unknown::default(), refused: false };
        let (schedule, cause) = schedule.or(waiting).unwrap_or((held_back, ParkingCause::NotTried));
        let unknown = schedule.unknown.and(self.unknown);
        let news: Vec<u8> =
            self.queue.iter().filter(|queued| !queued.stored).map(|queued| queued.event.version).collect();
        let version = self.queue.last().map_or(0, |queued| queued.event.version);
        let mut running = Running { version, ..Running::default() };
        let (mut superseded, mut states) = (false, Vec::new());
        while let Some((mut step, mut folded)) = self.next_step(model) {
            running.tags.append(&mut step.tags);
            running.tags.append(&mut folded.tags);
            superseded |= folded.item.is_some() || step.item.is_some() && step.event.job.is_none();
            states.push(ParkedState { event: step.event, send_as: step.send_as });
        }
        self.running = Some(running);
        self.schedule = Some(ParkedUser { due: false, unknown, ..schedule });
        Parking { states, news, replaces: model.folds, cause, unknown, refused: schedule.refused, superseded }
    }

    fn renew_schedule(&mut self, model: &Delivery) {
        let waits_for_delete =
            self.queue.first().is_some_and(|queued| queued.event.change == Change::Deleted);
        if model.folds
            && !waits_for_delete
            && let Some(schedule) = &mut self.schedule
            && schedule.refused
        {
            (schedule.refused, schedule.due) = (false, true);
        }
    }

    /// What an event target did not get is not dead because a later one is.
    fn is_settled_though_stored(&self, model: &Delivery, event: &Event) -> bool {
        match model.folds || event.job.is_some() || event.resend > 0 {
            true => self.is_settled(model, event),
            false => event.version <= self.held.delivered || event.version == self.held.dead,
        }
    }

    fn restore(&mut self, model: &Delivery, states: Vec<ParkedState>) {
        for ParkedState { event, send_as } in states.into_iter().rev() {
            let place = self.queue.partition_point(|queued| queued.event.version < event.version);
            let waits = self.queue.get(place).is_some_and(|queued| queued.event.version == event.version);
            if waits || self.is_settled_though_stored(model, &event) {
                continue;
            }
            self.queue
                .insert(place, Queued { event, send_as, tags: Vec::new(), item: event.job, stored: true });
        }
    }
}

#[derive(Debug, Default)]
struct Folded {
    events: usize,
    tags: Vec<Tag>,
    item: Option<JobPart>,
}
