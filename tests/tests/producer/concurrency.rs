//! Many writers on few users: the log's order, the versions' order and the commits' order are one.

use super::change;
use postbound_client::{emit, emit_many};
use postbound_tests::{LogEntry, Role, TestDatabase, log_entries};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

const WRITERS: u64 = 20;
const TRANSACTIONS: usize = 30;
const USERS: u32 = 4;

/// Runs transactions of one to three users; a tenth roll back. Gives how many changes were committed.
pub(super) async fn write(pool: PgPool, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut committed = 0;
    for _ in 0..TRANSACTIONS {
        let changes: Vec<_> = (0..random.random_range(1..=3))
            .map(|_| change(&format!("hot-{}", random.random_range(0..USERS))))
            .collect();
        let mut tx = pool.begin().await.unwrap();
        match changes.as_slice() {
            [one] => drop(emit(&mut tx, one).await.unwrap()),
            many => drop(emit_many(&mut tx, many).await.unwrap()),
        }
        if random.random_ratio(1, 10) {
            tx.rollback().await.unwrap();
        } else {
            tx.commit().await.unwrap();
            committed += changes.len();
        }
    }
    committed
}

/// Each user's versions, in the order of ids, are 1, 2, 3, ...
fn assert_whole_and_ordered(log: &[LogEntry]) {
    let mut newest: HashMap<&str, i64> = HashMap::new();
    for entry in log {
        let version = newest.entry(&entry.user_id).or_default();
        assert_eq!(entry.version, *version + 1, "of {}", entry.user_id);
        *version = entry.version;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_hot_users_every_snapshot_of_the_log_holds_the_first_versions_without_a_gap_in_the_order_of_ids() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let database = TestDatabase::new().await;
    let pool = database.pool(Role::Producer, u32::try_from(WRITERS).unwrap());
    let writers: Vec<_> = (0..WRITERS).map(|seed| tokio::spawn(write(pool.clone(), seed))).collect();
    // Each look is one snapshot: were versions to commit out of order, some look would find a gap.
    let looking = async {
        let mut looks = 0;
        while !DONE.load(Ordering::Relaxed) {
            assert_whole_and_ordered(&log_entries(database.superuser()).await);
            looks += 1;
        }
        looks
    };
    let writing = async {
        let mut committed = 0;
        for writer in writers {
            committed += writer.await.unwrap();
        }
        DONE.store(true, Ordering::Relaxed);
        committed
    };
    let (looks, committed) = tokio::join!(looking, writing);
    assert!(looks > 1);
    let log = log_entries(database.superuser()).await;
    assert_whole_and_ordered(&log);
    assert_eq!(log.len(), committed);
}
