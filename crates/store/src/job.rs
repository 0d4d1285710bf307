use crate::{Operation, Store, StoreError, audit, job_run::failing_items};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// A job with the counts of its items.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct JobRow {
    /// The job.
    pub job_id: i64,
    /// replay, resync, reconcile or import.
    pub kind: String,
    /// Its target.
    pub target: String,
    /// filling, running, paused, stopped, cancelled or done.
    pub state: String,
    /// Why it is paused, stopped or cancelled.
    pub state_reason: Option<String>,
    /// What was asked for.
    pub filter: Value,
    /// Whether it sends newest states rather than the letters'.
    pub use_current: bool,
    /// Whether it sends under new idempotency keys.
    pub new_key: bool,
    /// Users per second at most.
    pub rate_per_second: Option<f64>,
    /// Failing items (dead, or parked for a failure of their own) at which it stops.
    pub stop_after_failures: Option<i32>,
    /// Database login of who made it.
    pub created_by: String,
    /// Who they said they are.
    pub created_as: Option<String>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was done or cancelled.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Counts of its items.
    #[sqlx(flatten)]
    pub items: ItemCounts,
}

impl JobRow {
    /// Whether nothing will happen to it any more, unless an operator steps in.
    pub fn has_ended(&self) -> bool {
        ["stopped", "cancelled", "done"].contains(&self.state.as_str())
    }
}

/// How many items of a job stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct ItemCounts {
    /// Not sent yet.
    pub waiting: i64,
    /// Published, or parked for a retry.
    pub sent: i64,
    /// Taken by the target.
    pub delivered: i64,
    /// The target holds it, or a newer one, already.
    pub superseded: i64,
    /// Failed again.
    pub dead: i64,
    /// There was nothing to send.
    pub skipped: i64,
}

impl ItemCounts {
    /// All items.
    pub fn total(&self) -> i64 {
        self.waiting + self.sent + self.settled()
    }

    /// Those nothing will happen to any more.
    pub fn settled(&self) -> i64 {
        self.delivered + self.superseded + self.dead + self.skipped
    }
}

/// One item of a job.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct JobItemRow {
    /// Place in the job from 1.
    pub item: i64,
    /// Tenant of the user.
    pub tenant_id: String,
    /// The user.
    pub user_id: String,
    /// The dead letter, in a replay.
    pub letter_id: Option<i64>,
    /// The version that was sent.
    pub version: Option<i64>,
    /// waiting, sent, delivered, superseded, dead or skipped.
    pub state: String,
    /// Why it is dead or skipped.
    pub reason: Option<String>,
    /// When it was settled.
    #[serde(with = "time::serde::rfc3339::option")]
    pub settled_at: Option<OffsetDateTime>,
}

/// What an operator wants of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobCommand {
    /// Send nothing more for now.
    Pause,
    /// Go on.
    Resume,
    /// End it; what is out is still settled.
    Cancel,
}

impl JobCommand {
    /// States it can be given in.
    pub fn allowed_in(self) -> &'static [&'static str] {
        match self {
            Self::Pause => &["running"],
            Self::Resume => &["paused", "stopped"],
            Self::Cancel => &["filling", "running", "paused", "stopped"],
        }
    }
}

/// What became of a command to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steered {
    /// It has it; so many items were cancelled.
    Done {
        /// Items that will not be sent.
        cancelled: u64,
    },
    /// It is in a state in which it cannot have it.
    Refused {
        /// That state.
        state: String,
    },
    /// There is no such job.
    Unknown,
}

macro_rules! job_rows {
    () => {
        "select j.job_id, j.kind, j.target, j.state, j.state_reason, j.filter, j.use_current, j.new_key, j.rate_per_second,
                   j.stop_after_failures, j.created_by, j.created_as, j.created_at, j.finished_at,
                   c.waiting, c.sent, c.delivered, c.superseded, c.dead, c.skipped
            from postbound.job as j
            cross join lateral (
                select count(*) filter (where i.state = 'waiting') as waiting, count(*) filter (where i.state = 'sent') as sent,
                       count(*) filter (where i.state = 'delivered') as delivered,
                       count(*) filter (where i.state = 'superseded') as superseded,
                       count(*) filter (where i.state = 'dead') as dead, count(*) filter (where i.state = 'skipped') as skipped
                from postbound.job_item as i where i.job_id = j.job_id
            ) as c"
    };
}

