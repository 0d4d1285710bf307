//! Random interleavings of open, commit, rollback and savepoints with windows taken in between: the windows together
//! are the committed log, once and in each user's order.

use super::{
    change, concurrency,
    windows::{Read, Reader},
};
use postbound_client::emit;
use postbound_tests::{Role, TestDatabase, log_entries};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sqlx::PgConnection;
use std::collections::{BTreeSet, HashMap};

const CONNECTIONS: usize = 20;
const USERS: u32 = 60;

/// A producer's connection and the users it holds, by depth: the transaction's, then each savepoint's.
struct Producer {
    connection: PgConnection,
    held: Vec<BTreeSet<u32>>,
}

impl Producer {
    async fn run(&mut self, statement: &'static str) {
        sqlx::raw_sql(statement).execute(&mut self.connection).await.unwrap();
    }

    /// One step of this producer. A user that another one holds is left alone: the driver must not wait.
    async fn step(&mut self, random: &mut StdRng, free: &[u32]) {
        if self.held.is_empty() {
            self.run("begin").await;
            self.held.push(BTreeSet::new());
        }
        match random.random_range(0..100) {
            0..55 => {
                let user = free[random.random_range(0..free.len())];
                emit(&mut self.connection, &change(&format!("u{user}"))).await.unwrap();
                self.held.last_mut().unwrap().insert(user);
            }
            55..65 => {
                self.run("savepoint s").await;
                self.held.push(BTreeSet::new());
            }
            65..72 if self.held.len() > 1 => {
                self.run("rollback to savepoint s; release savepoint s").await;
                self.held.pop();
            }
            72..80 if self.held.len() > 1 => {
                self.run("release savepoint s").await;
                let kept = self.held.pop().unwrap();
                self.held.last_mut().unwrap().extend(kept);
            }
            80..86 => self.end("rollback").await,
            86..100 => self.end("commit").await,
            _ => {}
        }
    }

    async fn end(&mut self, how: &'static str) {
        self.run(how).await;
        self.held.clear();
    }
}

/// The windows together hold every committed row once, and each user's versions in order.
async fn assert_exactly_the_log(database: &TestDatabase, read: &[Read]) {
    let mut newest: HashMap<&str, i64> = HashMap::new();
    for (_, user, version) in read {
        assert_eq!(newest.insert(user, *version).unwrap_or(0) + 1, *version, "of {user}");
    }
    let log = log_entries(database.superuser()).await;
    let mut read: Vec<_> = read.iter().collect();
    read.sort();
    let read: Vec<_> = read.into_iter().map(|(_, user, version)| (user.as_str(), *version)).collect();
    let log: Vec<_> = log.iter().map(|entry| (entry.user_id.as_str(), entry.version)).collect();
    assert_eq!(read, log);
}

async fn check_seed(seed: u64) {
    let database = TestDatabase::new().await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut reader = Reader::new(&database);
    let mut producers = Vec::new();
    for _ in 0..CONNECTIONS {
        producers.push(Producer { connection: database.connect(Role::Producer).await, held: Vec::new() });
    }
    let mut read = Vec::new();
    for _ in 0..700 {
        if random.random_ratio(1, 8) {
            read.extend(reader.next_window().await);
            continue;
        }
        let turn = random.random_range(0..CONNECTIONS);
        let taken: BTreeSet<u32> = producers
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != turn)
            .flat_map(|(_, producer)| producer.held.iter().flatten().copied())
            .collect();
        let free: Vec<u32> = (0..USERS + CONNECTIONS as u32).filter(|user| !taken.contains(user)).collect();
        if !free.is_empty() {
            producers[turn].step(&mut random, &free).await;
        }
    }
    for producer in &mut producers {
        if !producer.held.is_empty() {
            producer.end("commit").await;
            read.extend(reader.next_window().await);
        }
    }
    read.extend(reader.next_window().await);
    assert!(read.len() > 100, "seed {seed}: {} rows", read.len());
    assert_exactly_the_log(&database, &read).await;
}

#[tokio::test]
async fn windows_over_random_interleavings_miss_nothing_double_nothing_and_keep_each_users_order() {
    for seed in 0..4 {
        check_seed(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_taken_while_twenty_writers_commit_miss_nothing_double_nothing_and_keep_each_users_order() {
    let database = TestDatabase::new().await;
    let pool = database.pool(Role::Producer, 20);
    let writers: Vec<_> = (0..20).map(|seed| tokio::spawn(concurrency::write(pool.clone(), seed))).collect();
    let mut reader = Reader::new(&database);
    let mut read = Vec::new();
    let mut windows = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let window = reader.next_window().await;
        windows += usize::from(!window.is_empty());
        read.extend(window);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    read.extend(reader.next_window().await);
    assert!(windows > 3, "{windows}");
    assert_exactly_the_log(&database, &read).await;
}
