//! What the outbox costs a producer: the same clients write to it and to a plain table, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;

use crate::clients::{CLIENTS, create_plain_table};
use crate::installation::{Installation, Target};
use crate::person::{Person, action};
use crate::report::{Bound, Row};
use crate::site::Site;

/// Users that change again and again.
const HOT: u32 = 1000;
/// Changes of one `emit_many`.
const MANY: u32 = 100;

/// How the users of a case are chosen.
#[derive(Clone, Copy, Debug)]
enum Users {
    /// Each changes once.
    Distinct,
    /// The same thousand, which are there already.
    Hot,
}

/// `emit`
pub(crate) async fn run(site: &mut Site) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (case, users, many, goal) in [
        ("new users, 1 change a transaction", Users::Distinct, 1, Some(Bound::AtMost(2.0))),
        ("1,000 users, 1 change a transaction", Users::Hot, 1, Some(Bound::AtMost(2.0))),
        ("emit_many of 100 new users", Users::Distinct, MANY, None),
    ] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..site.options.repeats {
            let installation = Installation::set_up(site, &[Target::Backend]).await?;
            let url = &installation.database_url;
            create_plain_table(url).await?;
            if matches!(users, Users::Hot) {
                crate::clients::fill(url, 0..HOT, 1).await?;
            }
            let statements = match many {
                1 => [EMIT, INSERT],
                _ => [EMIT_MANY, INSERT_MANY],
            };
            for (statement, samples) in statements.into_iter().zip([&mut ours, &mut plain]) {
                site.checkpoint().await?;
                let time = site.options.size.time(Duration::from_secs(8));
                samples.push(changes_per_second(url, statement, users, many, time).await?);
            }
            installation.remove(site).await?;
        }
        let row = Row::new("emit", &format!("{CLIENTS} clients, {case}"), "changes/s", ours);
        let row = row.against("plain insert", plain).inverted();
        rows.push(match goal {
            Some(goal) => row.ratio_goal(goal),
            None => row,
        });
    }
    Ok(rows)
}

const EMIT: &str = "-- bench_emit
    insert into postbound.outbox (tenant_id, user_id, action, data) values ($1, $2, $3, $4) returning version";
const INSERT: &str = "-- bench_insert
    insert into bench.change (tenant_id, user_id, action, data) values ($1, $2, $3, $4::jsonb) returning id";
const EMIT_MANY: &str = "-- bench_emit_many
    select count(*) from postbound.emit_many($1)";
const INSERT_MANY: &str = "-- bench_insert_many
    insert into bench.change (tenant_id, user_id, action, data)
    select r.tenant_id, r.user_id, r.action, r.data
    from jsonb_to_recordset($1) as r (tenant_id text, user_id text, action text, data jsonb)";

async fn changes_per_second(
    url: &str,
    statement: &'static str,
    users: Users,
    many: u32,
    time: Duration,
) -> Result<f64> {
    let next = Arc::new(AtomicU32::new(0));
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(PgConnection::connect(url).await?);
    }
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for mut connection in connections {
        let next = next.clone();
        clients.spawn(async move {
            let mut changes = 0;
            while started.elapsed() < time {
                let first = next.fetch_add(many, Ordering::Relaxed);
                match many {
                    1 => one(&mut connection, statement, users, first).await?,
                    _ => several(&mut connection, statement, first, many).await?,
                }
                changes += many;
            }
            connection.close().await?;
            anyhow::Ok(changes)
        });
    }
    let mut changes = 0;
    while let Some(ended) = clients.join_next().await {
        changes += ended??;
    }
    Ok(f64::from(changes) / started.elapsed().as_secs_f64())
}

async fn one(
    connection: &mut PgConnection,
    statement: &'static str,
    users: Users,
    number: u32,
) -> Result<()> {
    let (person, version) = match users {
        Users::Distinct => (Person(number), 1),
        Users::Hot => (Person(number % HOT), 2 + number / HOT),
    };
    let _: i64 = sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(person.tenant())
        .bind(person.id())
        .bind(action(version))
        .bind(person.state(version))
        .fetch_one(connection)
        .await?;
    Ok(())
}

async fn several(
    connection: &mut PgConnection,
    statement: &'static str,
    first: u32,
    many: u32,
) -> Result<()> {
    let changes: Vec<_> = (first..first + many)
        .map(|number| {
            let person = Person(number);
            let state: serde_json::Value = serde_json::from_str(&person.state(1)).unwrap_or_default();
            json!({"tenant_id": person.tenant(), "user_id": person.id(), "action": action(1), "data": state})
        })
        .collect();
    sqlx::query(AssertSqlSafe(statement)).bind(serde_json::Value::from(changes)).execute(connection).await?;
    Ok(())
}
