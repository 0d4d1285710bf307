//! The clients of every scenario: they fill the outbox, or change users live, in closed and open loop.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::arrivals::{Commit, now_us};
use crate::person::{Person, action};
use crate::yardstick::publisher::{Letterbox, Note};

/// Connections that change users at the same time.
pub(crate) const CLIENTS: u32 = 16;

/// Where a change goes.
#[derive(Clone)]
pub(crate) enum Outlet {
    /// Into Postbound's outbox.
    Outbox,
    /// Into a plain table, and once that is committed to the bare loop's publisher.
    Table(Letterbox),
}

impl Outlet {
    fn statement(&self) -> &'static str {
        match self {
            Self::Outbox => {
                "-- bench_emit
                insert into postbound.outbox (tenant_id, user_id, action, data) values ($1, $2, $3, $4) returning version"
            }
            Self::Table(_) => {
                "-- bench_insert
                insert into bench.change (tenant_id, user_id, action, data) values ($1, $2, $3, $4::jsonb) returning id"
            }
        }
    }
}

/// Makes the plain table the bare loop's clients write to: the columns of the outbox, no index but the key.
pub(crate) async fn create_plain_table(database_url: &str) -> Result<()> {
    let mut owner = PgConnection::connect(database_url).await?;
    sqlx::raw_sql(
        "create schema bench;
        create table bench.change (
            id bigint generated always as identity primary key, tenant_id text not null, user_id text not null,
            action text not null, data jsonb not null, logged_at timestamptz not null default clock_timestamp()
        )",
    )
    .execute(&mut owner)
    .await?;
    Ok(owner.close().await?)
}

