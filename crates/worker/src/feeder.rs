use crate::context::TargetContext;
use postbound_event::UserKey;
use postbound_store::{DueFilter, ParkedState, ParkedUser, StoreError, within};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};

/// Longest time between two looks: what others changed (an operator's retry, a takeover) is found then.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Shortest time between two looks that found nothing new.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Users taken at once at most.
const TAKE_MAX: u32 = 200;
/// Time for one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// Brings users whose next attempt is due to the partitions this worker owns: those that are parked, and those whose
/// newest state must be sent once more. One look for all partitions of a target.
#[derive(Clone, Default)]
pub(crate) struct Feeder {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ports: Mutex<HashMap<u16, Port>>,
    /// When somebody here is due next, if that is before the next look.
    due: Mutex<Option<Instant>>,
    changed: Notify,
}

struct Port {
    partitions: u16,
    sender: mpsc::Sender<Fed>,
}

/// Someone who is due.
pub(crate) enum Fed {
    /// A parked user.
    Parked(Box<ParkedUser>),
    /// A state to be sent once more.
    Doubtful(Box<ParkedState>),
}

impl Fed {
    pub(crate) fn key(&self) -> &UserKey {
        match self {
            Self::Parked(user) => &user.key,
            Self::Doubtful(state) => &state.event.key,
        }
    }
}

impl Feeder {
    /// Starts looking; ends with the context.
    pub(crate) fn start(&self, context: Weak<TargetContext>) {
        tokio::spawn(feed(self.clone(), context));
    }

    /// Feeds a partition, one of so many, as long as what is returned lives.
    pub(crate) fn register(&self, partition: u16, partitions: u16) -> mpsc::Receiver<Fed> {
        // All who are taken at once may be of one partition, while it still has those of the last time.
        let (sender, receiver) = mpsc::channel(2 * TAKE_MAX as usize);
        lock(&self.shared.ports).insert(partition, Port { partitions, sender });
        self.expect_due(Duration::ZERO);
        receiver
    }

    /// Somebody is due after `pause`.
    pub(crate) fn expect_due(&self, pause: Duration) {
        let at = Instant::now() + pause;
        let mut due = lock(&self.shared.due);
        if due.is_none_or(|earlier| at < earlier) {
            *due = Some(at);
            drop(due);
            self.shared.changed.notify_one();
        }
    }

    /// Partitions with room, by their number of partitions.
    fn hungry(&self) -> HashMap<u16, Vec<u16>> {
        let mut ports = lock(&self.shared.ports);
        ports.retain(|_, port| !port.sender.is_closed());
        let mut hungry: HashMap<u16, Vec<u16>> = HashMap::new();
        for (partition, port) in ports.iter().filter(|(_, port)| port.sender.capacity() >= TAKE_MAX as usize)
        {
            hungry.entry(port.partitions).or_default().push(*partition);
        }
        hungry
    }

    /// Whom there is no room for is due again in a minute.
    fn give(&self, partition: u16, fed: Fed) {
        if let Some(port) = lock(&self.shared.ports).get(&partition) {
            let _ = port.sender.try_send(fed);
        }
    }
}

async fn feed(feeder: Feeder, context: Weak<TargetContext>) {
    let mut look_at = Instant::now();
    let mut looked_at = look_at;
    loop {
        tokio::select! {
            () = sleep_until(look_at) => {}
            () = feeder.shared.changed.notified() => {
                if let Some(due) = *lock(&feeder.shared.due) {
                    look_at = look_at.min(due.max(looked_at + LOOK_PAUSE));
                }
                continue;
            }
        }
        let Some(context) = context.upgrade() else { return };
        *lock(&feeder.shared.due) = None;
        let pause = match within(LOOK_TIMEOUT, feeder.look(&context)).await {
            Ok(pause) => pause.min(LOOK_EVERY),
            Err(error) => {
                tracing::warn!(target.name = %context.name, error = %error, "parked users not read");
                LOOK_EVERY
            }
        };
        looked_at = Instant::now();
        look_at = looked_at + pause;
        if let Some(due) = *lock(&feeder.shared.due) {
            look_at = look_at.min(due.max(looked_at + LOOK_PAUSE));
        }
    }
}

impl Feeder {
    /// Takes who is due and hands them out; gives the time until somebody is due again.
    async fn look(&self, context: &TargetContext) -> Result<Duration, StoreError> {
        let closed = context.breakers.closed_off();
        let mut taken = 0;
        for (partitions, owned) in self.hungry() {
            let filter = DueFilter {
                target: &context.name,
                partitions,
                owned: &owned,
                only_tenant: None,
                without_tenants: &closed.tenants,
                limit: TAKE_MAX,
                blameless_first: false,
            };
            if !closed.whole_target {
                taken += self.hand_out(context, &filter).await?;
            }
            // One user each, to see whether the target is back.
            for tenant in &closed.probes_due {
                let probe = DueFilter {
                    only_tenant: tenant.as_deref(),
                    // Those that are closed by themselves say nothing of the target.
                    without_tenants: if tenant.is_none() { &closed.tenants } else { &[] },
                    limit: 1,
                    blameless_first: true,
                    ..filter.clone()
                };
                self.hand_out(context, &probe).await?;
            }
        }
        if taken >= TAKE_MAX as usize {
            return Ok(Duration::ZERO);
        }
        if taken > 0 {
            return Ok(LOOK_PAUSE);
        }
        let due = context.store.next_due_in(&context.name).await?.unwrap_or(LOOK_EVERY);
        // Due, and yet nobody was taken: the target is closed to them, or they are others' to try.
        Ok(if due.is_zero() { LOOK_EVERY } else { due.max(LOOK_PAUSE) })
    }

    async fn hand_out(&self, context: &TargetContext, filter: &DueFilter<'_>) -> Result<usize, StoreError> {
        let users = context.store.take_due(filter, context.plan.registration.fold).await?;
        let doubts = match filter.only_tenant.is_none() && filter.limit > 1 {
            true => context.store.take_due_doubts(filter, context.plan.has_doubts()).await?,
            false => Vec::new(),
        };
        let taken = users.len() + doubts.len();
        if taken > 0 {
            postbound_failpoint::pass("worker.due_taken");
        }
        for user in users {
            let partition = user.key.partition(filter.partitions);
            self.give(partition, Fed::Parked(Box::new(user)));
        }
        for state in doubts {
            let partition = state.event.key.partition(filter.partitions);
            self.give(partition, Fed::Doubtful(Box::new(state)));
        }
        Ok(taken)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
