//! Throughput from a standing backlog: all changes are in the outbox before the relay starts.

use anyhow::Result;

use super::drain::{Drain, annotate, finish, patience, rates, settle, wanted};
use crate::clients::fill;
use crate::installation::{Installation, Target};
use crate::report::{Bound, Row};
use crate::site::Site;
use crate::yardstick::BareLoop;

/// Users of a full run.
const USERS: u32 = 100_000;
/// Users whose changes wait next to one another in the log.
const CROWD: u32 = 1000;

/// `backlog-1`
pub(crate) async fn one_target(site: &mut Site) -> Result<Vec<Row>> {
    paired(site, "backlog-1", "1 target, distinct users, one POST each", &[Target::Backend]).await
}

/// `backlog-2`
pub(crate) async fn two_targets(site: &mut Site) -> Result<Vec<Row>> {
    let targets = [Target::Backend, Target::Second];
    paired(site, "backlog-2", "2 targets, distinct users, one POST each", &targets).await
}

async fn paired(site: &mut Site, scenario: &str, case: &str, targets: &[Target]) -> Result<Vec<Row>> {
    let users = site.options.size.of(USERS);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..site.options.repeats {
        ours.push(postbound(site, targets, users, 1).await?);
        let other = site.opponent(
            async |site| postbound(site, targets, users, 1).await,
            async |site| bare_loop(site, targets, users).await,
        );
        theirs.push(other.await?);
    }
    let row = Row::new(scenario, case, "deliveries/s", rates(&ours))
        .against(site.opponent_name("bare loop"), rates(&theirs))
        .ratio_goal(site.goal(Bound::AtLeast(1.6)));
    Ok(vec![annotate(annotate(row, "postbound", &ours), "other", &theirs)])
}

/// `coalesced`: ten changes of each user. What counts is changes that are through, sent or folded.
pub(crate) async fn coalesced(site: &mut Site) -> Result<Vec<Row>> {
    const CHANGES: u32 = 10;
    let users = site.options.size.of(USERS) / CHANGES;
    let (mut rates, mut drains) = (Vec::new(), Vec::new());
    let mut requests = 0;
    for _ in 0..site.options.repeats {
        let mut drain = postbound(site, &[Target::Backend], users, CHANGES).await?;
        rates.push(drain.rate * f64::from(users * CHANGES) / drain.units as f64);
        requests += drain.requests;
        drain.units = usize::try_from(users * CHANGES)?;
        drains.push(drain);
    }
    let changes = f64::from(users * CHANGES) * f64::from(site.options.repeats);
    let row = Row::new("coalesced", "1 target, 10 changes per user", "changes/s", rates)
        .note("requests per change", requests as f64 / changes);
    Ok(vec![annotate(row, "postbound", &drains)])
}

/// `crm-batch`: up to 100 users a request, no rate limit.
pub(crate) async fn crm_batch(site: &mut Site) -> Result<Vec<Row>> {
    let users = site.options.size.of(USERS);
    let mut drains = Vec::new();
    for _ in 0..site.options.repeats {
        drains.push(postbound(site, &[Target::Crm], users, 1).await?);
    }
    let per_request: f64 =
        drains.iter().map(|drain| drain.units as f64 / drain.requests.max(1) as f64).sum::<f64>();
    let row = Row::new("crm-batch", "1 target, distinct users of 10 tenants", "users/s", rates(&drains))
        .note("users per request", per_request / drains.len() as f64);
    Ok(vec![annotate(row, "postbound", &drains)])
}

/// Fills the outbox, lets the workers wait for it, then starts the relay.
async fn postbound(site: &mut Site, targets: &[Target], users: u32, changes: u32) -> Result<Drain> {
    let mut installation = Installation::set_up(site, targets).await?;
    // Where users have several changes, a crowd's come one after the other: that is when they can be folded.
    let crowd = if changes > 1 { CROWD } else { users };
    for first in (0..users).step_by(crowd as usize) {
        for version in 1..=changes {
            fill(&installation.database_url, first..users.min(first + crowd), version).await?;
        }
    }
    site.checkpoint().await?;
    installation.start_workers(site.options.workers).await?;
    site.receiver.take().await?;
    let before = site.usage(&installation.workers);
    installation.start_relay().await?;
    let (drain, _) = settle(site, &installation, targets, users, &before, None).await?;
    installation.remove(site).await?;
    Ok(drain)
}

/// The same users out of memory: the bare loop has no outbox.
async fn bare_loop(site: &mut Site, targets: &[Target], users: u32) -> Result<Drain> {
    let mut bare = BareLoop::set_up(site, targets).await?;
    bare.start_consumer(site).await?;
    site.checkpoint().await?;
    site.receiver.take().await?;
    let before = site.usage(&bare.consumer);
    let mut publisher = bare.start_publisher(site, users)?;
    let within = patience(u64::from(users) * targets.len() as u64);
    site.receiver.wait_for(wanted(targets, users), within).await?;
    publisher.logged("published").await?;
    let cpu = site.usage(bare.consumer.iter().chain([&publisher])).since(&before);
    publisher.stop().await?;
    let (drain, _) = finish(site, cpu, None, None).await?;
    bare.remove(site).await?;
    Ok(drain)
}