/// Puts one change of each of these users into the outbox, a thousand a transaction, over a few connections.
pub(crate) async fn fill(database_url: &str, users: Range<u32>, version: u32) -> Result<()> {
    const ROWS: u32 = 1000;
    const CONNECTIONS: u32 = 4;
    let next = Arc::new(AtomicU32::new(users.start));
    let mut fillers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut connection = PgConnection::connect(database_url).await?;
        let next = next.clone();
        fillers.spawn(async move {
            loop {
                let first = next.fetch_add(ROWS, Ordering::Relaxed);
                if first >= users.end {
                    return anyhow::Ok(connection.close().await?);
                }
                let people = (first..users.end.min(first + ROWS)).map(Person);
                emit_rows(&mut connection, people, version).await?;
            }
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled??;
    }
    Ok(())
}

async fn emit_rows(
    connection: &mut PgConnection,
    people: impl Iterator<Item = Person>,
    version: u32,
) -> Result<()> {
    let (mut tenants, mut users, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for person in people {
        tenants.push(person.tenant());
        users.push(person.id());
        states.push(person.state(version));
    }
    sqlx::query(
        "-- bench_fill
        insert into postbound.outbox (tenant_id, user_id, action, data)
        select t, u, $4, d from unnest($1::text[], $2::text[], $3::text[]) as r (t, u, d)",
    )
    .bind(tenants)
    .bind(users)
    .bind(states)
    .bind(action(version))
    .execute(connection)
    .await?;
    Ok(())
}

/// Commits `count` changes of as many users as fast as the clients can, `rows` a transaction. Returns when the last
/// transaction is committed, with the time the first began ([`now_us`]).
pub(crate) async fn closed_loop(database_url: &str, outlet: &Outlet, count: u32, rows: u32) -> Result<u64> {
    let next = Arc::new(AtomicU32::new(0));
    let mut clients = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(PgConnection::connect(database_url).await?);
    }
    let started_us = now_us();
    for mut connection in connections {
        let (next, outlet) = (next.clone(), outlet.clone());
        clients.spawn(async move {
            loop {
                let first = next.fetch_add(rows, Ordering::Relaxed);
                if first >= count {
                    return anyhow::Ok(connection.close().await?);
                }
                let people: Vec<Person> = (first..count.min(first + rows)).map(Person).collect();
                transact(&mut connection, &outlet, &people).await?;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(started_us)
}

async fn transact(connection: &mut PgConnection, outlet: &Outlet, people: &[Person]) -> Result<()> {
    if let [person] = people {
        change(connection, outlet, *person, 1).await?;
    } else {
        let mut tx = connection.begin().await?;
        for person in people {
            change(&mut tx, outlet, *person, 1).await?;
        }
        tx.commit().await?;
    }
    if let Outlet::Table(letterbox) = outlet {
        for person in people {
            letterbox.post(Note { person: *person, version: 1 }).await?;
        }
    }
    Ok(())
}

async fn change(connection: &mut PgConnection, outlet: &Outlet, person: Person, version: u32) -> Result<i64> {
    let returned = sqlx::query_scalar(AssertSqlSafe(outlet.statement()))
        .bind(person.tenant())
        .bind(person.id())
        .bind(action(version))
        .bind(person.state(version))
        .fetch_one(connection)
        .await?;
    Ok(returned)
}

/// A steady stream of changes, each a transaction by itself, one user after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// Changes a second.
    pub(crate) rate: f64,
    /// Users that change in turn.
    pub(crate) users: u32,
    /// The version each user has before.
    pub(crate) versions_before: u32,
}

/// A running [`Stream`].
pub(crate) struct Running {
    clients: JoinSet<Result<Vec<Commit>>>,
    stop: CancellationToken,
    late_us: Arc<AtomicU32>,
}

impl Stream {
    /// Connects and begins. A client that is late because the database was slow catches up: no change is left out.
    pub(crate) async fn start(self, database_url: &str, outlet: &Outlet) -> Result<Running> {
        let next = Arc::new(AtomicU32::new(0));
        let stop = CancellationToken::new();
        let late_us = Arc::new(AtomicU32::new(0));
        let mut connections = Vec::new();
        for _ in 0..CLIENTS {
            let mut connection = PgConnection::connect(database_url).await?;
            // The first statement of a session prepares it.
            sqlx::query("select 1").execute(&mut connection).await?;
            connections.push(connection);
        }
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for connection in connections {
            let client = Client {
                connection,
                stream: self,
                outlet: outlet.clone(),
                started,
                next: next.clone(),
                stop: stop.clone(),
                late_us: late_us.clone(),
            };
            clients.spawn(client.run());
        }
        Ok(Running { clients, stop, late_us })
    }
}

impl Running {
    /// Lets the changes under way end; gives all that were committed, and by how much the latest was late.
    pub(crate) async fn stop(mut self) -> Result<(Vec<Commit>, Duration)> {
        self.stop.cancel();
        let mut commits = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            commits.extend(ended??);
        }
        Ok((commits, Duration::from_micros(self.late_us.load(Ordering::Relaxed).into())))
    }

    /// Lets it go on for a time; fails if a client fails in it.
    pub(crate) async fn go_on(&mut self, time: Duration) -> Result<()> {
        let Ok(ended) = tokio::time::timeout(time, self.clients.join_next()).await else { return Ok(()) };
        ended.context("no client runs")??.context("a client failed")?;
        bail!("a client has ended")
    }
}

struct Client {
    connection: PgConnection,
    stream: Stream,
    outlet: Outlet,
    started: Instant,
    next: Arc<AtomicU32>,
    stop: CancellationToken,
    late_us: Arc<AtomicU32>,
}

impl Client {
    async fn run(mut self) -> Result<Vec<Commit>> {
        let mut commits = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = self.started + Duration::from_secs_f64(f64::from(number) / self.stream.rate);
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = self.stop.cancelled() => break,
            }
            let late = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
            self.late_us.fetch_max(late, Ordering::Relaxed);
            let person = Person(number % self.stream.users);
            let version = number / self.stream.users + 1 + self.stream.versions_before;
            let returned = change(&mut self.connection, &self.outlet, person, version).await?;
            let at_us = now_us();
            let version = match &self.outlet {
                Outlet::Outbox => u32::try_from(returned)?,
                Outlet::Table(letterbox) => {
                    letterbox.post(Note { person, version }).await?;
                    version
                }
            };
            commits.push(Commit { person, version, at_us });
        }
        self.connection.close().await?;
        Ok(commits)
    }
}
