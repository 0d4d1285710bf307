//! Waits until nothing is on its way any more.

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::settings::DOUBT_AFTER;

/// How long things may take to settle, doubt apart. A worker that dies with a parked user in hand leaves it for a minute.
const PATIENCE: Duration = Duration::from_secs(85);
/// How long things must be quiet to count as settled.
const QUIET: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(250);
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What is on its way, in users per target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub(crate) struct OnItsWay {
    /// Users whose newest change the ledger does not have.
    pub(crate) behind: i64,
    /// Users who wait for another attempt.
    pub(crate) parked: i64,
    /// Users whose newest state is to be sent once more.
    pub(crate) in_doubt: i64,
    /// Jobs that are not over.
    pub(crate) jobs: i64,
    /// Users whose newest state Postbound's own projection does not have.
    pub(crate) unprojected: i64,
    /// Users whose newest state is dead and whose letter is not in the archive yet.
    pub(crate) letters: i64,
}

/// Waits until nothing is on its way, within bounds; gives what is left, and how long it took.
pub(crate) async fn settle(pool: &PgPool, say: &impl Fn(&str)) -> (OnItsWay, Duration) {
    let begun = Instant::now();
    let mut quiet_since: Option<Instant> = None;
    let mut left = OnItsWay { behind: -1, ..OnItsWay::default() };
    let mut told = begun;
    while begun.elapsed() < PATIENCE + DOUBT_AFTER {
        match ask(pool).await {
            Ok(found) => left = found,
            // It has only just been started again, maybe.
            Err(_) => quiet_since = None,
        }
        if left == OnItsWay::default() {
            let since = *quiet_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= QUIET {
                break;
            }
        } else {
            quiet_since = None;
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            say(&format!("settling: {left:?}"));
        }
        tokio::time::sleep(GLANCE).await;
    }
    (left, begun.elapsed())
}

async fn ask(pool: &PgPool) -> sqlx::Result<OnItsWay> {
    sqlx::query_as(
        "-- chaos_on_its_way
        select
            (select count(*) from app.users as u
             cross join postbound.target as t
             left join postbound.delivery_ledger as l
               on l.target = t.name and l.tenant_id = u.tenant_id collate \"C\" and l.user_id = u.user_id collate \"C\"
             where t.retired_at is null
               and coalesce(greatest(l.delivered_version, l.dead_version), 0) < u.version) as behind,
            (select count(*) from postbound.parked_user) as parked,
            (select count(*) from postbound.doubt) as in_doubt,
            (select count(*) from postbound.job where finished_at is null) as jobs,
            (select count(*) from app.users as u
             left join postbound.user_state as s
               on s.tenant_id = u.tenant_id collate \"C\" and s.user_id = u.user_id collate \"C\"
             where coalesce(s.version, 0) < u.version) as unprojected,
            (select count(*) from postbound.delivery_ledger as l
             where l.dead_version > l.delivered_version and not exists (
                select from postbound.dead_letter as d
                where d.target = l.target and d.tenant_id = l.tenant_id and d.user_id = l.user_id
                  and d.version = l.dead_version)) as letters",
    )
    .fetch_one(pool)
    .await
}
