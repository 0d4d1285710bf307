//! Running jobs: what the active relay reads and writes while it sends their items. Making and steering them is the
//! command line's. Every write here asks whether the relay's lease is still held.

use crate::{Generation, Store, StoreError};
use std::str::FromStr;

/// What kind of job it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Dead letters, again.
    Replay,
    /// A tenant's users, also those the target holds.
    Resync,
    /// Users the target was left behind with.
    Reconcile,
    /// Users from before Postbound.
    Import,
}

impl FromStr for JobKind {
    type Err = StoreError;

    fn from_str(kind: &str) -> Result<Self, StoreError> {
        match kind {
            "replay" => Ok(Self::Replay),
            "resync" => Ok(Self::Resync),
            "reconcile" => Ok(Self::Reconcile),
            "import" => Ok(Self::Import),
            other => Err(StoreError::Unexpected(format!("a job of unknown kind {other}"))),
        }
    }
}

/// The jobs that run for a target, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetJobs {
    /// The partitions its items go to.
    pub generation: Generation,
    /// Those they went to before, while workers still drain them.
    pub draining: Option<Generation>,
    /// The jobs, the oldest first.
    pub jobs: Vec<RunningJob>,
}

/// A job that is to be run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunningJob {
    /// The job.
    pub id: i64,
    /// What kind.
    pub kind: JobKind,
    /// Whether it is a full sync: a resync of all users, of a tenant or of all.
    pub full: bool,
    /// Whether states go out under a new idempotency key.
    pub new_key: bool,
    /// Users sent per second at most.
    pub rate_per_second: Option<f64>,
    /// Failing items at which it stops.
    pub stop_after_failures: Option<i32>,
    /// Failing items now: dead, or parked for a failure of their own. Counted only where it stops after some.
    pub failing: i64,
    /// Whether items are sent and not settled.
    pub in_flight: bool,
}

#[derive(sqlx::FromRow)]
struct JobRow {
    job_id: Option<i64>,
    kind: Option<String>,
    full: bool,
    new_key: Option<bool>,
    rate_per_second: Option<f64>,
    stop_after_failures: Option<i32>,
    failing: i64,
    in_flight: bool,
    generation: i32,
    partitions: i32,
    draining_generation: Option<i32>,
    draining_partitions: Option<i32>,
}

/// Number of items of job `j` that fail: dead, or parked after at least one failure that counts, so for a fault of their
/// own. Not those parked because the target was closed.
macro_rules! failing_items {
    () => {
        "(select count(*) from postbound.job_item as i where i.job_id = j.job_id and i.state = 'dead')
         + (select count(*) from postbound.job_item as i
            where i.job_id = j.job_id and i.state = 'sent' and exists (
                select from postbound.parked_state as s
                join postbound.parked_user as p
                  on p.target = s.target and p.tenant_id = s.tenant_id and p.user_id = s.user_id
                where s.target = j.target and s.tenant_id = i.tenant_id and s.user_id = i.user_id
                  and s.job_id = i.job_id and s.job_item = i.item
                  and p.attempts > 0 and p.class in ('transient', 'unknown', 'permanent')))"
    };
}
pub(crate) use failing_items;

/// Whether job `j`, which may be missing, is a full sync: a resync that leaves nobody out.
macro_rules! is_full_sync {
    () => {
        "coalesce(j.kind = 'resync' and not j.filter ?| array['users', 'changed_since']
                  and coalesce(j.filter -> 'only_missing', 'false') <> 'true', false)"
    };
}
pub(crate) use is_full_sync;

impl Store {
    /// Targets that have running jobs.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn targets_with_jobs(&self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "-- targets_with_jobs
            select distinct j.target from postbound.job as j
            join postbound.target as t on t.name = j.target
            where j.finished_at is null and j.state = 'running' and t.retired_at is null
            order by j.target",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The jobs to be run for a target, the oldest first; None when the target is no longer in use.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn running_jobs(&self, target: &str) -> Result<Option<TargetJobs>, StoreError> {
        let rows: Vec<JobRow> = sqlx::query_as(concat!(
            "-- running_jobs
            select j.job_id, j.kind, ",
            is_full_sync!(),
            " as full, j.new_key, j.rate_per_second, j.stop_after_failures,
                   case when j.stop_after_failures is null then 0 else (",
            failing_items!(),
            ") end as failing,
                   exists (select from postbound.job_item as i where i.job_id = j.job_id and i.state = 'sent') as in_flight,
                   t.generation, t.partitions, t.draining_generation, t.draining_partitions
            from postbound.target as t
            left join postbound.job as j on j.target = t.name and j.finished_at is null and j.state = 'running'
            where t.name = $1 and t.retired_at is null
            order by j.job_id"
        ))
        .bind(target)
        .fetch_all(&self.pool)
        .await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let generation = Generation::stored(first.generation, first.partitions)?;
        let draining = first.draining_generation.zip(first.draining_partitions);
        let draining =
            draining.map(|(number, partitions)| Generation::stored(number, partitions)).transpose()?;
        let jobs = rows.into_iter().filter_map(running_job).collect::<Result<_, _>>()?;
        Ok(Some(TargetJobs { generation, draining, jobs }))
    }

