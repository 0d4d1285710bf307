use crate::{
    context::{Sent, TargetContext},
    settings::BatchSettings,
};
use postbound_target::{Delivery, Outcome};
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, Ordering},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

/// Gathers the lanes' deliveries into requests of one tenant and many users.
#[derive(Clone)]
pub(crate) struct Batcher {
    entries: mpsc::Sender<Entry>,
}

/// One user's state on its way into a request.
struct Entry {
    delivery: Delivery,
    backfill: bool,
    claim: Claim,
    reply: oneshot::Sender<Tried>,
}

/// What became of one try.
pub(crate) enum Tried {
    /// The target answered, or did not.
    Outcome {
        /// What it came to.
        outcome: Outcome,
        /// Whether it was the probe of a target that fails.
        probe: bool,
    },
    /// Nothing was sent: the target is closed to the user for a while.
    Held,
}

/// Decides between the request that wants to take an entry and the lane that wants it back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim(Arc<AtomicU8>);

const WAITING: u8 = 0;
const SENT: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Claim {
    /// The request takes it; false: it was withdrawn.
    pub(crate) fn send(&self) -> bool {
        self.0.compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The request was not made after all.
    fn reopen(&self) {
        // One that was withdrawn meanwhile stays so.
        let _ = self.0.compare_exchange(SENT, WAITING, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The lane takes it back; false: it is on its way, and its outcome must be awaited.
    pub(crate) fn withdraw(&self) -> bool {
        self.0.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Batcher {
    /// Starts gathering; ends with the last handle.
    pub(crate) fn start(settings: BatchSettings, context: Weak<TargetContext>) -> Self {
        let (entries, queue) = mpsc::channel(settings.users_max * 4);
        tokio::spawn(gather(settings, context, queue));
        Self { entries }
    }

    /// Sends a state with others of its tenant. None: it was withdrawn, or the worker ends.
    pub(crate) async fn send(&self, delivery: Delivery, backfill: bool, claim: Claim) -> Option<Tried> {
        let (reply, tried) = oneshot::channel();
        self.entries.send(Entry { delivery, backfill, claim, reply }).await.ok()?;
        tried.await.ok()
    }
}

/// Who may share a request: users of one tenant. Live traffic has its own requests, as it has its share of the limits, and
/// so has a full sync, as the contract may name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct GroupKey {
    tenant: String,
    backfill: bool,
    full_sync: bool,
}

/// Entries that wait for company.
struct Group {
    entries: Vec<Entry>,
    due: Instant,
}

impl Entry {
    fn group_key(&self) -> GroupKey {
        let Delivery { key, full_sync, .. } = &self.delivery;
        GroupKey { tenant: key.tenant.clone(), backfill: self.backfill, full_sync: *full_sync }
    }
}

async fn gather(settings: BatchSettings, context: Weak<TargetContext>, mut queue: mpsc::Receiver<Entry>) {
    let mut groups: HashMap<GroupKey, Group> = HashMap::new();
    loop {
        let next_due = groups.values().map(|group| group.due).min();
        tokio::select! {
            entry = queue.recv() => {
                let (Some(entry), Some(context)) = (entry, context.upgrade()) else { return };
                let key = entry.group_key();
                let due = || Instant::now() + context.rate.linger(settings.linger);
                let group = groups.entry(key.clone()).or_insert_with(|| Group { entries: Vec::new(), due: due() });
                group.entries.push(entry);
                if group.entries.len() >= settings.users_max && let Some(full) = groups.remove(&key) {
                    tokio::spawn(request(context, full.entries));
                }
            }
            () = sleep_until(next_due.unwrap_or_else(Instant::now)), if next_due.is_some() => {
                let Some(context) = context.upgrade() else { return };
                let now = Instant::now();
                let due: Vec<_> = groups.iter().filter(|(_, group)| group.due <= now).map(|(key, _)| key.clone()).collect();
                for group in due.iter().filter_map(|key| groups.remove(key)) {
                    tokio::spawn(request(Arc::clone(&context), group.entries));
                }
            }
        }
    }
}

/// Sends one request and hands each lane its outcome. A request that is refused whole for some user's sake is halved
/// until that user stands alone: nobody's state is given up for a neighbour's.
async fn request(context: Arc<TargetContext>, mut entries: Vec<Entry>) {
    entries.retain(|entry| entry.claim.0.load(Ordering::Acquire) == WAITING && !entry.reply.is_closed());
    let mut parts = vec![(entries, true)];
    while let Some((mut entries, first)) = parts.pop() {
        if entries.is_empty() {
            continue;
        }
        let deliveries: Vec<_> = entries.iter().map(|entry| entry.delivery.clone()).collect();
        // A lane may have withdrawn, or gone with its lease, while the request waited its turn: asked at the last moment.
        let wanted = |entry: &Entry| !entry.reply.is_closed() && (!first || entry.claim.send());
        let claim_all = || entries.iter().all(wanted);
        let backfill = entries.first().is_some_and(|entry| entry.backfill);
        let (outcomes, probe) = match context.send(&deliveries, backfill, claim_all).await {
            Sent::Outcomes { outcomes, probe } => (outcomes, probe),
            Sent::NotStarted => {
                resend_unclaimed(&context, entries);
                continue;
            }
            Sent::Held => {
                for entry in entries {
                    let _ = entry.reply.send(Tried::Held);
                }
                continue;
            }
        };
        let refused_whole = entries.len() > 1
            && outcomes.iter().all(|outcome| matches!(outcome, Outcome::Failed(failure) if failure.bisect));
        if refused_whole {
            let rest = entries.split_off(entries.len() / 2);
            parts.extend([(rest, false), (entries, false)]);
            continue;
        }
        for (entry, outcome) in entries.into_iter().zip(outcomes) {
            let _ = entry.reply.send(Tried::Outcome { outcome, probe });
        }
    }
}

/// A lane withdrew while the request waited its turn: the others, some already claimed, go on without it.
fn resend_unclaimed(context: &Arc<TargetContext>, entries: Vec<Entry>) {
    let rest: Vec<_> = entries
        .into_iter()
        .filter(|entry| !entry.reply.is_closed() && entry.claim.0.load(Ordering::Acquire) != WITHDRAWN)
        .inspect(|entry| entry.claim.reopen())
        .collect();
    if !rest.is_empty() {
        tokio::spawn(request(Arc::clone(context), rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_withdrawn_is_not_sent_whatever_becomes_of_the_request() {
        let claim = Claim::default();
        assert!(claim.send());
        assert!(!claim.withdraw(), "it is on its way");
        claim.reopen();
        assert!(claim.withdraw());
        assert!(!claim.send());
        claim.reopen();
        assert!(!claim.send(), "a request that was not made does not bring it back");
    }
}
