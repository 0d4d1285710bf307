use super::{intake::Unreadable, session::Session};
use crate::{
    delivery::{self, Abandoned, Ended},
    lane::{Park, Step, Tag},
    ledger::LedgerGone,
};
use futures_util::FutureExt as _;
use postbound_event::{JobPart, UserKey};
use postbound_store::{Held, ItemOutcome, NextAttempt, ParkedState, Parking};
use std::sync::Arc;

/// States of a parked user read at once, where every event is delivered.
pub(super) const READ_STATES_MAX: u16 = 16;

/// Something a lane had done.
pub(super) enum Done {
    Delivery(UserKey, Result<Ended, Abandoned>),
    Parking(UserKey, Result<Vec<ParkedState>, LedgerGone>),
    /// The next states of a parked user.
    Reading(UserKey, Result<Vec<ParkedState>, LedgerGone>),
    /// Items of jobs that needed no delivery; their messages are settled.
    Items(Vec<Tag>, Result<(), LedgerGone>),
    /// A message nobody can read is in the dead-letter queue.
    Buried(Tag, Result<(), Abandoned>),
}

impl Session<'_> {
    /// Starts the next step of a user's lane, if it has one.
    pub(super) fn start(&mut self, key: &UserKey) {
        let context = &self.partition.context;
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let closed = context.breakers.holds(&key.tenant);
        let held = lane.held();
        match lane.start(closed) {
            None => {}
            Some(Step::Park(park)) => self.park(key.clone(), park),
            Some(Step::Read { after }) => self.read(key.clone(), after),
            Some(Step::Echo(event)) => {
                let settling = delivery::settle_echo(Arc::clone(context), event, held);
                self.work.push(Box::pin(settling.map(|(key, ended)| Done::Delivery(key, ended))));
            }
            Some(Step::Deliver(next)) => {
                let running = delivery::run(Arc::clone(context), next, held, self.stop.clone());
                self.work.push(Box::pin(running.map(|(key, ended)| Done::Delivery(key, ended))));
            }
        }
    }

    /// All that is stored of a user is settled: it was parked late, by a worker that had lost its lease.
    pub(super) fn unpark(&mut self, key: UserKey, held: Held) {
        let context = Arc::clone(&self.partition.context);
        self.work.push(Box::pin(async move {
            Done::Items(Vec::new(), context.ledger.unpark(&context.name, &key, held.settled_version()).await)
        }));
    }

    fn read(&mut self, key: UserKey, after: i64) {
        let context = Arc::clone(&self.partition.context);
        self.work.push(Box::pin(async move {
            let states = context.ledger.parked_states(&context.name, &key, after, READ_STATES_MAX).await;
            Done::Reading(key, states)
        }));
    }

    pub(super) fn park(&mut self, key: UserKey, park: Park) {
        let context = Arc::clone(&self.partition.context);
        let Park { schedule, cause, states, writes, superseded } = park;
        let parking = Parking {
            target: Arc::clone(&context.name),
            key: key.clone(),
            schedule,
            cause,
            states,
            writes,
            superseded,
            under: context.lease_of(&key),
        };
        self.work.push(Box::pin(async move {
            let due_in = match parking.schedule.next_attempt {
                // Due when the target opens, not now.
                NextAttempt::In(pause) if !pause.is_zero() => Some(pause),
                _ => None,
            };
            let parked = context.ledger.park(parking).await;
            if let Some(pause) = due_in {
                context.feeder.expect_due(pause);
            }
            Done::Parking(key, parked)
        }));
    }

    /// Writes what became of items of jobs that needed no delivery of their own; then `tags` are settled.
    pub(super) fn settle_items(&self, tags: Vec<Tag>, items: Vec<(JobPart, ItemOutcome)>) {
        let context = Arc::clone(&self.partition.context);
        self.work.push(Box::pin(async move { Done::Items(tags, context.ledger.settle_items(&items).await) }));
    }

    /// A message nobody can read is kept for people, whole, and does not stop the partition.
    pub(super) fn bury_unreadable(&self, tag: Tag, unreadable: Unreadable) {
        let Unreadable { error, body } = unreadable;
        let context = Arc::clone(&self.partition.context);
        let queue = context.names.queue(self.partition.number);
        tracing::error!(queue, error = %error, "unreadable message moved to the dead-letter queue");
        let headers = vec![
            ("postbound-target", context.name.to_string()),
            ("postbound-reason", "unreadable".to_owned()),
            ("postbound-class", "unreadable".to_owned()),
            ("postbound-detail", error.to_string()),
        ];
        let stop = self.stop.clone();
        self.work.push(Box::pin(async move {
            let letter = context.dead_letters.publish(&context.names, headers, body);
            let buried = tokio::select! {
                published = letter => published.map_err(|_| Abandoned),
                () = stop.cancelled() => Err(Abandoned),
            };
            Done::Buried(tag, buried)
        }));
    }
}