impl Store {
    /// Jobs, the newest first.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn jobs(&self, target: Option<&str>, limit: i64) -> Result<Vec<JobRow>, StoreError> {
        Ok(sqlx::query_as(concat!(
            "-- jobs\n",
            job_rows!(),
            " where j.job_id in (select n.job_id from postbound.job as n where $1::text is null or n.target = $1
                                 order by n.job_id desc limit $2)
            order by j.job_id desc"
        ))
        .bind(target)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// One job; None when there is none of this number.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn job(&self, job: i64) -> Result<Option<JobRow>, StoreError> {
        Ok(sqlx::query_as(concat!("-- job\n", job_rows!(), " where j.job_id = $1"))
            .bind(job)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Items of a job in their order, those after `after`; of one state where it is given.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn job_items(
        &self,
        job: i64,
        state: Option<&str>,
        after: i64,
        limit: i64,
    ) -> Result<Vec<JobItemRow>, StoreError> {
        Ok(sqlx::query_as(
            "-- job_items
            select item, tenant_id, user_id, letter_id, version, state, reason, settled_at from postbound.job_item
            where job_id = $1 and ($2::text is null or state = $2) and item > $3 order by item limit $4",
        )
        .bind(job)
        .bind(state)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Pauses, resumes or cancels a job, if its state allows it, and writes that to the audit trail.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was done.
    pub async fn steer_job(
        &self,
        job: i64,
        command: JobCommand,
        reason: Option<&str>,
        operation: &Operation,
    ) -> Result<Steered, StoreError> {
        let mut tx = self.pool.begin().await?;
        let state: Option<String> =
            sqlx::query_scalar("-- lock_job\nselect state from postbound.job where job_id = $1 for update")
                .bind(job)
                .fetch_optional(&mut *tx)
                .await?;
        let Some(state) = state else { return Ok(Steered::Unknown) };
        if !command.allowed_in().contains(&state.as_str()) {
            return Ok(Steered::Refused { state });
        }
        let mut cancelled = 0;
        match command {
            JobCommand::Pause => pause(&mut tx, job, reason).await?,
            JobCommand::Resume => resume(&mut tx, job).await?,
            JobCommand::Cancel => cancelled = cancel(&mut tx, job, reason).await?,
        }
        audit::write(&mut tx, operation, &json!({ "cancelled_items": cancelled })).await?;
        tx.commit().await?;
        Ok(Steered::Done { cancelled })
    }
}

async fn pause(tx: &mut sqlx::PgConnection, job: i64, reason: Option<&str>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- pause_job\nupdate postbound.job set state = 'paused', state_reason = $2 where job_id = $1",
    )
    .bind(job)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}

// One that was stopped has as many failures as before to go, counted from now: else it would stop again at once.
async fn resume(tx: &mut sqlx::PgConnection, job: i64) -> Result<(), sqlx::Error> {
    sqlx::query(concat!(
        "-- resume_job
        update postbound.job as j
        set state = 'running', state_reason = null, stop_after_failures = case
                when j.state = 'stopped' and j.stop_after_failures is not null
                then (",
        failing_items!(),
        ") + coalesce((j.filter ->> 'stop_after_failures')::integer, j.stop_after_failures)
                else j.stop_after_failures end
        where j.job_id = $1"
    ))
    .bind(job)
    .execute(tx)
    .await?;
    Ok(())
}

async fn cancel(tx: &mut sqlx::PgConnection, job: i64, reason: Option<&str>) -> Result<u64, sqlx::Error> {
    sqlx::query(
        "-- cancel_job
        update postbound.job set state = 'cancelled', state_reason = $2, finished_at = clock_timestamp() where job_id = $1",
    )
    .bind(job)
    .bind(reason)
    .execute(&mut *tx)
    .await?;
    let cancelled = sqlx::query(
        "-- cancel_items
        update postbound.job_item set state = 'skipped', reason = 'cancelled', settled_at = clock_timestamp()
        where job_id = $1 and state = 'waiting'",
    )
    .bind(job)
    .execute(tx)
    .await?;
    Ok(cancelled.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_moves_a_job_that_is_over() {
        for command in [JobCommand::Pause, JobCommand::Resume, JobCommand::Cancel] {
            for state in ["cancelled", "done"] {
                assert!(!command.allowed_in().contains(&state), "{command:?} in {state}");
            }
        }
    }
}
