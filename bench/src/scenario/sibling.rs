//! A healthy target's latency while its sibling is dead, and the sibling's return.
//!
//! 200 changes a second over 1,000 users, all the time: both healthy, the second dead, the second back and catching up,
//! both healthy again. The healthy target is compared with itself before and after.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::arrivals::{Arrivals, Commit, now_us};
use crate::clients::{Outlet, Running, Stream};
use crate::installation::{Installation, Target};
use crate::report::{Bound, Row};
use crate::site::Site;
use crate::statistics::Latency;

const TARGETS: [Target; 2] = [Target::Backend, Target::Second];
const USERS: u32 = 1000;
const RATE: f64 = 200.0;
/// How long the dead one may take to hold every user's newest state again.
const CATCH_UP_MAX: Duration = Duration::from_secs(180);

/// What happened when, and what was seen of it.
struct Course {
    /// The stream is warm: both healthy.
    healthy_us: u64,
    /// The second target refuses connections.
    dead_us: u64,
    /// It is back.
    back_us: u64,
    /// It holds what was newest at its return.
    caught_up_us: u64,
    /// The end.
    end_us: u64,
    /// Calls of the second target while it was dead.
    calls_dead: f64,
    /// Calls of it until it had caught up.
    calls_back: f64,
    held_back: HeldBack,
    letters: i64,
    commits: Vec<Commit>,
    late: Duration,
}

/// `sibling`
pub(crate) async fn run(site: &mut Site) -> Result<Vec<Row>> {
    let mut installation = Installation::set_up(site, &TARGETS).await?;
    installation.start_workers(site.options.workers).await?;
    installation.start_relay().await?;
    site.checkpoint().await?;
    site.receiver.take().await?;
    let course = go_through(site, &mut installation).await?;
    installation.remove(site).await?;
    let arrivals = site.receiver.take().await?;
    let mut rows = latency_rows(&course, &arrivals.of(Target::Backend.door()))?;
    let taken = arrivals.of(Target::Second.door()).within(course.back_us, course.caught_up_us);
    let catch_up = course.caught_up_us.saturating_sub(course.back_us) as f64 / 1e6;
    rows.push(
        Row::new("sibling", "time until the one that was dead holds every newest state", "s", vec![catch_up])
            .note("calls while dead", course.calls_dead)
            .note("calls until caught up", course.calls_back)
            .note("of them taken", taken as f64)
            .note("users parked at the return", course.held_back.users as f64)
            .note("most attempts counted for one of them", course.held_back.attempts as f64),
    );
    let letters = vec![course.letters as f64];
    rows.push(Row::new("sibling", "dead letters", "letters", letters).goal(Bound::AtMost(0.0)));
    Ok(rows)
}

/// The whole story, with the stream running all the time.
async fn go_through(site: &mut Site, installation: &mut Installation) -> Result<Course> {
    let dead_time = site.options.size.time(Duration::from_secs_f64(site.options.sibling_minutes * 60.0));
    let healthy_time = dead_time / 2;
    let stream = Stream { rate: RATE, users: USERS, versions_before: 0 };
    let mut running = stream.start(&installation.database_url, &Outlet::Outbox).await?;
    // The first seconds are those of cold caches and connections.
    running.go_on(site.options.size.time(Duration::from_secs(5))).await?;
    let healthy_us = now_us();
    running.go_on(healthy_time).await?;
    let calls_before = calls(installation).await?;
    let dead_us = now_us();
    site.receiver.close(Target::Second.door()).await?;
    running.go_on(dead_time).await?;
    let calls_at_return = calls(installation).await?;
    let held_back = held_back(installation).await?;
    let back_us = now_us();
    site.receiver.open(Target::Second.door()).await?;
    let caught_up_us = catch_up(installation, &mut running).await?;
    let calls_after = calls(installation).await?;
    running.go_on(healthy_time).await?;
    let end_us = now_us();
    let (commits, late) = running.stop().await?;
    installation.wait_for_settled(USERS, Duration::from_secs(60)).await?;
    Ok(Course {
        healthy_us,
        dead_us,
        back_us,
        caught_up_us,
        end_us,
        calls_dead: calls_at_return - calls_before,
        calls_back: calls_after - calls_at_return,
        held_back,
        letters: installation.dead_letters().await?,
        commits,
        late,
    })
}

