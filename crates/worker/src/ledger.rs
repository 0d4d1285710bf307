use crate::retry::reconnect_pauses;
use metrics::Histogram;
use postbound_event::{JobPart, UserKey};
use postbound_store::{
    Held, ItemOutcome, ParkedState, ParkedUser, Parking, Settlement, Store, StoreError, within,
};
use postbound_telemetry::names;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// How long one statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the parkings of one transaction are gathered. Nobody waits for a parking but its own message, and while a
/// target is dead every change to it is one: written one by one they would share the disk with the ledger of those that
/// live.
const PARKINGS_GATHERED: Duration = Duration::from_millis(100);
/// How long the settlements of one transaction are gathered. A delivery has happened by then, and only its own user's next
/// waits for it; each commit holds up those of the producers and of the broker on the same disk.
const SETTLEMENTS_GATHERED: Duration = Duration::from_millis(3);
/// Waiting calls at most; more wait at the door.
const QUEUE: usize = 4096;

/// The ledger, as lanes use it: reads and writes of all lanes of the worker, gathered into one statement each.
///
/// While one statement is under way the next gathers, so that a crowd shares the cost.
#[derive(Clone)]
pub(crate) struct Ledger {
    reads: mpsc::Sender<Read>,
    writes: mpsc::Sender<Write>,
    parkings: mpsc::Sender<Parked>,
    store: Store,
}

/// The ledger cannot be used: Postgres refused a statement, or the worker ends.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the ledger did not answer")]
pub(crate) struct LedgerGone;

struct Read {
    target: Arc<str>,
    users: Vec<UserKey>,
    reply: oneshot::Sender<HashMap<UserKey, Held>>,
}

struct Write {
    settlement: Settlement,
    reply: oneshot::Sender<()>,
}

struct Parked {
    parking: Parking,
    reply: oneshot::Sender<Vec<ParkedState>>,
}

impl Ledger {
    /// Starts the reader and the writer; they end with the last handle.
    pub(crate) fn start(store: Store, batch_max: usize) -> Self {
        let (reads, read_queue) = mpsc::channel(QUEUE);
        let (writes, write_queue) = mpsc::channel(QUEUE);
        let (parkings, parking_queue) = mpsc::channel(QUEUE);
        tokio::spawn(serve_reads(store.clone(), read_queue, batch_max));
        tokio::spawn(serve_writes(store.clone(), write_queue, batch_max));
        tokio::spawn(serve_parkings(store.clone(), parking_queue, batch_max));
        Self { reads, writes, parkings, store }
    }

    /// What a target holds of users, of each of them.
    pub(crate) async fn held(
        &self,
        target: &Arc<str>,
        users: Vec<UserKey>,
    ) -> Result<HashMap<UserKey, Held>, LedgerGone> {
        let (reply, answer) = oneshot::channel();
        self.reads.send(Read { target: Arc::clone(target), users, reply }).await.map_err(|_| LedgerGone)?;
        answer.await.map_err(|_| LedgerGone)
    }

    /// Writes a settlement; Ok: it is committed. Err also if its lease is another worker's now.
    pub(crate) async fn settle(&self, settlement: Settlement) -> Result<(), LedgerGone> {
        let (reply, answer) = oneshot::channel();
        self.writes.send(Write { settlement, reply }).await.map_err(|_| LedgerGone)?;
        answer.await.map_err(|_| LedgerGone)
    }

    /// Parks a user; Ok: it is committed, and these are the states that wait. Err as in [`Ledger::settle`].
    pub(crate) async fn park(&self, parking: Parking) -> Result<Vec<ParkedState>, LedgerGone> {
        let (reply, answer) = oneshot::channel();
        self.parkings.send(Parked { parking, reply }).await.map_err(|_| LedgerGone)?;
        answer.await.map_err(|_| LedgerGone)
    }

