//! The relay alone, and the worker alone, each against the same half of the bare loop.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::drain::{Drain, annotate, finish, patience, rates, settle, wanted};
use crate::clients::fill;
use crate::installation::{Installation, Target};
use crate::report::Row;
use crate::site::Site;
use crate::yardstick::BareLoop;

/// Events of a full run.
const EVENTS: u32 = 100_000;

const TARGETS: [Target; 1] = [Target::Backend];

/// How fast one half was, and the CPU seconds it used.
type Half = (f64, BTreeMap<String, f64>);

/// `relay`: from the outbox to the confirmed message, nobody consumes.
pub(crate) async fn relay(site: &mut Site) -> Result<Vec<Row>> {
    let events = site.options.size.of(EVENTS);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..site.options.repeats {
        ours.push(relaying(site, events).await?);
        let other = site
            .opponent(async |site| relaying(site, events).await, async |site| publishing(site, events).await);
        theirs.push(other.await?);
    }
    let rates = |halves: &[Half]| halves.iter().map(|(rate, _)| *rate).collect();
    let mut row = Row::new("relay", "outbox to confirmed message, nobody consumes", "events/s", rates(&ours))
        .against(site.opponent_name("publishing alone"), rates(&theirs));
    for (whose, halves) in [("postbound", ours), ("other", theirs)] {
        for (process, seconds) in halves.into_iter().next().unwrap_or_default().1 {
            row = row.note(format!("{whose} cpu {process}"), seconds * 1e6 / f64::from(events));
        }
    }
    Ok(vec![row])
}

async fn relaying(site: &mut Site, events: u32) -> Result<Half> {
    let mut installation = Installation::set_up(site, &TARGETS).await?;
    fill(&installation.database_url, 0..events, 1).await?;
    site.checkpoint().await?;
    let before = site.usage([]);
    let begun = Instant::now();
    installation.start_relay().await?;
    let first = installation.wait_for_published(1.0, Duration::from_secs(60)).await?;
    let first_seen = Instant::now();
    let all = f64::from(events);
    installation.wait_for_published(all, patience(events.into())).await?;
    // Without the relay's start; a few events are through before the first look.
    let rate = match all - first {
        0.0 => all / begun.elapsed().as_secs_f64(),
        rest => rest / first_seen.elapsed().as_secs_f64(),
    };
    let cpu = site.usage(&installation.relay).since(&before);
    installation.remove(site).await?;
    Ok((rate, cpu))
}

async fn publishing(site: &mut Site, events: u32) -> Result<Half> {
    let queues = BareLoop::set_up(site, &TARGETS).await?;
    let before = site.usage([]);
    let mut publisher = queues.start_publisher(site, events)?;
    let line = publisher.logged("published").await?;
    let seconds: f64 = line.rsplit('=').next().context("no time")?.parse()?;
    let cpu = site.usage([&publisher]).since(&before);
    publisher.stop().await?;
    queues.remove(site).await?;
    Ok((f64::from(events) / seconds, cpu))
}

/// `worker`: from a full queue to the settled delivery, nobody publishes.
pub(crate) async fn worker(site: &mut Site) -> Result<Vec<Row>> {
    let events = site.options.size.of(EVENTS);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..site.options.repeats {
        ours.push(working(site, events).await?);
        let other = site
            .opponent(async |site| working(site, events).await, async |site| consuming(site, events).await);
        theirs.push(other.await?);
    }
    let case = "full queues to settled deliveries, nobody publishes";
    let row = Row::new("worker", case, "deliveries/s", rates(&ours))
        .against(site.opponent_name("consuming and posting alone"), rates(&theirs));
    Ok(vec![annotate(annotate(row, "postbound", &ours), "other", &theirs)])
}

async fn working(site: &mut Site, events: u32) -> Result<Drain> {
    let mut installation = Installation::set_up(site, &TARGETS).await?;
    fill(&installation.database_url, 0..events, 1).await?;
    installation.start_relay().await?;
    installation.wait_for_published(f64::from(events), patience(events.into())).await?;
    installation.stop_relay().await?;
    site.checkpoint().await?;
    site.receiver.take().await?;
    let before = site.usage([]);
    installation.start_workers(site.options.workers).await?;
    let (drain, _) = settle(site, &installation, &TARGETS, events, &before, None).await?;
    installation.remove(site).await?;
    Ok(drain)
}

async fn consuming(site: &mut Site, events: u32) -> Result<Drain> {
    let mut queues = BareLoop::set_up(site, &TARGETS).await?;
    let mut publisher = queues.start_publisher(site, events)?;
    publisher.logged("published").await?;
    publisher.stop().await?;
    site.receiver.take().await?;
    let before = site.usage([]);
    queues.start_consumer(site).await?;
    site.receiver.wait_for(wanted(&TARGETS, events), patience(events.into())).await?;
    let cpu = site.usage(&queues.consumer).since(&before);
    let (drain, _) = finish(site, cpu, None, None).await?;
    queues.remove(site).await?;
    Ok(drain)
}
