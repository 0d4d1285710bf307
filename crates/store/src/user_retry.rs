use crate::{CreatedJob, JobOptions, LetterFilter, Operation, Store, StoreError, UserAtTarget, audit};
use serde::Serialize;
use serde_json::json;

/// What a retry of one user set going.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// Targets where the user was parked, and is tried again within seconds.
    pub retried: Vec<String>,
    /// Replays of the letters of the others.
    pub jobs: Vec<CreatedJob>,
}

impl Store {
    /// Has a user tried again at once where something of theirs waits or was given up, at one target or at all: a parked
    /// one is due, a dead letter is replayed. `rows` is where the user stands ([`Store::user_at_targets`]). Leaves its
    /// rows in the audit trail.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn retry_user(
        &self,
        (tenant, user): (&str, &str),
        rows: &[UserAtTarget],
        target: Option<&str>,
        operation: &Operation,
    ) -> Result<Retried, StoreError> {
        let retried = self.wake_parked_user((tenant, user), target, operation).await?;
        // Where the user is parked, a letter is older than what waits.
        let dead: Vec<i64> = rows
            .iter()
            .filter(|row| target.is_none_or(|target| target == row.target) && !retried.contains(&row.target))
            .filter_map(|row| row.open_letter)
            .collect();
        if dead.is_empty() {
            return Ok(Retried { retried, jobs: Vec::new() });
        }
        let filter = LetterFilter { letters: dead, ..LetterFilter::default() };
        let jobs = self.create_replay_jobs(&filter, None, &JobOptions::default(), operation).await?;
        Ok(Retried { retried, jobs })
    }

    /// Makes a parked user due, at one target or at all; gives the targets, and writes the audit trail.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn wake_parked_user(
        &self,
        (tenant, user): (&str, &str),
        target: Option<&str>,
        operation: &Operation,
    ) -> Result<Vec<String>, StoreError> {
        let mut tx = self.pool.begin().await?;
        // Every target by its primary key: there is no index by user alone.
        let targets: Vec<String> = sqlx::query_scalar(
            "-- wake_parked_user
            update postbound.parked_user as p set next_attempt_at = clock_timestamp()
            from postbound.target as t
            where p.target = t.name and p.tenant_id = $1 and p.user_id = $2 and ($3::text is null or t.name = $3)
            returning p.target",
        )
        .bind(tenant)
        .bind(user)
        .bind(target)
        .fetch_all(&mut *tx)
        .await?;
        if !targets.is_empty() {
            audit::write(&mut tx, operation, &json!({ "targets": targets })).await?;
        }
        tx.commit().await?;
        Ok(targets)
    }
}
