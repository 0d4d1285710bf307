use super::{
    Interrupted, Partition,
    intake::{Intake, Taken, Unheld, Unreadable, Waiting},
};
use crate::{
    context::TargetContext,
    delivery::{self, Abandoned, Ended},
    feeder::Fed,
    lane::{Arrival, Entered, Lane, Park, Read, Source, Step, Tag},
    ledger::LedgerGone,
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use postbound_broker::{BrokerError, Message, PartitionConsumer};
use postbound_event::{JobPart, UserKey};
use postbound_store::{Held, ItemOutcome, NextAttempt, ParkedSchedule, ParkedState, ParkedUser, Parking};
use std::{collections::HashMap, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// A message held longer than this is handed back by closing the channel: RabbitMQ's own limit is 30 minutes, and
/// then it closes the channel in its way.
pub(super) const HELD_MAX: Duration = Duration::from_secs(10 * 60);
/// Parked users brought in by the feeder who may have a lane at a time.
pub(super) const FED_LANES_MAX: usize = 256;
/// States of a parked user read at once, where every event is delivered.
const READ_STATES_MAX: u16 = 16;
/// A message that was handed out so often is handled event by event: with it, something takes workers down.
const REDELIVERIES_MAX: u64 = 3;

/// A message that is not acknowledged yet.
struct HeldMessage {
    unsettled: usize,
    since: Instant,
    /// When the oldest of its changes was written, if it is no job's.
    oldest: Option<OffsetDateTime>,
    _kibibytes: OwnedSemaphorePermit,
}

/// The two queues of a partition, under one lease. Live messages go first.
pub(super) struct Consumers {
    pub(super) live: PartitionConsumer,
    backfill: PartitionConsumer,
}

impl Consumers {
    /// The next message of the queues that are asked for, of one at least.
    async fn next(&mut self, live: bool, backfill: bool) -> Result<(Source, Message), BrokerError> {
        tokio::select! {
            biased;
            message = self.live.next(), if live => Ok((Source::Live, message?)),
            message = self.backfill.next(), if backfill => Ok((Source::Backfill, message?)),
        }
    }

    async fn ack(&self, tag: Tag) -> Result<(), BrokerError> {
        match tag.source {
            Source::Live => self.live.ack(tag.number).await,
            Source::Backfill => self.backfill.ack(tag.number).await,
        }
    }

    async fn close(self) {
        tokio::join!(self.live.close(), self.backfill.close());
    }
}

/// One connection's worth of a partition: from its consumers' start to the first error, or to the end.
pub(super) struct Session<'a> {
    pub(super) partition: &'a Partition,
    pub(super) consumers: Consumers,
    pub(super) fed: mpsc::Receiver<Fed>,
    pub(super) stop: CancellationToken,
    pub(super) lanes: HashMap<UserKey, Lane>,
    /// Users whose lane fell idle while an intake was under way, which may bring them something.
    fell_idle: Vec<UserKey>,
    held: HashMap<Tag, HeldMessage>,
    pub(super) intake: Option<BoxFuture<'static, Result<Intake, LedgerGone>>>,
    pub(super) waiting: Waiting,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    busy: bool,
}

/// Something a lane had done.
enum Done {
    Delivery(UserKey, Result<Ended, Abandoned>),
    Parking(UserKey, Result<Vec<ParkedState>, LedgerGone>),
    /// The next states of a parked user.
    Reading(UserKey, Result<Vec<ParkedState>, LedgerGone>),
    /// Items of jobs that needed no delivery; their messages are settled.
    Items(Vec<Tag>, Result<(), LedgerGone>),
    /// A message nobody can read is in the dead-letter queue.
    Buried(Tag, Result<(), Abandoned>),
}

impl<'a> Session<'a> {
    pub(super) fn new(
        partition: &'a Partition,
        live: PartitionConsumer,
        backfill: PartitionConsumer,
    ) -> Self {
        Self {
            partition,
            consumers: Consumers { live, backfill },
            fed: partition.context.feeder.register(partition.number, partition.partitions),
            stop: partition.drain.child_token(),
            lanes: HashMap::new(),
            fell_idle: Vec::new(),
            held: HashMap::new(),
            intake: None,
            waiting: Waiting::default(),
            work: FuturesUnordered::new(),
            busy: false,
        }
    }

    /// Closes the channels: what is not acknowledged goes back to its queue, in order.
    pub(super) async fn close(self) {
        self.partition.context.backlog.report(self.partition.number, None);
        self.consumers.close().await;
    }

    pub(super) async fn run(&mut self) -> Result<(), Interrupted> {
        let mut held_check = tokio::time::interval(Duration::from_secs(5));
        loop {
            self.say_busy();
            let takes = self.intake.is_none();
            let live = takes && self.waiting.live.is_none();
            // Most messages of jobs stay with RabbitMQ while there is no room for them; a few are received for the same room.
            let backfill =
                takes && self.waiting.backfill.is_none() && self.partition.context.has_room_for_backfill();
            let feeds = takes && self.lanes.len() < FED_LANES_MAX + self.held.len() * 100;
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                Some(done) = self.work.next() => self.done(done).await?,
                intake = pending_or(&mut self.intake) => { self.intake = None; self.enter(intake?).await?; }
                taken = self.waiting.next(), if takes => self.begin_intake(vec![taken?]),
                message = self.consumers.next(live, backfill), if live || backfill => {
                    let (source, message) = message?;
                    self.take(source, message)?;
                }
                Some(fed) = self.fed.recv(), if feeds => self.take_fed(fed),
                _ = held_check.tick() => {
                    self.report_backlog();
                    let now = Instant::now();
                    if self.held.values().any(|message| now > message.since + HELD_MAX) {
                        return Err(Interrupted::HeldTooLong);
                    }
                }
            }
        }
    }

    fn report_backlog(&self) {
        let oldest = self.held.values().filter_map(|message| message.oldest).min();
        self.partition.context.backlog.report(self.partition.number, oldest);
    }

    /// While something is under way, progress is expected.
    fn say_busy(&mut self) {
        let waits = self.intake.is_some() || !self.waiting.is_empty();
        let busy = !self.held.is_empty() || !self.work.is_empty() || waits;
        if busy == self.busy {
            return;
        }
        self.busy = busy;
        let component = &self.partition.component;
        if busy { component.busy() } else { component.idle() }
    }

    /// Puts events into their lanes and starts those that are idle.
    async fn enter(&mut self, intake: Intake) -> Result<(), Interrupted> {
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
            let tags = vec![tag; settled_items.len()];
            self.work.push(Box::pin(async move {
                Done::Items(tags, context.ledger.settle_items(&settled_items).await)
            }));
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

    fn start(&mut self, key: &UserKey) {
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
    fn unpark(&mut self, key: UserKey, held: Held) {
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

    fn park(&mut self, key: UserKey, park: Park) {
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

    async fn done(&mut self, done: Done) -> Result<(), Interrupted> {
        let tags = match done {
            Done::Items(tags, settled) => {
                settled?;
                return self.acknowledge(tags).await;
            }
            Done::Buried(tag, buried) => {
                buried.map_err(|_| Interrupted::Abandoned)?;
                return self.acknowledge(vec![tag]).await;
            }
            Done::Reading(key, states) => {
                let states = states?;
                let all = states.len() < usize::from(READ_STATES_MAX);
                let Some(lane) = self.lanes.get_mut(&key) else { return Ok(()) };
                let held = lane.held();
                if lane.read(states, all) == Read::NothingLeft {
                    self.unpark(key.clone(), held);
                }
                self.released(&key, |_| Vec::new())
            }
            Done::Parking(key, states) => {
                let states = states?;
                let mut items = Vec::new();
                let tags = self.released(&key, |lane| {
                    let (tags, late_items) = lane.parked_now(states);
                    items = late_items;
                    tags
                });
                settle_items(&self.partition.context, &items).await?;
                tags
            }
            Done::Delivery(key, ended) => match ended.map_err(|_| Interrupted::Abandoned)? {
                Ended::Settled(event, held, outcome) => {
                    let mut items = Vec::new();
                    let tags = self.released(&key, |lane| {
                        let (tags, late_items) = lane.settled(*event, held, outcome);
                        items = late_items;
                        tags
                    });
                    settle_items(&self.partition.context, &items).await?;
                    tags
                }
                Ended::Parks(next, schedule, cause) => {
                    let Some(lane) = self.lanes.get_mut(&key) else { return Ok(()) };
                    match lane.park_failed(*next, schedule, cause) {
                        Some(park) => self.park(key, park),
                        // What waits comes again with its messages.
                        None if self.stop.is_cancelled() => {}
                        None => self.start(&key),
                    }
                    Vec::new()
                }
            },
        };
        self.partition.component.progress();
        self.acknowledge(tags).await
    }

    /// Takes what a lane settled, and starts what comes next in it.
    fn released(&mut self, key: &UserKey, settle: impl FnOnce(&mut Lane) -> Vec<Tag>) -> Vec<Tag> {
        let Some(lane) = self.lanes.get_mut(key) else { return Vec::new() };
        let tags = settle(lane);
        if !self.stop.is_cancelled() {
            self.start(key);
        }
        if self.lanes.get(key).is_some_and(Lane::is_idle) {
            if self.intake.is_some() {
                self.fell_idle.push(key.clone());
            } else {
                self.lanes.remove(key);
            }
        }
        tags
    }

    /// Counts settled events; a message all of whose events are settled is acknowledged.
    async fn acknowledge(&mut self, tags: Vec<Tag>) -> Result<(), Interrupted> {
        for tag in tags {
            let Some(message) = self.held.get_mut(&tag) else { continue };
            message.unsettled -= 1;
            if message.unsettled == 0 {
                self.held.remove(&tag);
                self.consumers.ack(tag).await?;
            }
        }
        Ok(())
    }

    /// Lets requests under way come back, writes and acknowledges what they came to; starts nothing but the parking of
    /// those that failed.
    pub(super) async fn finish(&mut self) {
        while let Some(done) = self.work.next().await {
            // Abandoned, or the channel is gone: its messages come again, and the ledger knows them.
            let _ = self.done(done).await;
        }
    }

    /// A message nobody can read is kept for people, whole, and does not stop the partition.
    fn bury_unreadable(&self, tag: Tag, unreadable: Unreadable) {
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

async fn settle_items(context: &TargetContext, items: &[(JobPart, ItemOutcome)]) -> Result<(), LedgerGone> {
    if items.is_empty() { Ok(()) } else { context.ledger.settle_items(items).await }
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

pub(super) async fn pending_or<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
