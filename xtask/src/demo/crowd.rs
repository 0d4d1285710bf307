//! Many connections that change users at the same time, each transaction by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use super::app;
use super::plan::{Change, Next, Plan};

/// How many transactions can be open at once.
pub(crate) const CONNECTIONS: usize = 8;

/// How transactions ended so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) committed: u64,
    pub(crate) rolled_back: u64,
}

/// The connections at work; dropped, they leave their transactions to roll back.
pub(crate) struct Crowd {
    members: JoinSet<Result<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    plan: Mutex<Plan>,
    committed: AtomicU64,
    rolled_back: AtomicU64,
}

impl Crowd {
    /// Connects everyone, then lets them begin.
    pub(crate) async fn start(url: &str, plan: Plan) -> Result<Self> {
        let shared = Arc::new(Shared {
            plan: Mutex::new(plan),
            committed: AtomicU64::new(0),
            rolled_back: AtomicU64::new(0),
        });
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            connections.push(PgConnection::connect(url).await.context("the application cannot connect")?);
        }
        let mut members = JoinSet::new();
        for connection in connections {
            members.spawn(follow(connection, shared.clone()));
        }
        Ok(Self { members, shared })
    }

    /// Whether everyone is done.
    ///
    /// # Errors
    /// If one of them failed.
    pub(crate) fn is_over(&mut self) -> Result<bool> {
        while let Some(ended) = self.members.try_join_next() {
            ended?.context("the application failed")?;
        }
        Ok(self.members.is_empty())
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            committed: self.shared.committed.load(Ordering::Relaxed),
            rolled_back: self.shared.rolled_back.load(Ordering::Relaxed),
        }
    }
}

async fn follow(mut connection: PgConnection, shared: Arc<Shared>) -> Result<()> {
    loop {
        let next = shared.plan.lock().unwrap_or_else(PoisonError::into_inner).next();
        let change = match next {
            Next::Make(change) => *change,
            Next::Wait => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            Next::Done => return Ok(connection.close().await?),
        };
        let committed = transact(&mut connection, &change).await?;
        match (committed, change.commits) {
            (true, _) => shared.committed.fetch_add(1, Ordering::Relaxed),
            (false, false) => shared.rolled_back.fetch_add(1, Ordering::Relaxed),
            // Somebody deleted the user in the meantime.
            (false, true) => 0,
        };
        shared.plan.lock().unwrap_or_else(PoisonError::into_inner).end(change, committed);
    }
}

async fn transact(connection: &mut PgConnection, change: &Change) -> Result<bool> {
    let mut tx = connection.begin().await?;
    let made = app::make(&mut tx, change).await.with_context(|| format!("{change:?}"))?;
    tokio::time::sleep(change.hold).await;
    if made && change.commits {
        tx.commit().await?;
        return Ok(true);
    }
    tx.rollback().await?;
    Ok(false)
}
