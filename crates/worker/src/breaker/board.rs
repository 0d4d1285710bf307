use super::Inner;
use crate::retry::reconnect_pauses;
use postbound_store::{Store, within};
use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// How often the table is read, whatever is announced.
const REREAD: Duration = Duration::from_secs(2);
/// How long a reading, or starting to listen, may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Follows the table of open breakers for all targets of a worker, on one connection of its own.
#[derive(Clone)]
pub(crate) struct BreakerBoard(Arc<Board>);

struct Board {
    followers: Mutex<Vec<Weak<Inner>>>,
    signals: Arc<Signals>,
}

#[derive(Default)]
struct Signals {
    /// The table is to be read.
    refresh: Notify,
    /// The server was not there: neither is, perhaps, the connection that listens.
    doubted: Notify,
}

impl BreakerBoard {
    /// Starts listening and reading; both end with the last handle.
    pub(crate) fn start(store: Store) -> Self {
        let board = Arc::new(Board { followers: Mutex::default(), signals: Arc::default() });
        tokio::spawn(read(store.clone(), Arc::downgrade(&board), Arc::clone(&board.signals)));
        tokio::spawn(listen(store, Arc::downgrade(&board), Arc::clone(&board.signals)));
        Self(board)
    }

    /// One more target.
    pub(super) fn add(&self, inner: &Arc<Inner>) {
        self.followers().push(Arc::downgrade(inner));
        self.refresh();
    }

    /// Has the table read at once.
    pub(super) fn refresh(&self) {
        self.0.signals.refresh.notify_one();
    }

    fn followers(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Inner>>> {
        self.0.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(store: Store, board: Weak<Board>, signals: Arc<Signals>) {
    let mut tick = interval(REREAD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = signals.refresh.notified() => {}
        }
        let Some(board) = board.upgrade().map(BreakerBoard) else { return };
        let followers: Vec<_> = {
            let mut followers = board.followers();
            followers.retain(|follower| follower.strong_count() > 0);
            followers.iter().filter_map(Weak::upgrade).collect()
        };
        let epochs: Vec<u64> = followers.iter().map(|follower| follower.epoch()).collect();
        match within(READ_TIMEOUT, store.breakers()).await {
            Ok(rows) => {
                let read_at = Instant::now();
                for (follower, epoch) in followers.iter().zip(epochs) {
                    if !follower.apply(&rows, read_at, epoch) {
                        signals.refresh.notify_one();
                    }
                }
            }
            // What is known stands; nothing is sent for long without Postgres, leases see to that.
            Err(error) => {
                tracing::debug!(error = %error, "breakers not read");
                signals.doubted.notify_one();
            }
        }
    }
}

async fn listen(store: Store, board: Weak<Board>, signals: Arc<Signals>) {
    let mut pauses = reconnect_pauses();
    while board.strong_count() > 0 {
        match timeout(READ_TIMEOUT, store.listen_to_breakers()).await {
            Ok(Ok(mut listener)) => {
                pauses = reconnect_pauses();
                loop {
                    // What was announced before it listened, or since the last time.
                    signals.refresh.notify_one();
                    tokio::select! {
                        heard = listener.changed() => if heard.is_err() { break },
                        () = signals.doubted.notified() => break,
                        () = tokio::time::sleep(10 * REREAD) => if board.strong_count() == 0 { return },
                    }
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "not listening for breakers; reading them every 2 s");
            }
            Err(_) => tracing::debug!(
                "not listening for breakers, Postgres does not answer; reading them every 2 s"
            ),
        }
        tokio::time::sleep(pauses.next().unwrap_or(READ_TIMEOUT)).await;
    }
}
