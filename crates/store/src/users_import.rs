use crate::{CreatedJob, JobOptions, Operation, Store, StoreError, audit, job_create::insert_job};
use serde_json::json;
use sqlx::{Connection as _, PgConnection, Postgres, pool::PoolConnection, types::Json};

/// A user to be imported: the id, and the state as JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedUser {
    /// The user's id.
    pub user_id: String,
    /// The state: a JSON object.
    pub data: String,
}

/// What became of one user of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportOutcome {
    /// Written, and an item of the jobs.
    Imported,
    /// A change of the user has been written before: that is newer.
    Known,
    /// As Postgres writes it, the state is larger than `emit` takes.
    TooLarge,
    /// The state is not an object.
    NotAnObject,
}

/// Whom an import is for.
#[derive(Debug, Clone)]
pub struct ImportPlan {
    /// Tenant of all users.
    pub tenant: String,
    /// Targets the users are for; None: all, but they are sent only to those that take newest states.
    pub targets: Option<Vec<String>>,
    /// How the jobs send.
    pub options: JobOptions,
    /// For the audit trail.
    pub operation: Operation,
}

/// An import under way: one per tenant at a time. One that ends halfway leaves its jobs filling; the next import of the
/// tenant goes on with them.
pub struct UsersImport {
    connection: PoolConnection<Postgres>,
    plan: ImportPlan,
    jobs: Vec<(i64, String)>,
}

impl Store {
    /// Begins an import: makes its jobs, one per target, or finds those an earlier one left. None: another import of the
    /// tenant is under way.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn begin_import(&self, plan: ImportPlan) -> Result<Option<UsersImport>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        // Held by the session: it ends with the process, however that ends.
        connection.close_on_drop();
        let alone: bool = sqlx::query_scalar(
            "-- lock_import\nselect pg_try_advisory_lock(hashtextextended('postbound.import.' || $1, 0))",
        )
        .bind(&plan.tenant)
        .fetch_one(&mut *connection)
        .await?;
        if !alone {
            return Ok(None);
        }
        let mut tx = connection.begin().await?;
        let mut jobs = take_over_jobs(&mut tx, &plan).await?;
        for target in targets_of(&mut tx, &plan).await? {
            if !jobs.iter().any(|(_, known)| *known == target) {
                jobs.push((
                    insert_job(&mut tx, "import", &target, &plan.options, &plan.operation).await?,
                    target,
                ));
            }
        }
        tx.commit().await?;
        Ok(Some(UsersImport { connection, plan, jobs }))
    }

    /// How many of these users have been written before: an import leaves them as they are.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn known_users(&self, tenant: &str, users: &[&str]) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(
            "-- known_users
            select count(*) from postbound.user_head where tenant_id = $1 and user_id = any($2) and version > 0",
        )
        .bind(tenant)
        .bind(users)
        .fetch_one(&self.pool)
        .await?)
    }
}

impl UsersImport {
    /// Imports a batch in one transaction, the items of its jobs included. What became of each, in order.
    ///
    /// # Errors
    /// When Postgres refuses, or a job was cancelled meanwhile; then nothing of the batch was imported.
    pub async fn add(&mut self, users: &[ImportedUser]) -> Result<Vec<ImportOutcome>, StoreError> {
        let mut tx = self.connection.begin().await?;
        let judged: Vec<(i32, String)> = sqlx::query_as(
            "-- import_users
            select place, outcome from postbound.import_users($1, $2, $3, $4) order by place",
        )
        .bind(&self.plan.tenant)
        .bind(users.iter().map(|user| user.user_id.as_str()).collect::<Vec<_>>())
        .bind(users.iter().map(|user| user.data.as_str()).collect::<Vec<_>>())
        .bind(&self.plan.targets)
        .fetch_all(&mut *tx)
        .await?;
        // Those not spoken of were named twice: the first counts.
        let mut outcomes = vec![ImportOutcome::Known; users.len()];
        let mut imported = Vec::new();
        for (place, word) in judged {
            let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
            let Some(outcome) = outcomes.get_mut(place) else { continue };
            *outcome = outcome_of(&word)?;
            if *outcome == ImportOutcome::Imported {
                imported.push(users[place].user_id.as_str());
            }
        }
        let job_ids: Vec<i64> = self.jobs.iter().map(|(job, _)| *job).collect();
        add_items(&mut tx, &job_ids, &self.plan.tenant, &imported).await?;
        tx.commit().await?;
        Ok(outcomes)
    }

