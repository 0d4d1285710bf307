use crate::{
    context::TargetContext,
    delivery::{self, Abandoned, Ended},
    feeder::Fed,
    lane::{Arrival, Entered, Lane, Park, Source, Step, Tag},
    ledger::LedgerGone,
    retry::reconnect_pauses,
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use postbound_broker::{BrokerError, Link, Message, PartitionConsumer};
use postbound_event::{DecodeError, Event, JobPart, UserKey, decode_batch};
use postbound_store::{Held, ItemOutcome, NextAttempt, ParkedState, ParkedUser, Parking};
use postbound_telemetry::Component;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// A message held longer than this is handed back by closing the channel: RabbitMQ's own limit is 30 minutes, and
/// then it closes the channel in its way.
const HELD_MAX: Duration = Duration::from_secs(10 * 60);
/// Messages whose ledger entries are read together.
const INTAKE_MESSAGES: usize = 64;

/// Messages of jobs taken ahead: enough to keep their lanes busy, and little to hold when live ones come.
const BACKFILL_PREFETCH: u16 = 4;
/// Parked users brought in by the feeder who may have a lane at a time.
const FED_LANES_MAX: usize = 256;
/// A message that was handed out so often is handled event by event: with it, something takes workers down.
const REDELIVERIES_MAX: u64 = 3;

/// KiB a message not yet seen is taken to have: the relay's largest, and room for one bigger event.
const MESSAGE_KIB: u32 = 512;

/// The target's connection: None while there is none.
pub(crate) type LinkWatch = watch::Receiver<Option<Arc<Link>>>;

/// Works on one partition of one target while the worker owns it.
pub(crate) struct Partition {
    pub(crate) context: Arc<TargetContext>,
    pub(crate) number: u16,
    /// P.
    pub(crate) partitions: u16,
    pub(crate) links: LinkWatch,
    pub(crate) prefetch: u16,
    pub(crate) component: Component,
    /// Finish what is under way, start nothing more.
    pub(crate) drain: CancellationToken,
}

/// Why a partition's session ended without being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Ledger(#[from] LedgerGone),
    #[error("a delivery was abandoned")]
    Abandoned,
    #[error("a message was held for {} minutes", HELD_MAX.as_secs() / 60)]
    HeldTooLong,
}

impl Partition {
    /// Runs until drained.
    pub(crate) async fn run(mut self) {
        let mut pauses = reconnect_pauses();
        let drain = self.drain.clone();
        loop {
            let ended = tokio::select! {
                link = next_link(&mut self.links) => self.session(&link).await,
                () = drain.cancelled() => break,
            };
            match ended {
                Ok(()) => break,
                // What a drain gives up is the next owner's.
                Err(Interrupted::Abandoned) if drain.is_cancelled() => break,
                Err(why) => {
                    let queue = self.context.names.queue(self.number);
                    tracing::warn!(queue, error = %why, "partition interrupted; starting over");
                    self.component.not_ready(format!("{queue}: {why}"));
                }
            }
            tokio::select! {
                () = drain.cancelled() => break,
                () = tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(5))) => {}
            }
        }
        self.component.remove();
    }

    async fn session(&self, link: &Link) -> Result<(), Interrupted> {
        tokio::select! {
            waited = self.wait_for_previous_owner(link) => waited?,
            () = self.drain.cancelled() => return Ok(()),
        }
        let names = &self.context.names;
        let live = PartitionConsumer::start(link, &names.queue(self.number), self.prefetch).await?;
        let backfill =
            PartitionConsumer::start(link, &names.backfill_queue(self.number), BACKFILL_PREFETCH).await?;
        self.component.ready();
        let mut session = Session {
            partition: self,
            consumers: Consumers { live, backfill },
            fed: self.context.feeder.register(self.number, self.partitions),
            stop: self.drain.child_token(),
            lanes: HashMap::new(),
            held: HashMap::new(),
            intake: None,
            work: FuturesUnordered::new(),
            busy: false,
        };
        let ended = session.run().await;
        // Requests under way are awaited, their outcomes written: dropped, they would be in doubt.
        session.stop.cancel();
        session.finish().await;
        self.component.idle();
        session.consumers.close().await;
        ended
    }

    /// The last owner's consumers may still hold messages older than those the queues would give us.
    async fn wait_for_previous_owner(&self, link: &Link) -> Result<(), Interrupted> {
        for queue in [self.context.names.queue(self.number), self.context.names.backfill_queue(self.number)] {
            let mut pauses = reconnect_pauses();
            loop {
                let state = link.queue_state(&queue).await?;
                if !state.exists {
                    return Err(BrokerError::Missing { what: format!("queue {queue}") }.into());
                }
                if state.consumers == 0 {
                    break;
                }
                self.component.standby(format!("waiting for the last consumer of {queue} to go"));
                let pause = pauses.next().unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1));
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }
}

