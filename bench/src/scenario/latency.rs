//! From the commit, as the producer sees it, until the receiver has the whole request and answers 2xx.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::live::most_changes_per_second;
use crate::arrivals::{Commit, now_us};
use crate::clients::{Outlet, Stream, create_plain_table};
use crate::installation::{Installation, Target};
use crate::report::{Bound, Row};
use crate::site::Site;
use crate::statistics::Latency;
use crate::yardstick::BareLoop;
use crate::yardstick::publisher::Publisher;

/// Users that change in turn: hardly any change finds its user's last one still on its way.
const USERS: u32 = 10_000;
/// How long a rate is measured in a full run, and how long it runs before.
const MEASURED: Duration = Duration::from_secs(20);
const WARM_UP: Duration = Duration::from_secs(3);

const TARGETS: [Target; 1] = [Target::Backend];

/// What one measurement came to.
struct Measured {
    latency: Latency,
    late_ms: f64,
}

/// `latency`
pub(crate) async fn run(site: &mut Site) -> Result<Vec<Row>> {
    let half = (most_changes_per_second(site).await? / 2.0).round();
    let mut rows = Vec::new();
    for (rate, goals) in [(50.0, false), (500.0, true), (half, false)] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..site.options.repeats {
            ours.push(postbound(site, rate).await?);
            let other = site
                .opponent(async |site| postbound(site, rate).await, async |site| bare_loop(site, rate).await);
            theirs.push(other.await?);
        }
        rows.extend(latency_rows(site, rate, goals, [&ours, &theirs]));
    }
    Ok(rows)
}

fn latency_rows(site: &Site, rate: f64, goals: bool, [ours, theirs]: [&[Measured]; 2]) -> Vec<Row> {
    type Figure = (&'static str, fn(&Latency) -> f64, Option<Bound>);
    let of: [Figure; 3] = [
        ("p50", |latency| latency.p50_ms, Some(Bound::AtMost(10.0))),
        ("p99", |latency| latency.p99_ms, Some(Bound::AtMost(40.0))),
        ("max", |latency| latency.max_ms, None),
    ];
    of.into_iter()
        .map(|(name, value, bound)| {
            let samples = |of: &[Measured]| of.iter().map(|measured| value(&measured.latency)).collect();
            let mut row = Row::new("latency", &format!("{name} at {rate:.0} changes/s"), "ms", samples(ours));
            row = row.against(site.opponent_name("bare loop"), samples(theirs)).inverted();
            if site.options.before.is_none() {
                // One side stores, the other does not: the quotient says nothing.
                row.ratio.0.clear();
            }
            if let Some(bound) = bound.filter(|_| goals) {
                row = row.goal(bound);
            }
            if name == "max" {
                let late = |of: &[Measured]| of.iter().map(|measured| measured.late_ms).fold(0.0, f64::max);
                let count = ours.iter().map(|measured| measured.latency.count).sum::<usize>();
                row = row
                    .note("changes measured", count as f64)
                    .note("postbound clients' latest start, ms", late(ours))
                    .note("other clients' latest start, ms", late(theirs));
            }
            row
        })
        .collect()
}

async fn postbound(site: &mut Site, rate: f64) -> Result<Measured> {
    let mut installation = Installation::set_up(site, &TARGETS).await?;
    installation.start_workers(site.options.workers).await?;
    installation.start_relay().await?;
    site.checkpoint().await?;
    let measured = stream(site, &installation.database_url, &Outlet::Outbox, rate).await?;
    installation.remove(site).await?;
    Ok(measured)
}

async fn bare_loop(site: &mut Site, rate: f64) -> Result<Measured> {
    let mut bare = BareLoop::set_up(site, &TARGETS).await?;
    bare.start_consumer(site).await?;
    let database = site.new_name();
    let url = site.endpoints.postgres.create_database(&database).await?;
    create_plain_table(&url).await?;
    let (letterbox, publishing) = Publisher::connect(&bare.url).await?.letterbox();
    site.checkpoint().await?;
    let measured = stream(site, &url, &Outlet::Table(letterbox), rate).await?;
    publishing.finish().await?;
    bare.remove(site).await?;
    site.endpoints.postgres.drop_database(&database).await?;
    Ok(measured)
}

async fn stream(site: &mut Site, url: &str, outlet: &Outlet, rate: f64) -> Result<Measured> {
    site.receiver.take().await?;
    let stream = Stream { rate, users: USERS, versions_before: 0 };
    let mut running = stream.start(url, outlet).await?;
    running.go_on(site.options.size.time(WARM_UP)).await?;
    let from_us = now_us();
    running.go_on(site.options.size.time(MEASURED)).await?;
    let (commits, late) = running.stop().await?;
    let commits: Vec<Commit> = commits.into_iter().filter(|commit| commit.at_us >= from_us).collect();
    let latency = latency_of(site, &commits, 0).await?;
    Ok(Measured { latency, late_ms: late.as_secs_f64() * 1000.0 })
}

/// Waits until nothing comes any more, then looks at what came; every commit must have arrived.
pub(crate) async fn latency_of(site: &mut Site, commits: &[Commit], door: usize) -> Result<Latency> {
    quiet(site).await?;
    let arrivals = site.receiver.take().await?.of(door);
    let (latency, missing) = arrivals.latency(commits);
    ensure!(missing == 0, "{missing} of {} changes have not arrived", commits.len());
    latency.ok_or_else(|| anyhow::anyhow!("no change was measured"))
}

/// Waits until no state has come for a second.
pub(crate) async fn quiet(site: &mut Site) -> Result<()> {
    const PATIENCE: u32 = 120;
    let mut before = site.receiver.counts().await?.taken;
    for _ in 0..PATIENCE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = site.receiver.counts().await?.taken;
        if now == before {
            return Ok(());
        }
        before = now;
    }
    anyhow::bail!("states still come after {PATIENCE} s")
}
