//! One measurement of a backlog or a stream: how fast it went, what it used.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::arrivals::{Arrivals, DOORS};
use crate::installation::{Installation, Target};
use crate::report::Row;
use crate::site::Site;
use crate::statements;
use crate::statistics::Samples;
use crate::usage::Usage;

/// Deliveries a second below which a measurement is given up.
const SLOWEST: f64 = 500.0;

/// What one measurement came to.
pub(crate) struct Drain {
    /// Deliveries a second, from the first arrival until all are settled.
    pub(crate) rate: f64,
    /// Deliveries a second without the first and the last tenth of them.
    pub(crate) steady_rate: f64,
    /// Deliveries a second in each tenth of them.
    pub(crate) tenths: Vec<f64>,
    /// HTTP requests.
    pub(crate) requests: u64,
    /// States that came more than once.
    pub(crate) duplicates: usize,
    /// CPU seconds, by process.
    pub(crate) cpu: BTreeMap<String, f64>,
    /// What CPU is counted by: states that arrived, or the changes they stand for.
    pub(crate) units: usize,
}

/// A time within which so many deliveries must be done.
pub(crate) fn patience(deliveries: u64) -> Duration {
    Duration::from_secs(60) + Duration::from_secs_f64(deliveries as f64 / SLOWEST)
}

/// So many states at each target's door.
pub(crate) fn wanted(targets: &[Target], each: u32) -> [u64; DOORS] {
    let mut wanted = [0; DOORS];
    for target in targets {
        wanted[target.door()] = u64::from(each);
    }
    wanted
}

/// Waits until every user of a running installation is delivered and settled; `from_us` is when it began, if not with
/// the first arrival.
pub(crate) async fn settle(
    site: &mut Site,
    installation: &Installation,
    targets: &[Target],
    users: u32,
    before: &Usage,
    from_us: Option<u64>,
) -> Result<(Drain, Arrivals)> {
    let patience = patience(u64::from(users) * targets.len() as u64);
    site.receiver.wait_for(wanted(targets, users), patience).await?;
    let settled_us = installation.wait_for_settled(users, patience).await?;
    let roles = installation.workers.iter().chain(&installation.relay);
    let cpu = site.usage(roles).since(before);
    if site.options.statements {
        statements::tell(&installation.pool, users).await?;
    }
    let letters = installation.dead_letters().await?;
    ensure!(letters == 0, "{letters} dead letters");
    finish(site, cpu, from_us, Some(settled_us)).await
}

/// Takes what arrived and works out the rates; it ended with the last arrival where no other time is given.
pub(crate) async fn finish(
    site: &mut Site,
    cpu: BTreeMap<String, f64>,
    from_us: Option<u64>,
    to_us: Option<u64>,
) -> Result<(Drain, Arrivals)> {
    let requests = site.receiver.counts().await?.requests.iter().sum();
    let arrivals = site.receiver.take().await?;
    let (first, last) = arrivals.span_us().unwrap_or_default();
    let micros = to_us.unwrap_or(last).saturating_sub(from_us.unwrap_or(first)).max(1);
    let deliveries = arrivals.len();
    let rate = deliveries as f64 * 1e6 / micros as f64;
    let drain = Drain {
        rate,
        steady_rate: arrivals.steady_rate().unwrap_or(rate),
        tenths: arrivals.rate_by_tenth(),
        requests,
        duplicates: arrivals.duplicates(),
        cpu,
        units: deliveries,
    };
    Ok((drain, arrivals))
}

/// The rates of several measurements.
pub(crate) fn rates(drains: &[Drain]) -> Vec<f64> {
    drains.iter().map(|drain| drain.rate).collect()
}

/// Notes of what they used and saw, and their steady rate: medians.
pub(crate) fn annotate(row: Row, whose: &str, drains: &[Drain]) -> Row {
    let steady_rate = Samples(drains.iter().map(|drain| drain.steady_rate).collect()).median();
    note_use(row, whose, drains).note(format!("{whose} steady rate"), steady_rate.unwrap_or(0.0))
}

/// Notes of what they used and saw: medians.
pub(crate) fn note_use(mut row: Row, whose: &str, drains: &[Drain]) -> Row {
    let median =
        |of: &dyn Fn(&Drain) -> f64| Samples(drains.iter().map(of).collect()).median().unwrap_or(0.0);
    let mut processes: Vec<&String> = drains.iter().flat_map(|drain| drain.cpu.keys()).collect();
    processes.sort();
    processes.dedup();
    for process in processes {
        let micros = median(&|drain: &Drain| {
            drain.cpu.get(process).copied().unwrap_or(0.0) * 1e6 / drain.units.max(1) as f64
        });
        row = row.note(format!("{whose} cpu {process}"), micros);
    }
    let duplicates: usize = drains.iter().map(|drain| drain.duplicates).sum();
    row.note(format!("{whose} duplicates"), duplicates as f64)
}
