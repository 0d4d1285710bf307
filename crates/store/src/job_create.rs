//! Making jobs. Each is made whole in one transaction, with its items and its row in the audit trail; the active relay
//! begins with it at once.

use crate::{Operation, Store, StoreError, audit};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, types::Json};
use std::time::Duration;
use time::OffsetDateTime;

/// How a job sends.
#[derive(Debug, Clone, Default)]
pub struct JobOptions {
    /// The user's newest state rather than the letter's.
    pub use_current: bool,
    /// Under a new idempotency key.
    pub new_key: bool,
    /// Users per second at most.
    pub rate_per_second: Option<f64>,
    /// It stops at so many failing items: dead, or parked for a failure of their own.
    pub stop_after_failures: Option<i32>,
}

/// A job that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct CreatedJob {
    /// The job.
    pub job_id: i64,
    /// Its target.
    pub target: String,
    /// Items to be sent.
    pub items: i64,
    /// Items there is nothing to send for.
    pub skipped: i64,
}

/// Whose newest states are sent again.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ResyncFilter {
    /// The target.
    pub target: String,
    /// Tenant of the users; None: all tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// These users only; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// Changed then or later.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub changed_since: Option<OffsetDateTime>,
    /// Only users the target does not hold in their newest state, by the ledger.
    pub only_missing: bool,
}

/// Users of a [`ResyncFilter`], parameters 1 to 5, and why their newest state is not to be sent; null: it is. None of a
/// target that gets every event: a newest state sent aside would settle the events before it unsent. A target of
/// registrations is told of those it has not heard of, whatever happened to them since.
macro_rules! users_to_resync {
    () => {
        "select s.tenant_id, s.user_id, s.version,
                   case when t.fold and postbound.admits(t.actions, t.tenants, t.name, s.tenant_id, s.action, s.targets) then null
                        when t.fold or s.action = 'deleted'
                          or not postbound.admits(t.actions, t.tenants, t.name, s.tenant_id, 'created', s.targets) then 'not_for_this_target'
                        when postbound.has_heard_of(t.name, s.tenant_id, s.user_id) then 'linked' end as unwanted
            from postbound.user_state as s
            join postbound.target as t on t.name = $1 and postbound.takes_newest_states(t.fold, t.actions)
            left join postbound.delivery_ledger as l
              on l.target = t.name and l.tenant_id = s.tenant_id and l.user_id = s.user_id
            where ($2::text is null or s.tenant_id = $2) and ($3::text[] is null or s.user_id = any($3))
              and ($4::timestamptz is null or s.logged_at >= $4)
              and (not $5 or coalesce(l.delivered_version, 0) < s.version or (s.action <> 'deleted' and not l.present))"
    };
}

/// Users of target $1 whose newest state, older than $2 seconds, is nowhere on its way. None of a target that gets every
/// event, and none whose import to it was cancelled and who have not changed since. Of a target of registrations: users
/// nothing of whom was ever settled there, and who have no link.
macro_rules! users_that_are_stale {
    () => {
        "select s.tenant_id, s.user_id
            from postbound.user_state as s
            join postbound.target as t
              on t.name = $1 and t.retired_at is null and postbound.takes_newest_states(t.fold, t.actions)
            left join postbound.delivery_ledger as l
              on l.target = t.name and l.tenant_id = s.tenant_id and l.user_id = s.user_id
            where case when t.fold then postbound.admits(t.actions, t.tenants, t.name, s.tenant_id, s.action, s.targets)
                         and greatest(coalesce(l.delivered_version, 0), coalesce(l.dead_version, 0)) < s.version
                       else s.action <> 'deleted' and postbound.admits(t.actions, t.tenants, t.name, s.tenant_id, 'created', s.targets)
                         and greatest(coalesce(l.delivered_version, 0), coalesce(l.dead_version, 0)) = 0
                         and not postbound.has_heard_of(t.name, s.tenant_id, s.user_id) end
              and s.logged_at < clock_timestamp() - $2 * interval '1 second'
              and not exists (select from postbound.parked_user as p
                              where p.target = t.name and p.tenant_id = s.tenant_id and p.user_id = s.user_id)
              and not exists (select from postbound.breaker as b
                              where b.target = t.name and b.tenant_id in ('', s.tenant_id))
              and not exists (select from postbound.job_item as i join postbound.job as j on j.job_id = i.job_id
                              where i.tenant_id = s.tenant_id and i.user_id = s.user_id
                                and i.state = 'skipped' and i.reason = 'cancelled'
                                and j.kind = 'import' and j.target = t.name and s.version <= coalesce(i.version, 1))"
    };
}

