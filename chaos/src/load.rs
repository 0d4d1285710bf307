//! Reads a run's history out of both databases.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use sqlx::{AssertSqlSafe, PgPool};

use crate::history::{Change, Entry, Holding, Jobs, Letter, Seen, Step, TargetHistory};
use crate::mark::AVATARS;
use crate::population::User;
use crate::target::{Guards, Target};
use crate::wire::Observer;

/// Every committed change, per user by version.
pub(crate) async fn source(pool: &PgPool) -> Result<BTreeMap<User, Vec<Change>>> {
    let rows: Vec<(String, String, i64, String, String, bool)> = sqlx::query_as(
        "-- chaos_source
        select tenant_id, user_id, version, action, mark, bare from app.changes order by tenant_id, user_id, version",
    )
    .fetch_all(pool)
    .await
    .context("cannot read the source")?;
    let changes = rows.into_iter().map(|(tenant, id, version, action, mark, bare)| {
        (User { tenant, id }, Change { version, action, mark, bare })
    });
    Ok(grouped(changes))
}

/// The version of each user's newest state in Postbound's own projection.
pub(crate) async fn projected(pool: &PgPool) -> Result<BTreeMap<User, i64>> {
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("-- chaos_projected\nselect tenant_id, user_id, version from postbound.user_state")
            .fetch_all(pool)
            .await
            .context("cannot read user_state")?;
    Ok(rows.into_iter().map(|(tenant, id, version)| (User { tenant, id }, version)).collect())
}

/// What became of operators' jobs.
pub(crate) async fn jobs(pool: &PgPool) -> Result<Jobs> {
    sqlx::query_as(
        "-- chaos_jobs
        select (select count(*) from postbound.job) as jobs,
               count(*) filter (where state = 'delivered') as delivered,
               count(*) filter (where state in ('superseded', 'skipped')) as superseded,
               count(*) filter (where state = 'dead') as dead,
               count(*) filter (where settled_at is null) as unsettled
        from postbound.job_item",
    )
    .fetch_one(pool)
    .await
    .context("cannot read the jobs")
}

/// What is known of a target.
pub(crate) async fn target(
    target: &Target,
    guards: Guards,
    (source, receivers): (&PgPool, &PgPool),
    observer: &Observer,
) -> Result<TargetHistory> {
    let name = target.name;
    let read = async {
        anyhow::Ok(TargetHistory {
            target: *target,
            seen: seen(receivers, name).await?,
            holds: holds(receivers, target, guards).await?,
            requests: observer.requests(),
            ledger: ledger(source, name).await?,
            steps: steps(source, name).await?,
            parked: parked(source, name).await?,
            by_jobs: by_jobs(source, name).await?,
            letters: letters(source, name).await?,
        })
    };
    read.await.with_context(|| format!("cannot read the history of {name}"))
}

async fn seen(pool: &PgPool, schema: &str) -> Result<BTreeMap<User, Vec<Seen>>> {
    let statement = format!(
        "-- chaos_seen
        select id, tenant_id, user_id, outcome, status, idempotency_key, encode(body_sha256, 'hex'),
               coalesce(version, substring(coalesce(content->>'displayName', content->>'name') from '^v(\\d+)$')::bigint),
               case when starts_with(content->>'avatar', $1) then substr(content->>'avatar', length($1) + 1) end,
               (extract(epoch from received_at) * 1000000)::bigint
        from {schema}.request_log order by id"
    );
    type Row = (i64, String, String, String, i32, Option<String>, String, Option<i64>, Option<String>, i64);
    // Made of a constant.
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(statement)).bind(AVATARS).fetch_all(pool).await?;
    Ok(grouped(rows.into_iter().map(|row| {
        let (id, tenant, user, outcome, status, key, body_sha256, version, mark, at_us) = row;
        (User { tenant, id: user }, Seen { id, version, mark, outcome, status, key, body_sha256, at_us })
    })))
}

