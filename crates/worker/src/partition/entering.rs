use super::{
    Interrupted,
    intake::{Intake, Taken, Unheld},
    session::{HeldMessage, Session},
};
use crate::{
    feeder::Fed,
    lane::{Arrival, Entered, Lane, Source},
};
use postbound_event::{JobPart, UserKey};
use postbound_store::{Held, ItemOutcome, ParkedSchedule, ParkedUser};
use std::{collections::HashMap, sync::Arc};
use tokio::time::Instant;

/// A message that was handed out so often is handled event by event: with it, something takes workers down.
const REDELIVERIES_MAX: u64 = 3;

impl Session<'_> {
    /// Puts events into their lanes and starts those that are idle.
    pub(super) async fn enter(&mut self, intake: Intake) -> Result<(), Interrupted> {
        let Intake { messages, fed, held, mut parked } = intake;
        let since = Instant::now();
        let mut users = std::mem::take(&mut self.fell_idle);
        for taken in messages {
            self.enter_message(taken, since, &held, &mut parked, &mut users).await?;
        }
        for fed in fed {
            users.push(fed.key().clone());
            self.enter_fed(fed, &held, &mut parked);
        }
        for key in users {
            self.start(&key);
            if self.lanes.get(&key).is_some_and(Lane::is_idle) {
                self.lanes.remove(&key);
            }
        }
        // Also where all of it was settled before, as after a cursor went back.
        self.partition.component.progress();
        Ok(())
    }

    async fn enter_message(
        &mut self,
        taken: Taken,
        since: Instant,
        held: &HashMap<UserKey, Held>,
        parked: &mut HashMap<UserKey, ParkedUser>,
        users: &mut Vec<UserKey>,
    ) -> Result<(), Interrupted> {
        let Taken { message: Unheld { tag, delivered_before, events }, kibibytes } = taken;
        let events = match events {
            Ok(events) => events,
            Err(unreadable) => {
                self.held
                    .insert(tag, HeldMessage { unsettled: 1, since, oldest: None, _kibibytes: kibibytes });
                self.bury_unreadable(tag, unreadable);
                return Ok(());
            }
        };
        let context = Arc::clone(&self.partition.context);
        let plan = &context.plan;
        // One more than there are events: the message's own, settled when all have entered.
        let oldest = events.iter().map(|event| event.logged_at).min().filter(|_| tag.source == Source::Live);
        let unsettled = events.len() + 1;
        self.held.insert(tag, HeldMessage { unsettled, since, oldest, _kibibytes: kibibytes });
        let mut settled = vec![tag];
        let mut settled_items: Vec<(JobPart, ItemOutcome)> = Vec::new();
        for event in events {
            let (key, job) = (event.key.clone(), event.job);
            // What a job sends, it sends to the origin too.
            let from_target =
                job.is_none() && event.origin.as_deref() == Some(plan.registration.origin.as_str());
            let maybe_sent = delivered_before > 0 && !plan.guards_versions;
            let lane = lane_of(&mut self.lanes, &key, plan.registration.fold, held, parked);
            if delivered_before >= REDELIVERIES_MAX {
                lane.set_apart();
            }
            users.push(key);
            match (lane.enter(Arrival { event, tag: Some(tag), maybe_sent, from_target }), job) {
                (Entered::Waits, _) => {}
                (Entered::Settled, None) => settled.push(tag),
                (Entered::Settled, Some(part)) => settled_items.push((part, ItemOutcome::Superseded)),
            }
        }
        context.counters.superseded.increment((settled.len() - 1 + settled_items.len()) as u64);
        if !settled_items.is_empty() {
            self.settle_items(vec![tag; settled_items.len()], settled_items);
        }
        self.acknowledge(settled).await
    }

    fn enter_fed(
        &mut self,
        fed: Fed,
        held: &HashMap<UserKey, Held>,
        parked: &mut HashMap<UserKey, ParkedUser>,
    ) {
        let folds = self.partition.context.plan.registration.fold;
        match fed {
            Fed::Parked(user) => {
                if let Some(lane) = self.lanes.get_mut(&user.key) {
                    return lane.wake(*user);
                }
                // As it was read last, with the ledger: somebody may have delivered it meanwhile.
                if let Some(read) = parked.remove(&user.key) {
                    let user = as_taken(*user, read);
                    let (key, held) = (user.key.clone(), held.get(&user.key).copied().unwrap_or_default());
                    let lane = Lane::parked(held, folds, user, true);
                    if lane.is_idle() {
                        self.unpark(key, held);
                    } else {
                        self.lanes.insert(key, lane);
                    }
                }
            }
            Fed::Doubtful(state) => {
                let key = state.event.key.clone();
                let lane = lane_of(&mut self.lanes, &key, folds, held, parked);
                let event = state.event;
                lane.enter(Arrival { event, tag: None, maybe_sent: false, from_target: false });
            }
        }
    }
}

/// A user who was taken to be tried, as read since. Taking wrote down that an attempt may be under way: what was known
/// before counts, unless somebody has tried and parked the user since.
fn as_taken(taken: ParkedUser, read: ParkedUser) -> ParkedUser {
    let untouched = ParkedSchedule { unknown: taken.unknown_stored, ..taken.schedule.clone() };
    match read.schedule == untouched {
        true => ParkedUser { schedule: taken.schedule, ..read },
        false => read,
    }
}

/// The lane of a user, made from what was looked up if there is none.
fn lane_of<'l>(
    lanes: &'l mut HashMap<UserKey, Lane>,
    key: &UserKey,
    folds: bool,
    held: &HashMap<UserKey, Held>,
    parked: &mut HashMap<UserKey, ParkedUser>,
) -> &'l mut Lane {
    lanes.entry(key.clone()).or_insert_with(|| {
        let held = held.get(key).copied().unwrap_or_default();
        match parked.remove(key) {
            Some(user) => Lane::parked(held, folds, user, false),
            None => Lane::new(held, folds),
        }
    })
}
