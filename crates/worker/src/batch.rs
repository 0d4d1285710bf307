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
    ticket: Ticket,
}

/// What its lane waits with.
struct Ticket {
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
        self.entries.send(Entry { delivery, ticket: Ticket { backfill, claim, reply } }).await.ok()?;
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
        GroupKey { tenant: key.tenant.clone(), backfill: self.ticket.backfill, full_sync: *full_sync }
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
async fn request(context: Arc<TargetContext>, entries: Vec<Entry>) {
    let waits = |Entry { ticket, .. }: &Entry| {
        ticket.claim.0.load(Ordering::Acquire) == WAITING && !ticket.reply.is_closed()
    };
    let entries = entries.into_iter().filter(waits).map(|entry| (entry.delivery, entry.ticket));
    let (deliveries, tickets): (Vec<Delivery>, Vec<Ticket>) = entries.unzip();
    let mut parts = vec![(deliveries, tickets, true)];
    while let Some((mut deliveries, mut tickets, first)) = parts.pop() {
        // A lane may have withdrawn, or gone with its lease, while the request waited its turn: asked at the last moment.
        let wanted = |ticket: &Ticket| !ticket.reply.is_closed() && (!first || ticket.claim.send());
        let claim_all = || tickets.iter().all(wanted);
        let backfill = tickets.first().is_some_and(|ticket| ticket.backfill);
        let (outcomes, probe) = match context.send(&deliveries, backfill, claim_all).await {
            Sent::Outcomes { outcomes, probe } => (outcomes, probe),
            Sent::NotStarted => {
                resend_unclaimed(&context, deliveries, tickets);
                continue;
            }
            Sent::Held => {
                for ticket in tickets {
                    let _ = ticket.reply.send(Tried::Held);
                }
                continue;
            }
        };
        let refused_whole = tickets.len() > 1
            && outcomes.iter().all(|outcome| matches!(outcome, Outcome::Failed(failure) if failure.bisect));
        if refused_whole {
            let half = tickets.len() / 2;
            let rest = (deliveries.split_off(half), tickets.split_off(half), false);
            parts.extend([rest, (deliveries, tickets, false)]);
            continue;
        }
        for (ticket, outcome) in tickets.into_iter().zip(outcomes) {
            let _ = ticket.reply.send(Tried::Outcome { outcome, probe });
        }
    }
}

/// A lane withdrew while the request waited its turn: the others, some already claimed, go on without it.
fn resend_unclaimed(context: &Arc<TargetContext>, deliveries: Vec<Delivery>, tickets: Vec<Ticket>) {
    let entries = deliveries.into_iter().zip(tickets).map(|(delivery, ticket)| Entry { delivery, ticket });
    let is_wanted = |Entry { ticket, .. }: &Entry| {
        !ticket.reply.is_closed() && ticket.claim.0.load(Ordering::Acquire) != WITHDRAWN
    };
    let rest: Vec<_> = entries.filter(is_wanted).inspect(|entry| entry.ticket.claim.reopen()).collect();
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
