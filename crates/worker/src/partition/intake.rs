use super::{
    Interrupted,
    session::{FED_LANES_MAX, Session},
};
use crate::{
    context::TargetContext,
    feeder::Fed,
    lane::{Source, Tag},
    ledger::LedgerGone,
    optional::pending_or,
};
use futures_util::{FutureExt as _, future::BoxFuture};
use postbound_broker::Message;
use postbound_event::{DecodeError, Event, UserKey, decode_batch};
use postbound_store::{Held, ParkedUser};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages whose ledger entries are read together.
const INTAKE_MESSAGES: usize = 64;

/// KiB a message not yet seen is taken to have: the relay's largest, and room for one bigger event.
const MESSAGE_KIB: u32 = 512;

/// Messages whose users' ledger entries are being read, or parked users.
pub(super) struct Intake {
    pub(super) messages: Vec<Taken>,
    pub(super) fed: Vec<Fed>,
    pub(super) held: HashMap<UserKey, Held>,
    pub(super) parked: HashMap<UserKey, ParkedUser>,
}

pub(super) struct Taken {
    pub(super) message: Unheld,
    pub(super) kibibytes: OwnedSemaphorePermit,
}

/// Messages that were received and have no room yet, one of each queue at most: those of jobs, which may wait long, hold
/// up no live one.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) live: Option<BoxFuture<'static, Result<Taken, LedgerGone>>>,
    pub(super) backfill: Option<BoxFuture<'static, Result<Taken, LedgerGone>>>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_none() && self.backfill.is_none()
    }

    /// The next that gets room.
    pub(super) async fn next(&mut self) -> Result<Taken, LedgerGone> {
        tokio::select! {
            biased;
            taken = pending_or(self.live.as_mut()) => { self.live = None; taken }
            taken = pending_or(self.backfill.as_mut()) => { self.backfill = None; taken }
        }
    }
}

/// A message that was read, and has no room yet.
pub(super) struct Unheld {
    pub(super) tag: Tag,
    pub(super) delivered_before: u64,
    pub(super) events: Result<Vec<Event>, Unreadable>,
}

pub(super) struct Unreadable {
    pub(super) error: DecodeError,
    pub(super) body: Vec<u8>,
}

impl Session<'_> {
    /// Takes a message and those that have arrived behind it, once there is room for the first.
    pub(super) fn take(&mut self, source: Source, first: Message) -> Result<(), Interrupted> {
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
        let Some(kibibytes) = first_room else {
            let slot = match source {
                Source::Live => &mut self.waiting.live,
                Source::Backfill => &mut self.waiting.backfill,
            };
            *slot = Some(Box::pin(async move {
                let kibibytes = budget.acquire_many_owned(first_kibibytes).await.map_err(|_| LedgerGone)?;
                Ok(Taken { message: first, kibibytes })
            }));
            return Ok(());
        };
        let mut messages = Vec::with_capacity(more.len() + 1);
        messages.push(Taken { message: first, kibibytes });
        for (message, mut room) in more {
            let kibibytes = self.kibibytes(&message, source) as usize;
            let kibibytes = room.split(kibibytes).unwrap_or(room);
            messages.push(Taken { message: Unheld::read(source, message), kibibytes });
        }
        self.begin_intake(messages);
        Ok(())
    }

    /// Begins to read what the ledger says of the messages' users.
    pub(super) fn begin_intake(&mut self, messages: Vec<Taken>) {
        // Users with a lane are known: a lane stays while an intake is under way.
        let events = messages.iter().filter_map(|taken| taken.message.events.as_ref().ok()).flatten();
        let users: HashSet<&UserKey> =
            events.map(|event| &event.key).filter(|key| !self.lanes.contains_key(*key)).collect();
        let users: Vec<UserKey> = users.into_iter().cloned().collect();
        let context = Arc::clone(&self.partition.context);
        self.intake = Some(Box::pin(async move {
            let (held, parked) = look_up(&context, users).await?;
            Ok(Intake { messages, fed: Vec::new(), held, parked })
        }));
    }

    /// Takes users who are due, and begins to read what the ledger says of them.
    pub(super) fn take_fed(&mut self, first: Fed) {
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

/// What the ledger says of users, and what is parked of those who are. Where every event is delivered many may wait: their
/// lanes read them when they are due.
async fn look_up(
    context: &TargetContext,
    users: Vec<UserKey>,
) -> Result<(HashMap<UserKey, Held>, HashMap<UserKey, ParkedUser>), LedgerGone> {
    if users.is_empty() {
        return Ok(Default::default());
    }
    let held = context.ledger.held(&context.name, users).await?;
    let parked: Vec<UserKey> =
        held.iter().filter(|(_, held)| held.parked).map(|(key, _)| key.clone()).collect();
    let parked = match parked.is_empty() {
        true => Vec::new(),
        false => context.ledger.parked(&context.name, &parked, context.plan.registration.fold).await?,
    };
    Ok((held, parked.into_iter().map(|user| (user.key.clone(), user)).collect()))
}