fn latency_rows(course: &Course, backend: &Arrivals) -> Result<Vec<Row>> {
    let phase = |from: u64, to: u64| phase(backend, &course.commits, from, to);
    let before = phase(course.healthy_us, course.dead_us)?;
    let dead = phase(course.dead_us, course.back_us)?;
    let catching_up = phase(course.back_us, course.caught_up_us).ok();
    let after = phase(course.caught_up_us, course.end_us)?;
    let minutes = course.back_us.saturating_sub(course.dead_us) as f64 / 60e6;
    let row = |name: &str, value: fn(&Latency) -> f64| {
        let case = format!("{name} of the healthy target while another is dead for {minutes:.1} min");
        let healthy = f64::midpoint(value(&before), value(&after));
        Row::new("sibling", &case, "ms", vec![value(&dead)])
            .against("none dead, before and after", vec![healthy])
    };
    Ok(vec![
        row("p50", |latency| latency.p50_ms),
        row("p99", |latency| latency.p99_ms).ratio_goal(Bound::AtMost(1.3)),
        row("max", |latency| latency.max_ms)
            .note("p99 before, ms", before.p99_ms)
            .note("p99 after, ms", after.p99_ms)
            .note("p99 while the other catches up, ms", catching_up.map_or(0.0, |latency| latency.p99_ms))
            .note("changes measured while dead", dead.count as f64)
            .note("clients' latest start, ms", course.late.as_secs_f64() * 1000.0),
    ])
}

/// Users who wait for the dead target in Postgres, and the most attempts counted for one of them.
#[derive(sqlx::FromRow)]
struct HeldBack {
    users: i64,
    attempts: i64,
}

async fn held_back(installation: &Installation) -> Result<HeldBack> {
    let held_back = sqlx::query_as(
        "-- bench_held_back
        select count(*) as users, coalesce(max(attempts), 0)::bigint as attempts
        from postbound.parked_user where target = 'second'",
    )
    .fetch_one(&installation.pool)
    .await?;
    Ok(held_back)
}

/// Requests the workers have made of the second target, those included that found nobody.
async fn calls(installation: &mut Installation) -> Result<f64> {
    installation.worker_metric("postbound_attempt_duration_seconds_count", &["target=\"second\""]).await
}

/// Waits until the ledger has, for every user, at least the version of the moment of the return; gives the time then.
async fn catch_up(installation: &Installation, stream: &mut Running) -> Result<u64> {
    const GLANCE: Duration = Duration::from_millis(50);
    let wanted: Vec<(String, String, i64)> = sqlx::query_as(
        "-- bench_newest
        select tenant_id, user_id, version from postbound.user_head",
    )
    .fetch_all(&installation.pool)
    .await?;
    let (mut tenants, mut users, mut versions) = (Vec::new(), Vec::new(), Vec::new());
    for (tenant, user, version) in wanted {
        tenants.push(tenant);
        users.push(user);
        versions.push(version);
    }
    let deadline = Instant::now() + CATCH_UP_MAX;
    loop {
        let behind: i64 = sqlx::query_scalar(
            "-- bench_behind
            select count(*)
            from unnest($1::text[], $2::text[], $3::bigint[]) as w (tenant_id, user_id, version)
            left join postbound.delivery_ledger as l
              on l.target = 'second' and l.tenant_id = w.tenant_id collate \"C\" and l.user_id = w.user_id collate \"C\"
            where coalesce(l.delivered_version, 0) < w.version",
        )
        .bind(&tenants)
        .bind(&users)
        .bind(&versions)
        .fetch_one(&installation.pool)
        .await?;
        if behind == 0 {
            return Ok(now_us());
        }
        ensure!(Instant::now() < deadline, "{behind} users are still behind after {CATCH_UP_MAX:?}");
        stream.go_on(GLANCE).await?;
    }
}

fn phase(backend: &Arrivals, commits: &[Commit], from_us: u64, to_us: u64) -> Result<Latency> {
    let commits: Vec<Commit> =
        commits.iter().copied().filter(|commit| (from_us..to_us).contains(&commit.at_us)).collect();
    let (latency, missing) = backend.latency(&commits);
    ensure!(missing == 0, "{missing} of {} changes have not arrived at the healthy target", commits.len());
    latency.ok_or_else(|| anyhow::anyhow!("no change in a phase"))
}