/// A message that is not acknowledged yet.
struct HeldMessage {
    unsettled: usize,
    since: Instant,
    _kibibytes: OwnedSemaphorePermit,
}

/// The two queues of a partition, under one lease. Live messages go first.
struct Consumers {
    live: PartitionConsumer,
    backfill: PartitionConsumer,
}

impl Consumers {
    /// The next message; one of a job only if there is room for it, as waiting for that would keep live ones waiting.
    async fn next(&mut self, backfills: bool) -> Result<(Source, Message), BrokerError> {
        tokio::select! {
            biased;
            message = self.live.next() => Ok((Source::Live, message?)),
            message = self.backfill.next(), if backfills => Ok((Source::Backfill, message?)),
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

/// Messages whose users' ledger entries are being read, or parked users.
struct Intake {
    messages: Vec<Taken>,
    fed: Vec<Fed>,
    held: HashMap<UserKey, Held>,
    parked: HashMap<UserKey, ParkedUser>,
}

struct Taken {
    message: Unheld,
    kibibytes: OwnedSemaphorePermit,
}

/// A message that was read, and has no room yet.
struct Unheld {
    tag: Tag,
    delivered_before: u64,
    events: Result<Vec<Event>, Unreadable>,
}

struct Unreadable {
    error: DecodeError,
    body: Vec<u8>,
}

struct Session<'a> {
    partition: &'a Partition,
    consumers: Consumers,
    fed: mpsc::Receiver<Fed>,
    stop: CancellationToken,
    lanes: HashMap<UserKey, Lane>,
    held: HashMap<Tag, HeldMessage>,
    intake: Option<BoxFuture<'static, Result<Intake, LedgerGone>>>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    busy: bool,
}

/// Something a lane had done.
enum Done {
    Delivery(UserKey, Result<Ended, Abandoned>),
    Parking(UserKey, Result<Vec<ParkedState>, LedgerGone>),
    /// Items of jobs that needed no delivery; their messages are settled.
    Items(Vec<Tag>, Result<(), LedgerGone>),
    /// A message nobody can read is in the dead-letter queue.
    Buried(Tag, Result<(), Abandoned>),
}

impl Session<'_> {
    async fn run(&mut self) -> Result<(), Interrupted> {
        let mut held_check = tokio::time::interval(Duration::from_secs(5));
        loop {
            self.say_busy();
            let takes = self.intake.is_none();
            let backfills = self.partition.context.has_room_for_backfill();
            let feeds = takes && self.lanes.len() < FED_LANES_MAX + self.held.len() * 100;
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                Some(done) = self.work.next() => self.done(done).await?,
                intake = pending_or(&mut self.intake) => { self.intake = None; self.enter(intake?).await?; }
                message = self.consumers.next(backfills), if takes => { let (source, message) = message?; self.take(source, message)?; }
                Some(fed) = self.fed.recv(), if feeds => self.take_fed(fed),
                _ = held_check.tick() => {
                    let now = Instant::now();
                    if self.held.values().any(|message| now > message.since + HELD_MAX) {
                        return Err(Interrupted::HeldTooLong);
                    }
                }
            }
        }
    }

