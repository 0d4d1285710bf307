use crate::{
    context::TargetContext,
    delivery::{self, Settled},
    lane::{Entered, Lane, Tag},
    ledger::LedgerGone,
    retry::reconnect_pauses,
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use postbound_broker::{BrokerError, Link, Message, PartitionConsumer};
use postbound_event::{DecodeError, Event, UserKey, decode_batch};
use postbound_store::Held;
use postbound_telemetry::Component;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// A message held longer than this is handed back by closing the channel: RabbitMQ's own limit is 30 minutes, and
/// then it closes the channel in its way.
const HELD_MAX: Duration = Duration::from_secs(10 * 60);
/// Messages whose ledger entries are read together.
const INTAKE_MESSAGES: usize = 64;

/// KiB a message not yet seen is taken to have: the relay's largest, and room for one bigger event.
const MESSAGE_KIB: u32 = 512;

/// The target's connection: None while there is none.
pub(crate) type LinkWatch = watch::Receiver<Option<Arc<Link>>>;

/// Works on one partition of one target while the worker owns it.
pub(crate) struct Partition {
    pub(crate) context: Arc<TargetContext>,
    pub(crate) number: u16,
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
        let queue = self.context.names.queue(self.number);
        let consumer = PartitionConsumer::start(link, &queue, self.prefetch).await?;
        self.component.ready();
        let mut session = Session {
            partition: self,
            consumer,
            stop: self.drain.child_token(),
            lanes: HashMap::new(),
            held: HashMap::new(),
            intake: None,
            deliveries: FuturesUnordered::new(),
        };
        let ended = session.run().await;
        // Requests under way are awaited, their outcomes written: dropped, they would be in doubt.
        session.stop.cancel();
        session.finish().await;
        session.consumer.close().await;
        ended
    }

    /// The last owner's consumer may still hold messages older than those the queue would give us.
    async fn wait_for_previous_owner(&self, link: &Link) -> Result<(), Interrupted> {
        let queue = self.context.names.queue(self.number);
        let mut pauses = reconnect_pauses();
        loop {
            let state = link.queue_state(&queue).await?;
            if !state.exists {
                return Err(BrokerError::Missing { what: format!("queue {queue}") }.into());
            }
            if state.consumers == 0 {
                return Ok(());
            }
            self.component.standby(format!("waiting for the last consumer of {queue} to go"));
            tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1)))
                .await;
        }
    }
}

/// A message that is not acknowledged yet.
struct HeldMessage {
    unsettled: usize,
    since: Instant,
    _kibibytes: OwnedSemaphorePermit,
}

/// Messages whose users' ledger entries are being read.
struct Intake {
    messages: Vec<Taken>,
    held: HashMap<UserKey, Held>,
}

struct Taken {
    tag: Tag,
    events: Result<Vec<Event>, Unreadable>,
    kibibytes: OwnedSemaphorePermit,
}

struct Unreadable {
    error: DecodeError,
    body: Vec<u8>,
}

struct Session<'a> {
    partition: &'a Partition,
    consumer: PartitionConsumer,
    stop: CancellationToken,
    lanes: HashMap<UserKey, Lane>,
    held: HashMap<Tag, HeldMessage>,
    intake: Option<BoxFuture<'static, Result<Intake, LedgerGone>>>,
    deliveries: FuturesUnordered<BoxFuture<'static, Settled>>,
}

