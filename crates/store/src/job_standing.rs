use crate::{ClosedScope, JobRow, Store, StoreError};
use serde::Serialize;
use time::OffsetDateTime;

/// What keeps the open items of a job from moving, and who there is to move them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobStanding {
    /// Whether a relay is active: it sends items, and ends the job.
    pub relay_active: bool,
    /// Live workers that serve the target.
    pub workers: i64,
    /// The target, or tenants of open items of the job, that nothing is sent to.
    pub closed: Vec<ClosedScope>,
    /// Items that are sent and whose users are parked.
    pub parked: i64,
    /// When the first of those is due.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
}

impl Store {
    /// Why a job that has open items moves, or does not.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn job_standing(&self, job: &JobRow) -> Result<JobStanding, StoreError> {
        let (workers, parked, next_attempt_at) = sqlx::query_as(
            "-- job_standing
            select (select count(*) from postbound.worker as w
                    where $2 = any(w.targets) and w.expires_at > clock_timestamp()),
                   count(distinct i.item), min(u.next_attempt_at)
            from postbound.job_item as i
            join postbound.parked_state as s
              on s.target = $2 and s.tenant_id = i.tenant_id and s.user_id = i.user_id
                 and s.job_id = i.job_id and s.job_item = i.item
            join postbound.parked_user as u
              on u.target = s.target and u.tenant_id = s.tenant_id and u.user_id = s.user_id
            where i.job_id = $1 and i.state = 'sent'",
        )
        .bind(job.job_id)
        .bind(&job.target)
        .fetch_one(&self.pool)
        .await?;
        Ok(JobStanding {
            relay_active: self.relay_status().await?.holder.is_some(),
            workers,
            closed: self.closed_to_job(job).await?,
            parked,
            next_attempt_at,
        })
    }

    async fn closed_to_job(&self, job: &JobRow) -> Result<Vec<ClosedScope>, StoreError> {
        let breakers = self.breakers().await?.into_iter().filter(|breaker| breaker.target == job.target);
        let mut closed: Vec<_> = breakers.map(ClosedScope::from).collect();
        let tenants: Vec<_> = closed.iter().filter_map(|closed| closed.tenant.clone()).collect();
        if tenants.is_empty() {
            return Ok(closed);
        }
        let concerned: Vec<String> = sqlx::query_scalar(
            "-- closed_tenants_of_job
            select t from unnest($2::text[]) as t
            where exists (select from postbound.job_item
                          where job_id = $1 and tenant_id = t and state in ('waiting', 'sent'))",
        )
        .bind(job.job_id)
        .bind(&tenants)
        .fetch_all(&self.pool)
        .await?;
        closed.retain(|closed| closed.tenant.as_ref().is_none_or(|tenant| concerned.contains(tenant)));
        Ok(closed)
    }
}
