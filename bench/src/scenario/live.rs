//! A live stream: clients commit as fast as they can, and everything must be through.
//!
//! Counted from the first transaction's begin until the last change is settled, so a backlog hides nothing.

use anyhow::Result;

use super::drain::{Drain, annotate, finish, patience, rates, settle, wanted};
use crate::clients::{CLIENTS, Outlet, closed_loop, create_plain_table};
use crate::installation::{Installation, Target};
use crate::report::{Bound, Row};
use crate::site::Site;
use crate::statistics::Samples;
use crate::yardstick::BareLoop;
use crate::yardstick::publisher::Publisher;

/// Changes of a full run.
const CHANGES: u32 = 100_000;

const TARGETS: [Target; 1] = [Target::Backend];

/// `live`
pub(crate) async fn run(site: &mut Site) -> Result<Vec<Row>> {
    let changes = site.options.size.of(CHANGES);
    let mut rows = Vec::new();
    for tx_rows in [1, 10] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..site.options.repeats {
            ours.push(postbound(site, changes, tx_rows).await?);
            let other = site.opponent(
                async |site| postbound(site, changes, tx_rows).await,
                async |site| bare_loop(site, changes, tx_rows).await,
            );
            theirs.push(other.await?);
        }
        if tx_rows == 1 {
            site.live_rate = Samples(rates(&ours)).median();
        }
        let plural = if tx_rows == 1 { "change" } else { "changes" };
        let case = format!("1 target, {CLIENTS} clients, {tx_rows} {plural} a transaction");
        let row = Row::new("live", &case, "changes/s", rates(&ours))
            .against(site.opponent_name("plain inserts and bare loop"), rates(&theirs))
            .ratio_goal(site.goal(Bound::AtLeast(1.2)));
        rows.push(annotate(annotate(row, "postbound", &ours), "other", &theirs));
    }
    Ok(rows)
}

/// Changes a second of a live stream: the one measured in this run, or else a short one measured now.
pub(crate) async fn most_changes_per_second(site: &mut Site) -> Result<f64> {
    if let Some(rate) = site.live_rate {
        return Ok(rate);
    }
    let changes = site.options.size.of(CHANGES) / 2;
    let rate = postbound(site, changes, 1).await?.rate;
    site.live_rate = Some(rate);
    Ok(rate)
}

async fn postbound(site: &mut Site, changes: u32, tx_rows: u32) -> Result<Drain> {
    let mut installation = Installation::set_up(site, &TARGETS).await?;
    installation.start_workers(site.options.workers).await?;
    installation.start_relay().await?;
    site.checkpoint().await?;
    site.receiver.take().await?;
    let before = site.usage(installation.workers.iter().chain(&installation.relay));
    let from_us = closed_loop(&installation.database_url, &Outlet::Outbox, changes, tx_rows).await?;
    let (drain, _) = settle(site, &installation, &TARGETS, changes, &before, Some(from_us)).await?;
    installation.remove(site).await?;
    Ok(drain)
}

async fn bare_loop(site: &mut Site, changes: u32, tx_rows: u32) -> Result<Drain> {
    let mut bare = BareLoop::set_up(site, &TARGETS).await?;
    bare.start_consumer(site).await?;
    let database = site.new_name();
    let url = site.endpoints.postgres.create_database(&database).await?;
    create_plain_table(&url).await?;
    let (letterbox, publishing) = Publisher::connect(&bare.url).await?.letterbox();
    site.checkpoint().await?;
    site.receiver.take().await?;
    let before = site.usage(&bare.consumer);
    let from_us = closed_loop(&url, &Outlet::Table(letterbox), changes, tx_rows).await?;
    site.receiver.wait_for(wanted(&TARGETS, changes), patience(changes.into())).await?;
    let cpu = site.usage(&bare.consumer).since(&before);
    publishing.finish().await?;
    let (drain, _) = finish(site, cpu, Some(from_us), None).await?;
    bare.remove(site).await?;
    site.endpoints.postgres.drop_database(&database).await?;
    Ok(drain)
}