    /// Items of a target's unfinished jobs that are sent and not settled. Parked users do not count, else a few that
    /// fail for hours would hold up the rest; while the target's breaker is open all its users end up parked, and they do.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn unsettled_job_items(&self, target: &str) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(
            "-- unsettled_job_items
            select count(*)
            from postbound.job as j
            join postbound.job_item as i on i.job_id = j.job_id and i.state = 'sent'
            where j.target = $1 and j.finished_at is null and (
                exists (select from postbound.breaker as b where b.target = $1 and b.tenant_id = '')
                or not exists (
                    select from postbound.parked_state as p
                    where p.target = j.target and p.tenant_id = i.tenant_id and p.user_id = i.user_id
                      and p.job_id = i.job_id and p.job_item = i.item))",
        )
        .bind(target)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Ends a running job all of whose items are settled, and notes it for those who subscribed where it is a resync.
    /// False: it has some that are not, or it does not run.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn finish_job(&self, job: i64, lease_token: i64) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "-- finish_job
            with done as (
                update postbound.job set state = 'done', finished_at = clock_timestamp()
                where job_id = $1 and state = 'running'
                  and not exists (select from postbound.job_item where job_id = $1 and state in ('waiting', 'sent'))
                  and exists (select from postbound.relay_lease where token = $2)
                returning job_id, kind, target
            ), noted as (
                insert into postbound.notice (target, kind, data)
                select t.name, 'sync.completed', jsonb_build_object(
                           'job', d.job_id, 'target', d.target, 'delivered', c.delivered, 'superseded', c.superseded,
                           'dead', c.dead, 'skipped', c.skipped)
                from done as d
                cross join lateral (
                    select count(*) filter (where i.state = 'delivered') as delivered,
                           count(*) filter (where i.state = 'superseded') as superseded,
                           count(*) filter (where i.state = 'dead') as dead,
                           count(*) filter (where i.state = 'skipped') as skipped
                    from postbound.job_item as i where i.job_id = d.job_id
                ) as c
                join postbound.target as t on t.retired_at is null and postbound.subscribes(t.settings, 'sync.completed')
                where d.kind = 'resync'
            )
            select exists (select from done)",
        )
        .bind(job)
        .bind(lease_token)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Stops a running job, for an operator to look at. False: it does not run, or has nothing left to send.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn stop_job(&self, job: i64, reason: &str, lease_token: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "-- stop_job
            update postbound.job set state = 'stopped', state_reason = $2
            where job_id = $1 and state = 'running'
              and exists (select from postbound.job_item where job_id = $1 and state = 'waiting')
              and exists (select from postbound.relay_lease where token = $3)",
        )
        .bind(job)
        .bind(reason)
        .bind(lease_token)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Lets a target's items that are sent, neither settled nor parked, wait to be sent again; to be called when no
    /// queue has them any more. Not those that the target is closed to, as a whole or for their tenant: workers hold their
    /// messages. Gives how many.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn resend_lost_job_items(&self, target: &str, lease_token: i64) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "-- resend_lost_job_items
            with lost as materialized (
                select i.job_id, i.item
                from postbound.job as j join postbound.job_item as i on i.job_id = j.job_id and i.state = 'sent'
                where j.target = $1 and j.finished_at is null
                  and not exists (select from postbound.breaker as b where b.target = $1 and b.tenant_id in ('', i.tenant_id))
                  and not exists (
                      select from postbound.parked_state as p
                      where p.target = j.target and p.tenant_id = i.tenant_id and p.user_id = i.user_id
                        and p.job_id = i.job_id and p.job_item = i.item)
                  and exists (select from postbound.relay_lease where token = $2)
                order by i.job_id, i.item for update of i
            )
            update postbound.job_item as i set state = 'waiting'
            from lost where i.job_id = lost.job_id and i.item = lost.item",
        )
        .bind(target)
        .bind(lease_token)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}

/// None: the target is there and has no running job.
fn running_job(row: JobRow) -> Option<Result<RunningJob, StoreError>> {
    let (id, kind, new_key) = (row.job_id?, row.kind?, row.new_key?);
    Some(JobKind::from_str(&kind).map(|kind| RunningJob {
        id,
        kind,
        full: row.full,
        new_key,
        rate_per_second: row.rate_per_second,
        stop_after_failures: row.stop_after_failures,
        failing: row.failing,
        in_flight: row.in_flight,
    }))
}