impl Store {
    /// How many users a resync would send, and for how many there is nothing to send.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn resync_counts(&self, filter: &ResyncFilter) -> Result<(i64, i64), StoreError> {
        Ok(sqlx::query_as(concat!(
            "-- resync_counts
            select count(*) filter (where unwanted is null), count(unwanted) from (",
            users_to_resync!(),
            ") as chosen"
        ))
        .bind(&filter.target)
        .bind(filter.tenant.as_deref())
        .bind((!filter.users.is_empty()).then_some(&filter.users))
        .bind(filter.changed_since)
        .bind(filter.only_missing)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Makes a resync; None: the filter matches nobody, or the target gets every event.
    ///
    /// # Errors
    /// When Postgres refuses; then no job was made.
    pub async fn create_resync_job(
        &self,
        filter: &ResyncFilter,
        options: &JobOptions,
        operation: &Operation,
    ) -> Result<Option<CreatedJob>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        resync(&mut connection, filter, options, operation).await
    }

    /// Users a target should hold in a newer state although nothing is on its way to it: changed longer ago than
    /// `older_than`, neither parked nor dead-lettered, no breaker open for them.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn stale_users(&self, target: &str, older_than: Duration) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(concat!(
            "-- stale_users\nselect count(*) from (",
            users_that_are_stale!(),
            ") as stale"
        ))
        .bind(target)
        .bind(older_than.as_secs_f64())
        .fetch_one(&self.pool)
        .await?)
    }

    /// Makes a job that sends stale users' newest states; None when nobody is stale, or a job that sends newest states is
    /// unfinished.
    /// The relay calls it on its schedule; it leaves no row in the audit trail.
    ///
    /// # Errors
    /// When Postgres refuses; then no job was made.
    pub async fn create_reconcile_job(
        &self,
        target: &str,
        older_than: Duration,
        created_as: Option<&str>,
    ) -> Result<Option<i64>, StoreError> {
        let operation = Operation {
            command: "reconcile",
            acting_as: created_as.map(str::to_owned),
            filter: json!({ "target": target, "older_than_s": older_than.as_secs() }),
        };
        let mut tx = self.pool.begin().await?;
        let job = reconcile(&mut tx, target, older_than, &operation).await?;
        let Some(job) = job else { return Ok(None) };
        tx.commit().await?;
        Ok(Some(job.job_id))
    }

    /// The same for an operator, with its row in the audit trail.
    ///
    /// # Errors
    /// When Postgres refuses; then no job was made.
    pub async fn reconcile(
        &self,
        target: &str,
        older_than: Duration,
        operation: &Operation,
    ) -> Result<Option<CreatedJob>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let job = reconcile(&mut tx, target, older_than, operation).await?;
        let Some(job) = job else { return Ok(None) };
        audit::write(&mut tx, operation, &counts(std::slice::from_ref(&job))).await?;
        tx.commit().await?;
        Ok(Some(job))
    }
}

