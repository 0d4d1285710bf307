//! All clients of the application at once, calm and busy by turns.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::producer::{Producer, Transaction};

/// Clients at once.
const CLIENTS: usize = 6;
/// How long the crowd stays calm, or busy.
const TURN: Duration = Duration::from_secs(7);

/// The clients at work.
pub(crate) struct Crowd {
    members: JoinSet<()>,
    stop: watch::Sender<bool>,
    ended: Arc<Mutex<Vec<Transaction>>>,
}

impl Crowd {
    /// Sets all to work.
    pub(crate) fn start(seed: u64, options: &PgConnectOptions, bare_deletes: bool) -> Self {
        let (stop, stopping) = watch::channel(false);
        let ended = Arc::default();
        let mut rng = StdRng::seed_from_u64(seed ^ 0x63_726f_7764);
        let mut members = JoinSet::new();
        let begun = Instant::now();
        for number in 1..=CLIENTS {
            let own = StdRng::seed_from_u64(rng.random());
            let producer = Producer::new(number, own, options.clone(), bare_deletes);
            members.spawn(work(producer, begun, stopping.clone(), Arc::clone(&ended)));
        }
        Self { members, stop, ended }
    }

    /// How many transactions have ended.
    pub(crate) fn transactions(&self) -> usize {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Lets everyone end what they have begun, and gives all that was done.
    pub(crate) async fn end(mut self) -> Result<Vec<Transaction>> {
        self.stop.send_replace(true);
        while let Some(ended) = self.members.join_next().await {
            ended?;
        }
        Ok(std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

async fn work(
    mut producer: Producer,
    begun: Instant,
    stop: watch::Receiver<bool>,
    ended: Arc<Mutex<Vec<Transaction>>>,
) {
    while !*stop.borrow() {
        let transaction = producer.transact().await;
        ended.lock().unwrap_or_else(PoisonError::into_inner).push(transaction);
        let turn = begun.elapsed().as_secs() / TURN.as_secs();
        producer.think(turn % 3 == 1).await;
    }
}