    /// While something is under way, progress is expected.
    fn say_busy(&mut self) {
        let busy = !self.held.is_empty() || !self.work.is_empty() || self.intake.is_some();
        if busy == self.busy {
            return;
        }
        self.busy = busy;
        let component = &self.partition.component;
        if busy { component.busy() } else { component.idle() }
    }

    /// Takes a message and those that have arrived behind it, and begins to read what the ledger says of their users.
    fn take(&mut self, source: Source, first: Message) -> Result<(), Interrupted> {
        let budget = self.budget(source);
        let mut more = Vec::new();
        // Room is taken before a message is, and nothing more is taken while there is none for the first: waiting with
        // room in hand could block all partitions.
        let first_kibibytes = self.kibibytes(&first, source);
        let first_room = Arc::clone(&budget).try_acquire_many_owned(first_kibibytes).ok();
        while first_room.is_some()
            && source == Source::Live
            && more.len() < INTAKE_MESSAGES
            && let Ok(room) = Arc::clone(&budget).try_acquire_many_owned(MESSAGE_KIB)
            && let Some(next) = self.consumers.live.next().now_or_never()
        {
            more.push((next?, room));
        }
        let first = Unheld::read(source, first);
        let mut messages = Vec::with_capacity(more.len() + 1);
        for (message, mut room) in more {
            let kibibytes = self.kibibytes(&message, source) as usize;
            let kibibytes = room.split(kibibytes).unwrap_or(room);
            messages.push(Taken { message: Unheld::read(source, message), kibibytes });
        }
        // Users with a lane are known: a lane stays while an intake is under way.
        let events = std::iter::once(&first).chain(messages.iter().map(|taken| &taken.message));
        let events = events.filter_map(|message| message.events.as_ref().ok()).flatten();
        let users: HashSet<&UserKey> =
            events.map(|event| &event.key).filter(|key| !self.lanes.contains_key(*key)).collect();
        let users: Vec<UserKey> = users.into_iter().cloned().collect();
        let context = Arc::clone(&self.partition.context);
        self.intake = Some(Box::pin(async move {
            let kibibytes = match first_room {
                Some(room) => room,
                None => budget.acquire_many_owned(first_kibibytes).await.map_err(|_| LedgerGone)?,
            };
            messages.insert(0, Taken { message: first, kibibytes });
            let (held, parked) = look_up(&context, users).await?;
            Ok(Intake { messages, fed: Vec::new(), held, parked })
        }));
        Ok(())
    }

    /// Takes users who are due, and begins to read what the ledger says of them.
    fn take_fed(&mut self, first: Fed) {
        let mut fed = vec![first];
        while fed.len() < FED_LANES_MAX
            && let Ok(next) = self.fed.try_recv()
        {
            fed.push(next);
        }
        let users: HashSet<&UserKey> =
            fed.iter().map(Fed::key).filter(|key| !self.lanes.contains_key(*key)).collect();
        let users: Vec<UserKey> = users.into_iter().cloned().collect();
        let context = Arc::clone(&self.partition.context);
        self.intake = Some(Box::pin(async move {
            let (held, parked) = look_up(&context, users).await?;
            Ok(Intake { messages: Vec::new(), fed, held, parked })
        }));
    }

    /// Live messages and those of jobs have room of their own.
    fn budget(&self, source: Source) -> Arc<Semaphore> {
        let context = &self.partition.context;
        Arc::clone(match source {
            Source::Live => &context.kibibytes,
            Source::Backfill => &context.backfill_kibibytes,
        })
    }

    /// What a message takes of the target's bytes; one bigger than all of them takes all.
    fn kibibytes(&self, message: &Message, source: Source) -> u32 {
        let all = self.partition.context.kibibytes_max(source == Source::Backfill);
        u32::try_from(message.body.len().div_ceil(1024).clamp(1, all)).unwrap_or(u32::MAX)
    }

