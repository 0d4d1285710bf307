//! Around jobs: whether a reconcile may begin, and what is thrown away when it is old.

use crate::{Store, StoreError};
use std::time::Duration;

/// Rows one statement removes at most, so that none takes long.
const PRUNED_AT_ONCE: i64 = 5000;

impl Store {
    /// Whether a target may be reconciled: it takes newest states, its breaker is closed, and no job that sends it newest
    /// states (reconcile, resync, import) is unfinished.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn may_reconcile(&self, target: &str) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "-- may_reconcile
            select exists (select from postbound.target
                           where name = $1 and postbound.takes_newest_states(fold, actions))
               and not exists (select from postbound.breaker where target = $1 and tenant_id = '')
               and not exists (
                   select from postbound.job
                   where target = $1 and kind in ('reconcile', 'resync', 'import') and finished_at is null)",
        )
        .bind(target)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Number of a job's items.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn job_item_count(&self, job: i64) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("-- job_item_count\nselect count(*) from postbound.job_item where job_id = $1")
            .bind(job)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Removes a part of the items of jobs that ended longer ago than `age`, and of the jobs without items, if the
    /// relay's lease is held. Gives how many rows; 0: there are no more. To be called until then. Cancelled imports stay:
    /// they say whom no reconcile may send.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn prune_jobs(&self, age: Duration, lease_token: i64) -> Result<u64, StoreError> {
        let items = sqlx::query(
            "-- prune_job_items
            delete from postbound.job_item as i
            using (
                select i.job_id, i.item from postbound.job as j
                join postbound.job_item as i on i.job_id = j.job_id
                where j.finished_at < clock_timestamp() - $1 * interval '1 second'
                  and not (j.kind = 'import' and j.state = 'cancelled')
                limit $2
            ) as old
            where i.job_id = old.job_id and i.item = old.item
              and exists (select from postbound.relay_lease where token = $3)",
        )
        .bind(age.as_secs_f64())
        .bind(PRUNED_AT_ONCE)
        .bind(lease_token)
        .execute(&self.pool)
        .await?;
        if items.rows_affected() > 0 {
            return Ok(items.rows_affected());
        }
        let jobs = sqlx::query(
            "-- prune_jobs
            delete from postbound.job as j
            where j.finished_at < clock_timestamp() - $1 * interval '1 second'
              and not exists (select from postbound.job_item as i where i.job_id = j.job_id)
              and exists (select from postbound.relay_lease where token = $2)",
        )
        .bind(age.as_secs_f64())
        .bind(lease_token)
        .execute(&self.pool)
        .await?;
        Ok(jobs.rows_affected())
    }

    /// Removes a part of the outages that ended longer ago than `age`, if the relay's lease is held. Gives how many.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn prune_outages(&self, age: Duration, lease_token: i64) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "-- prune_outages
            delete from postbound.outage as o
            using (
                select target, tenant_id, opened_at from postbound.outage
                where closed_at < clock_timestamp() - $1 * interval '1 second'
                limit $2
            ) as old
            where o.target = old.target and o.tenant_id = old.tenant_id and o.opened_at = old.opened_at
              and exists (select from postbound.relay_lease where token = $3)",
        )
        .bind(age.as_secs_f64())
        .bind(PRUNED_AT_ONCE)
        .bind(lease_token)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}