impl Session<'_> {
    async fn run(&mut self) -> Result<(), Interrupted> {
        let mut held_check = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                Some(settled) = self.deliveries.next() => self.settled(settled).await?,
                intake = pending_or(&mut self.intake) => { self.intake = None; self.enter(intake?).await?; }
                message = self.consumer.next(), if self.intake.is_none() => self.take(message?).await?,
                _ = held_check.tick() => {
                    let now = Instant::now();
                    if self.held.values().any(|message| now > message.since + HELD_MAX) {
                        return Err(Interrupted::HeldTooLong);
                    }
                }
            }
        }
    }

    /// Takes a message and those that have arrived behind it, and begins to read what the ledger says of their users.
    async fn take(&mut self, first: Message) -> Result<(), Interrupted> {
        let budget = Arc::clone(&self.partition.context.kibibytes);
        let mut more = Vec::new();
        // Room is taken before a message is, and nothing more is taken while there is none for the first: waiting with
        // room in hand could block all partitions.
        let first_kibibytes = self.kibibytes(&first);
        let first_room = Arc::clone(&budget).try_acquire_many_owned(first_kibibytes).ok();
        while first_room.is_some()
            && more.len() < INTAKE_MESSAGES
            && let Ok(room) = Arc::clone(&budget).try_acquire_many_owned(MESSAGE_KIB)
            && let Some(next) = self.consumer.next().now_or_never()
        {
            more.push((next?, room));
        }
        let read = |message: Message| {
            let events = decode_batch(&message.body);
            (message.tag, events.map_err(|error| Unreadable { error, body: message.body }))
        };
        let (first_tag, first_events) = read(first);
        let mut messages = Vec::with_capacity(more.len());
        for (message, mut room) in more {
            let kibibytes = self.kibibytes(&message) as usize;
            let kibibytes = room.split(kibibytes).unwrap_or(room);
            let (tag, events) = read(message);
            messages.push(Taken { tag, events, kibibytes });
        }
        // Users with a lane are known: a lane stays while an intake is under way.
        let users: HashSet<&UserKey> = std::iter::once(&first_events)
            .chain(messages.iter().map(|taken| &taken.events))
            .flatten()
            .flatten()
            .map(|event| &event.key)
            .filter(|key| !self.lanes.contains_key(*key))
            .collect();
        let users: Vec<UserKey> = users.into_iter().cloned().collect();
        let context = Arc::clone(&self.partition.context);
        self.intake = Some(Box::pin(async move {
            let kibibytes = match first_room {
                Some(room) => room,
                None => budget.acquire_many_owned(first_kibibytes).await.map_err(|_| LedgerGone)?,
            };
            messages.insert(0, Taken { tag: first_tag, events: first_events, kibibytes });
            let held = match users.is_empty() {
                true => Vec::new(),
                false => context.ledger.held(&context.name, users.clone()).await?,
            };
            Ok(Intake { messages, held: users.into_iter().zip(held).collect() })
        }));
        Ok(())
    }

    /// What a message takes of the target's bytes; one bigger than all of them takes all.
    fn kibibytes(&self, message: &Message) -> u32 {
        let all = self.partition.context.plan.in_flight_bytes_max.div_ceil(1024).max(1);
        u32::try_from(message.body.len().div_ceil(1024).clamp(1, all)).unwrap_or(u32::MAX)
    }

    /// Puts events into their lanes and starts those that are idle.
    async fn enter(&mut self, intake: Intake) -> Result<(), Interrupted> {
        let Intake { messages, held } = intake;
        let since = Instant::now();
        for Taken { tag, events, kibibytes } in messages {
            let events = match events {
                Ok(events) => events,
                Err(unreadable) => {
                    self.bury_unreadable(tag, unreadable).await?;
                    continue;
                }
            };
            // One more than there are events: the message's own, settled when all have entered.
            self.held.insert(tag, HeldMessage { unsettled: events.len() + 1, since, _kibibytes: kibibytes });
            let mut settled = vec![tag];
            let mut users = Vec::with_capacity(events.len());
            for event in events {
                let key = event.key.clone();
                let ledger_entry = || Lane::new(held.get(&key).copied().unwrap_or_default());
                let lane = self.lanes.entry(key.clone()).or_insert_with(ledger_entry);
                match lane.enter(event, tag) {
                    Entered::Settled => settled.push(tag),
                    Entered::Waits => users.push(key),
                }
            }
            self.partition.context.counters.superseded.increment(settled.len() as u64 - 1);
            self.acknowledge(settled).await?;
            for key in users {
                self.start(&key);
            }
        }
        self.lanes.retain(|_, lane| !lane.is_idle());
        Ok(())
    }

    fn start(&mut self, key: &UserKey) {
        let context = &self.partition.context;
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let held = lane.held();
        if let Some(next) = lane.start(context.plan.registration.fold) {
            let running = delivery::run(Arc::clone(context), next, held, self.stop.clone());
            self.deliveries.push(Box::pin(running));
        }
    }

    async fn settled(&mut self, settled: Settled) -> Result<(), Interrupted> {
        let Settled { key, outcome } = settled;
        let held = outcome.map_err(|_| Interrupted::Abandoned)?;
        let Some(lane) = self.lanes.get_mut(&key) else { return Ok(()) };
        let tags = lane.settled(held);
        if !lane.is_idle() {
            self.start(&key);
        } else if self.intake.is_none() {
            self.lanes.remove(&key);
        }
        self.partition.component.progress();
        self.acknowledge(tags).await
    }

    /// Counts settled events; a message all of whose events are settled is acknowledged.
    async fn acknowledge(&mut self, tags: Vec<Tag>) -> Result<(), Interrupted> {
        for tag in tags {
            let Some(message) = self.held.get_mut(&tag) else { continue };
            message.unsettled -= 1;
            if message.unsettled == 0 {
                self.held.remove(&tag);
                self.consumer.ack(tag).await?;
            }
        }
        Ok(())
    }

    /// Lets requests under way come back, writes and acknowledges what they came to; starts nothing.
    async fn finish(&mut self) {
        while let Some(Settled { key, outcome }) = self.deliveries.next().await {
            let (Ok(held), Some(lane)) = (outcome, self.lanes.get_mut(&key)) else { continue };
            let tags = lane.settled(held);
            if self.acknowledge(tags).await.is_err() {
                // The channel is gone: its messages come again, and the ledger knows them.
                continue;
            }
        }
    }

    /// A message nobody can read is kept for people, whole, and does not stop the partition.
    async fn bury_unreadable(&mut self, tag: Tag, unreadable: Unreadable) -> Result<(), Interrupted> {
        let Unreadable { error, body } = unreadable;
        let context = &self.partition.context;
        let queue = context.names.queue(self.partition.number);
        tracing::error!(queue, error = %error, "unreadable message moved to the dead-letter queue");
        let headers = vec![
            ("postbound-target", context.name.to_string()),
            ("postbound-reason", "unreadable".to_owned()),
            ("postbound-detail", error.to_string()),
        ];
        let letter = context.dead_letters.publish(&context.names, headers, body);
        tokio::select! {
            published = letter => published.map_err(|_| Interrupted::Abandoned)?,
            () = self.stop.cancelled() => return Err(Interrupted::Abandoned),
        }
        self.consumer.ack(tag).await?;
        Ok(())
    }
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