/// In a transaction of its own, or as a part of the one the connection is in.
pub(crate) async fn resync(
    connection: &mut PgConnection,
    filter: &ResyncFilter,
    options: &JobOptions,
    operation: &Operation,
) -> Result<Option<CreatedJob>, StoreError> {
    let mut tx = connection.begin().await?;
    let job_id = insert_job(&mut tx, "resync", &filter.target, options, operation).await?;
    let (items, skipped): (i64, i64) = sqlx::query_as(concat!(
        "-- fill_resync_job
        with items as (
            insert into postbound.job_item (job_id, item, tenant_id, user_id, version, state, reason, settled_at)
            select $6, row_number() over (order by tenant_id, user_id), tenant_id, user_id,
                   case when unwanted is not null then version end,
                   case when unwanted is null then 'waiting' else 'skipped' end, unwanted,
                   case when unwanted is not null then clock_timestamp() end
            from (",
        users_to_resync!(),
        ") as chosen
            returning state
        )
        select count(*) filter (where state = 'waiting'), count(*) filter (where state = 'skipped') from items"
    ))
    .bind(&filter.target)
    .bind(filter.tenant.as_deref())
    .bind((!filter.users.is_empty()).then_some(&filter.users))
    .bind(filter.changed_since)
    .bind(filter.only_missing)
    .bind(job_id)
    .fetch_one(&mut *tx)
    .await?;
    if items + skipped == 0 {
        tx.rollback().await?;
        return Ok(None);
    }
    let job = CreatedJob { job_id, target: filter.target.clone(), items, skipped };
    audit::write(&mut tx, operation, &counts(std::slice::from_ref(&job))).await?;
    tx.commit().await?;
    Ok(Some(job))
}

async fn reconcile(
    tx: &mut PgConnection,
    target: &str,
    older_than: Duration,
    operation: &Operation,
) -> Result<Option<CreatedJob>, sqlx::Error> {
    one_at_a_time(tx, "reconcile", target).await?;
    let under_way: bool = sqlx::query_scalar(
        "-- reconcile_under_way
        select exists (select from postbound.job
                       where target = $1 and kind in ('reconcile', 'resync', 'import') and finished_at is null)",
    )
    .bind(target)
    .fetch_one(&mut *tx)
    .await?;
    if under_way {
        return Ok(None);
    }
    // The relay's connections are made for reading by index; the search goes through all users.
    for plan in ["enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"] {
        sqlx::query("-- search_by_any_plan\nselect set_config($1, 'on', true)")
            .bind(plan)
            .execute(&mut *tx)
            .await?;
    }
    let job_id = insert_job(tx, "reconcile", target, &JobOptions::default(), operation).await?;
    let items = sqlx::query(concat!(
        "-- fill_reconcile_job
        insert into postbound.job_item (job_id, item, tenant_id, user_id)
        select $3, row_number() over (order by tenant_id, user_id), tenant_id, user_id from (",
        users_that_are_stale!(),
        ") as stale"
    ))
    .bind(target)
    .bind(older_than.as_secs_f64())
    .bind(job_id)
    .execute(tx)
    .await?
    .rows_affected();
    let items = i64::try_from(items).unwrap_or(i64::MAX);
    Ok((items > 0).then(|| CreatedJob { job_id, target: target.to_owned(), items, skipped: 0 }))
}

/// Others that make a job of this kind wait until this transaction has ended, and then see what it made.
pub(crate) async fn one_at_a_time(
    tx: &mut PgConnection,
    kind: &str,
    target: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("-- one_job_at_a_time\nselect pg_advisory_xact_lock(hashtextextended('postbound.job.' || $1 || '.' || $2, 0))")
        .bind(kind)
        .bind(target)
        .execute(tx)
        .await?;
    Ok(())
}

/// Also run by the import, which fills its jobs in several transactions.
pub(crate) async fn insert_job(
    tx: &mut PgConnection,
    kind: &str,
    target: &str,
    options: &JobOptions,
    operation: &Operation,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "-- insert_job
        insert into postbound.job
            (kind, target, filter, state, use_current, new_key, rate_per_second, stop_after_failures, created_as)
        values ($1, $2, $3, case $1 when 'import' then 'filling' else 'running' end, $4, $5, $6, $7, $8)
        returning job_id",
    )
    .bind(kind)
    .bind(target)
    .bind(Json(&operation.filter))
    .bind(options.use_current)
    .bind(options.new_key)
    .bind(options.rate_per_second)
    .bind(options.stop_after_failures)
    .bind(operation.acting_as.as_deref())
    .fetch_one(tx)
    .await
}

/// The counts of the audit row.
pub(crate) fn counts(jobs: &[CreatedJob]) -> Value {
    json!({
        "jobs": jobs.iter().map(|job| job.job_id).collect::<Vec<_>>(),
        "items": jobs.iter().map(|job| job.items).sum::<i64>(),
        "skipped": jobs.iter().map(|job| job.skipped).sum::<i64>(),
    })
}
