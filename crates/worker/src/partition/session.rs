use super::{
    Interrupted, Partition,
    consumers::Consumers,
    intake::{Intake, Waiting},
    work::{Done, READ_STATES_MAX},
};
use crate::{
    backlog::PartitionBacklog,
    delivery::Ended,
    feeder::Fed,
    lane::{Lane, Read, Tag},
    ledger::LedgerGone,
    optional::pending_or,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use postbound_event::{JobPart, UserKey};
use postbound_store::ItemOutcome;
use std::{collections::HashMap, time::Duration};
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

/// What a lane settled: messages, one for each event of theirs, and items of jobs that joined it under way.
type Released = (Vec<Tag>, Vec<(JobPart, ItemOutcome)>);

/// A message that is not acknowledged yet.
pub(super) struct HeldMessage {
    pub(super) unsettled: usize,
    pub(super) since: Instant,
    /// When the oldest of its changes was written, if it is no job's.
    pub(super) oldest: Option<OffsetDateTime>,
    pub(super) _kibibytes: OwnedSemaphorePermit,
}

/// One connection's worth of a partition: from its consumers' start to the first error, or to the end.
pub(super) struct Session<'a> {
    pub(super) partition: &'a Partition,
    pub(super) consumers: Consumers,
    pub(super) fed: mpsc::Receiver<Fed>,
    pub(super) stop: CancellationToken,
    pub(super) lanes: HashMap<UserKey, Lane>,
    /// Users whose lane fell idle while an intake was under way, which may bring them something.
    pub(super) fell_idle: Vec<UserKey>,
    pub(super) held: HashMap<Tag, HeldMessage>,
    pub(super) intake: Option<BoxFuture<'static, Result<Intake, LedgerGone>>>,
    pub(super) waiting: Waiting,
    pub(super) work: FuturesUnordered<BoxFuture<'static, Done>>,
    backlog: PartitionBacklog<'a>,
    busy: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(partition: &'a Partition, consumers: Consumers) -> Self {
        Self {
            partition,
            consumers,
            fed: partition.context.feeder.register(partition.number, partition.partitions),
            stop: partition.drain.child_token(),
            lanes: HashMap::new(),
            fell_idle: Vec::new(),
            held: HashMap::new(),
            intake: None,
            waiting: Waiting::default(),
            work: FuturesUnordered::new(),
            backlog: partition.context.backlog.partition(partition.number),
            busy: false,
        }
    }

    /// Closes the channels: what is not acknowledged goes back to its queue, in order.
    pub(super) async fn close(self) {
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
                intake = pending_or(self.intake.as_mut()) => { self.intake = None; self.enter(intake?).await?; }
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
        self.backlog.report(oldest);
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

    async fn done(&mut self, done: Done) -> Result<(), Interrupted> {
        self.partition.component.progress();
        let (tags, late_items) = match done {
            Done::Items(tags, settled) => {
                settled?;
                (tags, Vec::new())
            }
            Done::Buried(tag, buried) => {
                buried.map_err(|_| Interrupted::Abandoned)?;
                (vec![tag], Vec::new())
            }
            Done::Reading(key, states) => {
                let states = states?;
                let all = states.len() < usize::from(READ_STATES_MAX);
                let Some(lane) = self.lanes.get_mut(&key) else { return Ok(()) };
                let held = lane.held();
                if lane.read(states, all) == Read::NothingLeft {
                    self.unpark(key.clone(), held);
                }
                self.released(&key, |_| Released::default())
            }
            Done::Parking(key, states) => {
                let states = states?;
                self.released(&key, |lane| lane.parked_now(states))
            }
            Done::Delivery(key, ended) => match ended.map_err(|_| Interrupted::Abandoned)? {
                Ended::Settled(event, held, outcome) => {
                    self.released(&key, |lane| lane.settled(*event, held, outcome))
                }
                Ended::Parks(next, schedule, cause) => {
                    let Some(lane) = self.lanes.get_mut(&key) else { return Ok(()) };
                    match lane.park_failed(*next, schedule, cause) {
                        Some(park) => self.park(key, park),
                        // What waits comes again with its messages.
                        None if self.stop.is_cancelled() => {}
                        None => self.start(&key),
                    }
                    return Ok(());
                }
            },
        };
        if late_items.is_empty() {
            return self.acknowledge(tags).await;
        }
        self.settle_items(tags, late_items);
        Ok(())
    }

    /// Takes what a lane settled, and starts what comes next in it.
    fn released(&mut self, key: &UserKey, settle: impl FnOnce(&mut Lane) -> Released) -> Released {
        let Some(lane) = self.lanes.get_mut(key) else { return Released::default() };
        let released = settle(lane);
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
        released
    }

    /// Counts settled events; a message all of whose events are settled is acknowledged.
    pub(super) async fn acknowledge(&mut self, tags: Vec<Tag>) -> Result<(), Interrupted> {
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
}