    /// What is parked of users, `whole` or without their states, for those of whom something is.
    pub(crate) async fn parked(
        &self,
        target: &str,
        users: &[UserKey],
        whole: bool,
    ) -> Result<Vec<ParkedUser>, LedgerGone> {
        persist("parked users not read", || self.store.parked(target, users, whole)).await.ok_or(LedgerGone)
    }

    /// A page of a parked user's states, from the one after `after` on.
    pub(crate) async fn parked_states(
        &self,
        target: &str,
        key: &UserKey,
        after: i64,
        limit: u16,
    ) -> Result<Vec<ParkedState>, LedgerGone> {
        let read = || self.store.parked_states(target, key, after, limit);
        persist("parked states not read", read).await.ok_or(LedgerGone)
    }

    /// Takes settled states of a parked user out.
    pub(crate) async fn unpark(&self, target: &str, key: &UserKey, version: i64) -> Result<(), LedgerGone> {
        persist("user not unparked", || self.store.unpark(target, key, version)).await.ok_or(LedgerGone)
    }

    /// Writes what became of items of jobs that needed no delivery.
    pub(crate) async fn settle_items(&self, items: &[(JobPart, ItemOutcome)]) -> Result<(), LedgerGone> {
        persist("items of jobs not settled", || self.store.settle_items(items)).await.ok_or(LedgerGone)
    }
}

async fn serve_reads(store: Store, mut queue: mpsc::Receiver<Read>, batch_max: usize) {
    let mut batch = Vec::with_capacity(batch_max);
    while queue.recv_many(&mut batch, batch_max).await > 0 {
        let pairs: Vec<(&str, &UserKey)> =
            batch.iter().flat_map(|read| read.users.iter().map(|key| (&*read.target, key))).collect();
        let rows = persist("ledger not read", || store.held(&pairs)).await;
        let mut held = vec![Held::default(); pairs.len()];
        let Some(rows) = rows else {
            batch.clear();
            continue;
        };
        for row in rows {
            if let Some(place) = held.get_mut(row.index) {
                *place = row.held;
            }
        }
        let mut held = held.into_iter();
        for Read { users, reply, .. } in batch.drain(..) {
            // Whoever asked may have gone.
            let _ = reply.send(users.into_iter().zip(held.by_ref()).collect());
        }
    }
}

async fn serve_writes(store: Store, mut queue: mpsc::Receiver<Write>, batch_max: usize) {
    let commit_seconds: Histogram = metrics::histogram!(names::LEDGER_COMMIT);
    let batch_size: Histogram = metrics::histogram!(names::LEDGER_BATCH_SIZE);
    let mut batch = Vec::with_capacity(batch_max);
    while gather(&mut queue, &mut batch, batch_max, SETTLEMENTS_GATHERED).await {
        // Whoever is gone has lost the lease, and may have it again by now, for others.
        batch.retain(|write| write.settlement.under.is_none() || !write.reply.is_closed());
        let mut rounds = rounds(batch.drain(..), |write| (&write.settlement.target, &write.settlement.key));
        while let Some(round) = rounds.pop() {
            let (settlements, replies): (Vec<_>, Vec<_>) =
                round.into_iter().map(|write| (write.settlement, write.reply)).unzip();
            let started = Instant::now();
            let committed = persist("ledger not written", || store.settle(&settlements)).await;
            commit_seconds.record(started.elapsed().as_secs_f64());
            batch_size.record(settlements.len() as f64);
            let round = settlements.into_iter().zip(replies);
            if let Some(written) = committed {
                postbound_failpoint::pass("worker.settled");
                for ((_, reply), _) in round.zip(written).filter(|(_, written)| *written) {
                    let _ = reply.send(());
                }
            } else {
                halve(&mut rounds, round.map(|(settlement, reply)| Write { settlement, reply }).collect());
            }
        }
    }
}

