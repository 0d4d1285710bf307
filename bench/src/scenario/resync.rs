//! Live latency beside a resync of all users, and how long that takes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::drain::{patience, wanted};
use super::latency::quiet;
use crate::arrivals::{Commit, now_us};
use crate::clients::{Outlet, Stream, fill};
use crate::installation::{Installation, Target};
use crate::report::Row;
use crate::site::Site;
use crate::statistics::Latency;

const TARGETS: [Target; 1] = [Target::Backend];
/// Users of a full run.
const USERS: u32 = 200_000;
/// Live changes a second, and the users they are of.
const RATE: f64 = 200.0;
const LIVE_USERS: u32 = 1000;
/// How long live latency is measured without a resync in a full run.
const WITHOUT: Duration = Duration::from_secs(30);
const RESYNC_MAX: Duration = Duration::from_secs(900);

/// `resync`
pub(crate) async fn run(site: &mut Site) -> Result<Vec<Row>> {
    let users = site.options.size.of(USERS);
    let mut installation = Installation::set_up(site, &TARGETS).await?;
    fill(&installation.database_url, 0..users, 1).await?;
    site.checkpoint().await?;
    site.receiver.take().await?;
    installation.start_workers(site.options.workers).await?;
    installation.start_relay().await?;
    site.receiver.wait_for(wanted(&TARGETS, users), patience(users.into())).await?;
    installation.wait_for_settled(users, patience(users.into())).await?;
    wait_for_states(&installation, users).await?;
    site.checkpoint().await?;
    site.receiver.take().await?;

    let stream = Stream { rate: RATE, users: LIVE_USERS.min(users), versions_before: 1 };
    let mut running = stream.start(&installation.database_url, &Outlet::Outbox).await?;
    running.go_on(site.options.size.time(Duration::from_secs(5))).await?;
    let without_us = now_us();
    running.go_on(site.options.size.time(WITHOUT)).await?;
    let with_us = now_us();
    installation.run("resync", &["resync", "--target", "backend", "--all", "--yes"]).await?;
    let created_us = now_us();
    let deadline = Instant::now() + RESYNC_MAX;
    loop {
        let state: String =
            sqlx::query_scalar("select state from postbound.job order by job_id desc limit 1")
                .fetch_one(&installation.pool)
                .await?;
        if state == "done" {
            break;
        }
        ensure!(["filling", "running"].contains(&state.as_str()), "the resync is {state}");
        ensure!(Instant::now() < deadline, "the resync is not done within {RESYNC_MAX:?}");
        running.go_on(Duration::from_millis(100)).await?;
    }
    let done_us = now_us();
    let (commits, late) = running.stop().await?;
    quiet(site).await?;
    let arrivals = site.receiver.take().await?;
    installation.remove(site).await?;

    let phase = |from: u64, to: u64| -> Result<Latency> {
        let commits: Vec<Commit> =
            commits.iter().copied().filter(|commit| (from..to).contains(&commit.at_us)).collect();
        let (latency, missing) = arrivals.latency(&commits);
        ensure!(missing == 0, "{missing} of {} live changes have not arrived", commits.len());
        latency.ok_or_else(|| anyhow::anyhow!("no live change in a phase"))
    };
    let (without, with) = (phase(without_us, with_us)?, phase(with_us, done_us)?);
    let creating = phase(with_us, created_us)?;
    let row = |name: &str, of: fn(&Latency) -> f64| {
        let case = format!("{name} of live changes beside a resync of {users} users");
        Row::new("resync", &case, "ms", vec![of(&with)]).against("without", vec![of(&without)])
    };
    let seconds = done_us.saturating_sub(with_us) as f64 / 1e6;
    Ok(vec![
        row("p50", |latency| latency.p50_ms),
        row("p99", |latency| latency.p99_ms),
        Row::new("resync", &format!("time for {users} users"), "s", vec![seconds])
            .note("users/s", f64::from(users) / seconds)
            .note("live changes measured beside it", with.count as f64)
            .note("s until the job was made", created_us.saturating_sub(with_us) as f64 / 1e6)
            .note("live p99 until then, ms", creating.p99_ms)
            .note("live p99 from then on, ms", phase(created_us, done_us)?.p99_ms)
            .note("live max, ms", with.max_ms)
            .note("clients' latest start, ms", late.as_secs_f64() * 1000.0),
    ])
}

/// Waits until the projection a resync reads from has every user.
async fn wait_for_states(installation: &Installation, users: u32) -> Result<()> {
    let deadline = Instant::now() + patience(users.into());
    loop {
        let states: i64 = sqlx::query_scalar("select count(*) from postbound.user_state")
            .fetch_one(&installation.pool)
            .await?;
        if states >= i64::from(users) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{states} of {users} users are in user_state");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