async fn holds(pool: &PgPool, target: &Target, guards: Guards) -> Result<BTreeMap<User, Holding>> {
    let schema = target.name;
    let statement = match (target.is_batched(), guards) {
        (false, _) => format!(
            "select tenant_id, user_id, version, substr(avatar, length($1) + 1), is_active from {schema}.backend_users"
        ),
        (true, Guards::Versions) => format!(
            "select tenant_id, user_id, version, substr(avatar, length($1) + 1), is_active from {schema}.crm_users"
        ),
        // It keeps neither version nor picture of an update.
        (true, Guards::Nothing) => format!(
            "select tenant_id, user_id, substring(name from '^v(\\d+)$')::bigint, null::text, is_active
             from {schema}.crm_users where $1 <> ''"
        ),
    };
    let statement = format!("-- chaos_holds\n{statement}");
    type Row = (String, String, Option<i64>, Option<String>, bool);
    // Made of constants.
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(statement)).bind(AVATARS).fetch_all(pool).await?;
    Ok(rows
        .into_iter()
        .map(|(tenant, id, version, mark, is_active)| {
            (User { tenant, id }, Holding { version, mark, is_active })
        })
        .collect())
}

async fn ledger(pool: &PgPool, target: &str) -> Result<BTreeMap<User, Entry>> {
    let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "-- chaos_ledger
        select tenant_id, user_id, delivered_version, dead_version from postbound.delivery_ledger where target = $1",
    )
    .bind(target)
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(tenant, id, delivered_version, dead_version)| {
            (User { tenant, id }, Entry { delivered_version, dead_version })
        })
        .collect())
}

async fn steps(pool: &PgPool, target: &str) -> Result<BTreeMap<User, Vec<Step>>> {
    let rows: Vec<(String, String, i64, i64, i64)> = sqlx::query_as(
        "-- chaos_ledger_steps
        select tenant_id, user_id, delivered_version, dead_version,
               (extract(epoch from pg_xact_commit_timestamp(xid)) * 1000000)::bigint
        from app.ledger_steps where target = $1 order by step",
    )
    .bind(target)
    .fetch_all(pool)
    .await?;
    Ok(grouped(rows.into_iter().map(|(tenant, id, delivered_version, dead_version, at_us)| {
        (User { tenant, id }, Step { entry: Entry { delivered_version, dead_version }, at_us })
    })))
}

async fn parked(pool: &PgPool, target: &str) -> Result<BTreeMap<User, String>> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "-- chaos_parked
        select tenant_id, user_id, format('%s (%s), %s attempts, due %s', reason, class, attempts, next_attempt_at)
        from postbound.parked_user where target = $1",
    )
    .bind(target)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(tenant, id, why)| (User { tenant, id }, why)).collect())
}

/// A relay that died had no time to write which version it had sent: that is what the item's own settlement delivered.
async fn by_jobs(pool: &PgPool, target: &str) -> Result<BTreeMap<User, Vec<i64>>> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "-- chaos_by_jobs
        select i.tenant_id, i.user_id, coalesce(i.version, s.delivered_version)
        from postbound.job_item as i join postbound.job as j using (job_id)
        left join app.ledger_steps as s
          on i.version is null and i.state = 'delivered' and s.xid = i.xmin and s.target = j.target and s.tenant_id = i.tenant_id
         and s.user_id = i.user_id
        where j.target = $1 and (i.version is not null or s.step is not null)",
    )
    .bind(target)
    .fetch_all(pool)
    .await?;
    Ok(grouped(rows.into_iter().map(|(tenant, id, version)| (User { tenant, id }, version))))
}

async fn letters(pool: &PgPool, target: &str) -> Result<BTreeMap<User, Vec<Letter>>> {
    let rows: Vec<(String, String, i64, String, String)> = sqlx::query_as(
        "-- chaos_letters
        select coalesce(tenant_id, ''), coalesce(user_id, ''), coalesce(version, 0), reason, class
        from postbound.dead_letter where target = $1 order by letter_id",
    )
    .bind(target)
    .fetch_all(pool)
    .await?;
    Ok(grouped(rows.into_iter().map(|(tenant, id, version, reason, class)| {
        (User { tenant, id }, Letter { version, reason, class })
    })))
}

fn grouped<T>(rows: impl Iterator<Item = (User, T)>) -> BTreeMap<User, Vec<T>> {
    let mut groups: BTreeMap<User, Vec<T>> = BTreeMap::new();
    for (user, row) in rows {
        groups.entry(user).or_default().push(row);
    }
    groups
}