async fn serve_parkings(store: Store, mut queue: mpsc::Receiver<Parked>, batch_max: usize) {
    let mut batch = Vec::with_capacity(batch_max);
    while gather(&mut queue, &mut batch, batch_max, PARKINGS_GATHERED).await {
        batch.retain(|parked| parked.parking.under.is_none() || !parked.reply.is_closed());
        let mut rounds = rounds(batch.drain(..), |parked| (&parked.parking.target, &parked.parking.key));
        while let Some(round) = rounds.pop() {
            let (parkings, replies): (Vec<_>, Vec<_>) =
                round.into_iter().map(|parked| (parked.parking, parked.reply)).unzip();
            let committed = persist("users not parked", || store.park(&parkings)).await;
            let round = parkings.into_iter().zip(replies);
            if let Some(written) = committed {
                postbound_failpoint::pass("worker.parked");
                for ((parking, reply), _) in round.zip(written).filter(|(_, written)| *written) {
                    let _ = reply.send(parking.states);
                }
            } else {
                halve(&mut rounds, round.map(|(parking, reply)| Parked { parking, reply }).collect());
            }
        }
    }
}

/// What comes within so long of the first, or `batch_max` sooner. False: nobody is left to ask.
async fn gather<T>(
    queue: &mut mpsc::Receiver<T>,
    batch: &mut Vec<T>,
    batch_max: usize,
    within: Duration,
) -> bool {
    if queue.recv_many(batch, batch_max).await == 0 {
        return false;
    }
    let until = Instant::now() + within;
    while batch.len() < batch_max {
        let room = batch_max - batch.len();
        match tokio::time::timeout_at(until, queue.recv_many(batch, room)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    true
}

/// Entries that can be written by one statement each: of a user there is one in each, in their order. The first to be
/// written is the last.
fn rounds<T>(entries: impl Iterator<Item = T>, key: impl Fn(&T) -> (&Arc<str>, &UserKey)) -> Vec<Vec<T>> {
    let mut rounds: Vec<Vec<T>> = vec![Vec::new()];
    let mut seen: HashMap<(Arc<str>, UserKey), usize> = HashMap::new();
    for entry in entries {
        let (target, user) = key(&entry);
        let times = seen.entry((Arc::clone(target), user.clone())).or_insert(0);
        let round = *times;
        *times += 1;
        if rounds.len() <= round {
            rounds.push(Vec::new());
        }
        rounds[round].push(entry);
    }
    rounds.reverse();
    rounds
}

/// Postgres refused entries together: those that are not at fault are written all the same. One alone that is refused is
/// dropped with its reply, and its caller starts over.
fn halve<T>(rounds: &mut Vec<Vec<T>>, mut refused: Vec<T>) {
    if refused.len() > 1 {
        let rest = refused.split_off(refused.len() / 2);
        rounds.extend([rest, refused]);
    }
}

/// Repeats a call while Postgres is away. None: it refused; the replies are dropped, and their callers start over.
async fn persist<T, F>(what: &str, mut call: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, StoreError>>,
{
    for pause in reconnect_pauses() {
        match within(STATEMENT_TIMEOUT, call()).await {
            Ok(value) => return Some(value),
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %error, "{what}; trying again");
                tokio::time::sleep(pause).await;
            }
            Err(error) => {
                tracing::error!(error = %error, "{what}");
                return None;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_user_that_is_written_twice_each_statement_has_one_entry_in_order() {
        let entry = |(place, user)| (place, Arc::<str>::from("crm"), UserKey::new("t", user));
        let entries = ["a", "b", "a", "a"].into_iter().enumerate().map(entry);
        let mut rounds = rounds(entries, |(_, target, key)| (target, key));
        let mut order = Vec::new();
        while let Some(round) = rounds.pop() {
            order.push(round.into_iter().map(|(place, ..)| place).collect::<Vec<_>>());
        }
        assert_eq!(order, [vec![0, 1], vec![2], vec![3]]);
    }
}