    /// Starts the jobs. Gives those that have anything to send.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn finish(mut self) -> Result<Vec<CreatedJob>, StoreError> {
        let mut tx = self.connection.begin().await?;
        let jobs: Vec<CreatedJob> = sqlx::query_as(
            "-- start_import_jobs
            update postbound.job as j
            set state = case when c.items > 0 then 'running' else 'done' end,
                finished_at = case when c.items > 0 then null else clock_timestamp() end
            from (select o.job_id, count(i.item) as items
                  from postbound.job as o left join postbound.job_item as i on i.job_id = o.job_id
                  where o.job_id = any($1) group by o.job_id) as c
            where j.job_id = c.job_id and j.state = 'filling'
            returning j.job_id, j.target, c.items, 0::bigint as skipped",
        )
        .bind(self.jobs.iter().map(|(job, _)| *job).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        let mut jobs: Vec<_> = jobs.into_iter().filter(|job| job.items > 0).collect();
        jobs.sort_by_key(|job| job.job_id);
        let items: i64 = jobs.iter().map(|job| job.items).sum();
        audit::write(
            &mut tx,
            &self.plan.operation,
            &json!({ "jobs": jobs.iter().map(|job| job.job_id).collect::<Vec<_>>(), "items": items }),
        )
        .await?;
        tx.commit().await?;
        Ok(jobs)
    }
}

fn outcome_of(word: &str) -> Result<ImportOutcome, StoreError> {
    Ok(match word {
        "imported" => ImportOutcome::Imported,
        "known" => ImportOutcome::Known,
        "too_large" => ImportOutcome::TooLarge,
        "not_an_object" => ImportOutcome::NotAnObject,
        _ => return Err(StoreError::Unexpected(format!("import_users() answers {word}"))),
    })
}

/// Jobs of an import of the same users that ended halfway; from now on they send as this one asks.
async fn take_over_jobs(tx: &mut PgConnection, plan: &ImportPlan) -> Result<Vec<(i64, String)>, sqlx::Error> {
    sqlx::query_as(
        "-- take_over_import_jobs
        update postbound.job as j
        set filter = $3, rate_per_second = $4, stop_after_failures = $5
        from (
            select distinct on (target) job_id from postbound.job
            where kind = 'import' and state = 'filling' and filter ->> 'tenant' = $1
              and ($2::text[] is null or target = any($2))
            order by target, job_id
        ) as left_over
        where j.job_id = left_over.job_id and j.state = 'filling'
        returning j.job_id, j.target",
    )
    .bind(&plan.tenant)
    .bind(&plan.targets)
    .bind(Json(&plan.operation.filter))
    .bind(plan.options.rate_per_second)
    .bind(plan.options.stop_after_failures)
    .fetch_all(tx)
    .await
}

/// Targets in use that want a user who came into being. Those that get every event only where they are named: no event
/// told of these users.
async fn targets_of(tx: &mut PgConnection, plan: &ImportPlan) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "-- import_targets
        select name from postbound.target
        where retired_at is null and postbound.admits(actions, tenants, name, $2, 'created', $1)
          and (fold or $1 is not null)
        order by name",
    )
    .bind(&plan.targets)
    .bind(&plan.tenant)
    .fetch_all(tx)
    .await
}

async fn add_items(
    tx: &mut PgConnection,
    jobs: &[i64],
    tenant: &str,
    users: &[&str],
) -> Result<(), StoreError> {
    let filling: Vec<i64> = sqlx::query_scalar(
        "-- lock_import_jobs
        select job_id from postbound.job where job_id = any($1) and state = 'filling' order by job_id for update",
    )
    .bind(jobs)
    .fetch_all(&mut *tx)
    .await?;
    if filling.len() < jobs.len() {
        return Err(StoreError::Unexpected(
            "a job of this import was cancelled meanwhile; what is imported so far stays, run it again for the rest".to_owned(),
        ));
    }
    sqlx::query(
        "-- add_import_items
        insert into postbound.job_item (job_id, item, tenant_id, user_id, version)
        select j.job_id, j.last_item + u.place, $2, u.user_id,
               (select s.version from postbound.user_state as s
                where s.tenant_id = $2 collate \"C\" and s.user_id = u.user_id collate \"C\")
        from (select o.job_id, coalesce((select max(i.item) from postbound.job_item as i where i.job_id = o.job_id), 0) as last_item
              from unnest($1::bigint[]) as o (job_id)) as j
        cross join unnest($3::text[]) with ordinality as u (user_id, place)",
    )
    .bind(jobs)
    .bind(tenant)
    .bind(users)
    .execute(tx)
    .await?;
    Ok(())
}
