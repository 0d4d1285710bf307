//! What does not grow with backlog and history: rate, memory, idle CPU.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::{Connection, Executor, PgConnection};

use super::drain::{Drain, note_use, settle};
use crate::clients::fill;
use crate::installation::{Installation, Target};
use crate::person::Person;
use crate::report::{Bound, Row};
use crate::site::Site;
use crate::statistics::Samples;

const TARGETS: [Target; 1] = [Target::Backend];
const SMALL: u32 = 10_000;
/// Half a second each: one alone says little.
const SMALL_REPEATS: u32 = 5;
const MIDDLE: u32 = 100_000;
/// Also the history: 30 minutes at 555 changes a second.
const LARGE: u32 = 1_000_000;
/// How long idle CPU is measured in a full run, and how long everything is left alone before.
const IDLE: Duration = Duration::from_secs(30);
const CALM: Duration = Duration::from_secs(5);
/// The user whose change is committed when all else is through.
const HELD: Person = Person(99_999_999);

/// `growth`
pub(crate) async fn run(site: &mut Site) -> Result<Vec<Row>> {
    let size = site.options.size;
    let (small, middle, large) = (size.of(SMALL), size.of(MIDDLE), size.of(LARGE));
    let (mut at_small, mut at_middle, mut held) = (Vec::new(), Vec::new(), Vec::new());
    let (mut small_drains, mut middle_drains) = (Vec::new(), Vec::new());
    for _ in 0..site.options.repeats {
        let mut rates = Vec::new();
        for _ in 0..SMALL_REPEATS {
            let drain = backlog(site, small).await?;
            rates.push(drain.steady_rate);
            small_drains.push(drain);
        }
        at_small.push(Samples(rates).median().unwrap_or_default());
        let drain = backlog(site, middle).await?;
        at_middle.push(drain.steady_rate);
        middle_drains.push(drain);
        held.push(with_open_transaction(site, middle).await?.steady_rate);
    }
    let mut rows = Vec::new();
    let row = |case: &str, rates: &[f64]| Row::new("growth", case, "deliveries/s, steady", rates.to_vec());
    let name = format!("backlog of {small}");
    rows.push(note_use(row(&name, &at_small), "postbound", &small_drains));
    let at_middle_row = row(&format!("backlog of {middle}"), &at_middle).against(&name, at_small.clone());
    rows.push(note_use(at_middle_row, "postbound", &middle_drains));

    let mut installation = Installation::set_up(site, &TARGETS).await?;
    fill(&installation.database_url, 0..large, 1).await?;
    let at_large = drain(site, &mut installation, large).await?;
    let base = Samples(at_small).median().unwrap_or_default();
    let mut at_large_row = row(&format!("backlog of {large}"), &[at_large.steady_rate])
        .against(&name, vec![base])
        .ratio_goal(Bound::AtLeast(0.9));
    for (tenth, rate) in at_large.tenths.iter().enumerate() {
        at_large_row = at_large_row.note(format!("rate of tenth {:02}", tenth + 1), *rate);
    }
    rows.push(note_use(at_large_row, "postbound", &[at_large]));
    rows.extend(memory(&installation)?);
    installation.stop_relay().await?;
    fill(&installation.database_url, 0..middle, 2).await?;
    let with_history = again(site, &mut installation, middle, large).await?;
    let name = format!("backlog of {middle}");
    let base = Samples(at_middle.clone()).median().unwrap_or_default();
    let case = format!("backlog of {middle}, {large} changes of history");
    rows.push(row(&case, &[with_history.steady_rate]).against(&name, vec![base]));
    let case = format!("backlog of {middle}, a transaction held open throughout");
    rows.push(row(&case, &held).against(&name, at_middle));
    rows.push(idle(site, &installation).await?);
    installation.remove(site).await?;
    Ok(rows)
}

async fn backlog(site: &mut Site, users: u32) -> Result<Drain> {
    let mut installation = Installation::set_up(site, &TARGETS).await?;
    fill(&installation.database_url, 0..users, 1).await?;
    let drain = drain(site, &mut installation, users).await?;
    installation.remove(site).await?;
    Ok(drain)
}

async fn drain(site: &mut Site, installation: &mut Installation, users: u32) -> Result<Drain> {
    site.checkpoint().await?;
    installation.start_workers(site.options.workers).await?;
    site.receiver.take().await?;
    let before = site.usage(&installation.workers);
    installation.start_relay().await?;
    Ok(settle(site, installation, &TARGETS, users, &before, None).await?.0)
}

/// Another backlog for an installation whose workers run: changes of the first `users` of its `all`.
async fn again(site: &mut Site, installation: &mut Installation, users: u32, all: u32) -> Result<Drain> {
    site.checkpoint().await?;
    site.receiver.take().await?;
    installation.start_relay().await?;
    let within = super::drain::patience(users.into());
    site.receiver.wait_for(super::drain::wanted(&TARGETS, users), within).await?;
    installation.wait_for_settled(all, within).await?;
    Ok(super::drain::finish(site, std::collections::BTreeMap::new(), None, None).await?.0)
}

/// A transaction with a change of its own begins before all others and is committed after all are delivered; its change
/// must arrive too.
async fn with_open_transaction(site: &mut Site, users: u32) -> Result<Drain> {
    let mut installation = Installation::set_up(site, &TARGETS).await?;
    let mut holder = PgConnection::connect(&installation.database_url).await?;
    holder.execute("begin isolation level repeatable read").await?;
    sqlx::query(
        "insert into postbound.outbox (tenant_id, user_id, action, data) values ($1, $2, 'created', $3)",
    )
    .bind(HELD.tenant())
    .bind(HELD.id())
    .bind(HELD.state(1))
    .execute(&mut holder)
    .await?;
    fill(&installation.database_url, 0..users, 1).await?;
    let drain = drain(site, &mut installation, users).await?;
    holder.execute("commit").await?;
    let within = Duration::from_secs(30);
    site.receiver
        .wait_for(super::drain::wanted(&TARGETS, 1), within)
        .await
        .context("the change of the transaction held open is lost")?;
    holder.close().await?;
    installation.remove(site).await?;
    Ok(drain)
}

/// The most memory each role has had.
fn memory(installation: &Installation) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for process in installation.relay.iter().chain(&installation.workers) {
        let bytes = process.memory_peak_bytes().context("a role has no memory")?;
        let case = format!("peak memory of the {}", process.name);
        let row = Row::new("growth", &case, "MB", vec![bytes as f64 / 1e6]);
        rows.push(row.goal(Bound::AtMost(150.0)));
    }
    Ok(rows)
}

async fn idle(site: &Site, installation: &Installation) -> Result<Row> {
    let (calm, time) = (site.options.size.time(CALM), site.options.size.time(IDLE));
    tokio::time::sleep(calm).await;
    let roles = || installation.workers.iter().chain(&installation.relay);
    let before = site.usage(roles());
    tokio::time::sleep(time).await;
    let used = site.usage(roles()).since(&before);
    let percent = |name: &str| used.get(name).copied().unwrap_or(0.0) * 100.0 / time.as_secs_f64();
    let mut row = Row::new(
        "growth",
        "idle CPU of all roles",
        "% of a core",
        vec![percent("relay") + percent("worker")],
    )
    .goal(Bound::AtMost(2.0));
    for name in ["relay", "worker", "postgres", "rabbitmq"] {
        row = row.note(format!("{name}, % of a core"), percent(name));
    }
    Ok(row)
}