    /// Puts events into their lanes and starts those that are idle.
    async fn enter(&mut self, intake: Intake) -> Result<(), Interrupted> {
        let Intake { messages, fed, held, mut parked } = intake;
        let since = Instant::now();
        let mut users = Vec::new();
        for taken in messages {
            self.enter_message(taken, since, &held, &mut parked, &mut users).await?;
        }
        for fed in fed {
            users.push(fed.key().clone());
            self.enter_fed(fed, &held, &mut parked);
        }
        for key in users {
            self.start(&key);
        }
        self.lanes.retain(|_, lane| !lane.is_idle());
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
                self.held.insert(tag, HeldMessage { unsettled: 1, since, _kibibytes: kibibytes });
                self.bury_unreadable(tag, unreadable);
                return Ok(());
            }
        };
        let context = Arc::clone(&self.partition.context);
        let plan = &context.plan;
        // One more than there are events: the message's own, settled when all have entered.
        self.held.insert(tag, HeldMessage { unsettled: events.len() + 1, since, _kibibytes: kibibytes });
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
            match (lane.enter(Arrival { event, tag: Some(tag), maybe_sent, from_target }), job) {
                (Entered::Waits, _) => users.push(key),
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
                    // Taking wrote down that an attempt may be under way; what was known before it counts.
                    let user = ParkedUser { schedule: user.schedule, ..read };
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

    fn park(&mut self, key: UserKey, park: Park) {
        let context = Arc::clone(&self.partition.context);
        let Park { schedule, states, rewrites, superseded } = park;
        let parking = Parking {
            target: Arc::clone(&context.name),
            key: key.clone(),
            schedule,
            states,
            rewrites,
            superseded,
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
                Ended::Settled(held, outcome) => {
                    let mut items = Vec::new();
                    let tags = self.released(&key, |lane| {
                        let (tags, late_items) = lane.settled(held, outcome);
                        items = late_items;
                        tags
                    });
                    settle_items(&self.partition.context, &items).await?;
                    tags
                }
                Ended::Parks(next, schedule) => {
                    let Some(lane) = self.lanes.get_mut(&key) else { return Ok(()) };
                    let park = lane.park_failed(*next, schedule);
                    self.park(key, park);
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
        if self.intake.is_none() && self.lanes.get(key).is_some_and(Lane::is_idle) {
            self.lanes.remove(key);
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
    async fn finish(&mut self) {
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

impl Unheld {
    fn read(source: Source, message: Message) -> Self {
        let events = decode_batch(&message.body);
        Self {
            tag: Tag { source, number: message.tag },
            delivered_before: message.delivered_before,
            events: events.map_err(|error| Unreadable { error, body: message.body }),
        }
    }
}

async fn settle_items(context: &TargetContext, items: &[(JobPart, ItemOutcome)]) -> Result<(), LedgerGone> {
    if items.is_empty() { Ok(()) } else { context.ledger.settle_items(items).await }
}

/// What the ledger says of users, and what is parked of those who are.
async fn look_up(
    context: &TargetContext,
    users: Vec<UserKey>,
) -> Result<(HashMap<UserKey, Held>, HashMap<UserKey, ParkedUser>), LedgerGone> {
    if users.is_empty() {
        return Ok(Default::default());
    }
    let held = context.ledger.held(&context.name, users.clone()).await?;
    let held: HashMap<UserKey, Held> = users.into_iter().zip(held).collect();
    let parked: Vec<UserKey> =
        held.iter().filter(|(_, held)| held.parked).map(|(key, _)| key.clone()).collect();
    let parked = match parked.is_empty() {
        true => Vec::new(),
        false => context.ledger.parked(&context.name, &parked).await?,
    };
    Ok((held, parked.into_iter().map(|user| (user.key.clone(), user)).collect()))
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

/// The connection, as soon as there is one.
async fn next_link(links: &mut LinkWatch) -> Arc<Link> {
    loop {
        let link = links.borrow_and_update().clone();
        if let Some(link) = link.filter(|link| link.is_up()) {
            return link;
        }
        if links.changed().await.is_err() {
            // The worker ends.
            return std::future::pending().await;
        }
    }
}

async fn pending_or<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
