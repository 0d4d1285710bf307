use crate::{Generation, Operation, Registration, Store, StoreError, audit};
use postbound_event::Action;
use serde_json::json;
use sqlx::{PgConnection, types::Json};
use std::{collections::BTreeMap, str::FromStr as _};

/// A target as it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredTarget {
    /// What was registered.
    pub registration: Registration,
    /// Generation of its partition queues, that which the relay publishes to.
    pub generation: i32,
    /// The generation before, while workers still drain it.
    pub draining: Option<Generation>,
    /// Whether the relay publishes to `generation`, and to no older one any more.
    pub relay_moved_on: bool,
    /// Whether it left the configuration.
    pub retired: bool,
}

impl RegisteredTarget {
    /// Whether a job may send users' newest states to it, past events that wait: where states fold, and where it hears of
    /// nothing but registrations (`postbound.takes_newest_states`).
    pub fn takes_newest_states(&self) -> bool {
        self.registration.fold || self.registration.actions == [Action::Created]
    }

    /// The generation the relay publishes to.
    pub fn current(&self) -> Generation {
        Generation { number: self.generation, partitions: self.registration.partitions }
    }

    /// The generation workers may lease: the one before is drained first.
    pub fn leasable(&self) -> Generation {
        self.draining.unwrap_or_else(|| self.current())
    }
}

/// What targets may want to know of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The tenant's id.
    pub id: String,
    /// Display name.
    pub name: Option<String>,
    /// Subdomain of its site.
    pub subdomain: Option<String>,
    /// Id of its organization at the identity provider (seed 003: `kindeOrgId`).
    pub kinde_org_id: Option<String>,
}

type TenantRow = (String, Option<String>, Option<String>, Option<String>);

#[derive(sqlx::FromRow)]
struct TargetRow {
    name: String,
    adapter: String,
    actions: Vec<String>,
    origin: String,
    fold: bool,
    config_hash: String,
    settings: Json<BTreeMap<String, String>>,
    partitions: i32,
    generation: i32,
    draining_generation: Option<i32>,
    draining_partitions: Option<i32>,
    relay_moved_on: bool,
    retired: bool,
}

impl Store {
    /// Registers a target, or brings its registration up to date; a new one starts with the oldest row the log has.
    /// Gives whether it was new. The number of partitions of a known target stays: see [`Store::repartition_target`].
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn register_target(&self, target: &Registration) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let new = write_registration(&mut tx, target).await?;
        tx.commit().await?;
        Ok(new)
    }

    /// Retires a target: the relay stops publishing to it, producers can no longer name it, its unfinished jobs are
    /// cancelled. Gives how many jobs were, and writes the audit trail.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was changed.
    pub async fn retire_target(&self, name: &str, operation: &Operation) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        // A relay that has not noticed still holds the cursor: the next one must not be its own.
        sqlx::query(
            "-- retire_target
            update postbound.target as t
            set retired_at = now(),
                rewinds_before = coalesce((select c.rewinds + 1 from postbound.stream_cursor as c where c.stream = t.name),
                                          t.rewinds_before)
            where t.name = $1",
        )
        .bind(name)
        .execute(&mut *tx)
        .await?;
        // Without the cursor, the log need not be kept for it; registered anew it starts over.
        sqlx::query("-- retire_stream\ndelete from postbound.stream_cursor where stream = $1")
            .bind(name)
            .execute(&mut *tx)
            .await?;
        let jobs = cancel_jobs(&mut tx, name).await?;
        audit::write(&mut tx, operation, &json!({ "cancelled_jobs": jobs })).await?;
        tx.commit().await?;
        Ok(jobs)
    }

    /// All targets ever registered, by name.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn registered_targets(&self) -> Result<Vec<RegisteredTarget>, StoreError> {
        let rows: Vec<TargetRow> = sqlx::query_as(
            "-- registered_targets
            select t.name, t.adapter, t.actions, t.origin, t.fold, t.config_hash, t.settings, t.partitions, t.generation,
                   t.draining_generation, t.draining_partitions,
                   coalesce(c.generation = t.generation, false) as relay_moved_on, t.retired_at is not null as retired
            from postbound.target as t left join postbound.stream_cursor as c on c.stream = t.name
            order by t.name",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(registered_target).collect()
    }

    /// What is known of these tenants; those without a row are left out.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn tenants(&self, ids: &[&str]) -> Result<Vec<Tenant>, StoreError> {
        let rows: Vec<TenantRow> = sqlx::query_as(
            "-- tenants
            select tenant_id, name, subdomain, kinde_org_id from postbound.tenant where tenant_id = any($1)",
        )
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(id, name, subdomain, kinde_org_id)| Tenant { id, name, subdomain, kinde_org_id })
            .collect())
    }
}

/// Ends a retired target's jobs: its queues go, so that nothing would ever settle their items. Gives how many jobs.
async fn cancel_jobs(tx: &mut PgConnection, target: &str) -> Result<u64, sqlx::Error> {
    let jobs: Vec<i64> = sqlx::query_scalar(
        "-- cancel_jobs_of_retired
        update postbound.job
        set state = 'cancelled', state_reason = 'the target was retired', finished_at = clock_timestamp()
        where target = $1 and finished_at is null returning job_id",
    )
    .bind(target)
    .fetch_all(&mut *tx)
    .await?;
    // Another reason than an operator's: users of an import may be reconciled should the target come back.
    sqlx::query(
        "-- cancel_items_of_retired
        update postbound.job_item set state = 'skipped', reason = 'target_retired', settled_at = clock_timestamp()
        where job_id = any($1) and state = 'waiting'",
    )
    .bind(&jobs)
    .execute(tx)
    .await?;
    Ok(jobs.len() as u64)
}

/// Gives whether the target was new.
pub(crate) async fn write_registration(
    tx: &mut PgConnection,
    target: &Registration,
) -> Result<bool, StoreError> {
    let actions: Vec<&str> = target.actions.iter().map(|action| action.as_str()).collect();
    sqlx::query(
        "-- register_target
        insert into postbound.target (name, adapter, actions, origin, fold, config_hash, settings, partitions)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (name) do update set adapter = excluded.adapter, actions = excluded.actions,
            origin = excluded.origin, fold = excluded.fold, config_hash = excluded.config_hash,
            settings = excluded.settings, updated_at = now(), retired_at = null",
    )
    .bind(&target.name)
    .bind(&target.adapter)
    .bind(&actions)
    .bind(&target.origin)
    .bind(target.fold)
    .bind(&target.config_hash)
    .bind(Json(&target.settings))
    .bind(i32::from(target.partitions))
    .execute(&mut *tx)
    .await?;
    let cursor = sqlx::query(
        "-- register_stream
        insert into postbound.stream_cursor (stream, done_snapshot, rewinds)
        select name, '1:1:', rewinds_before from postbound.target where name = $1
        on conflict do nothing",
    )
    .bind(&target.name)
    .execute(tx)
    .await?;
    Ok(cursor.rows_affected() == 1)
}

fn registered_target(row: TargetRow) -> Result<RegisteredTarget, StoreError> {
    let actions = row
        .actions
        .iter()
        .map(|action| Action::from_str(action).map_err(|error| StoreError::Unexpected(error.to_string())))
        .collect::<Result<_, _>>()?;
    let draining = row.draining_generation.zip(row.draining_partitions);
    let draining = draining.map(|(number, partitions)| Generation::stored(number, partitions)).transpose()?;
    let current = Generation::stored(row.generation, row.partitions)?;
    Ok(RegisteredTarget {
        registration: Registration {
            name: row.name,
            adapter: row.adapter,
            actions,
            origin: row.origin,
            fold: row.fold,
            config_hash: row.config_hash,
            settings: row.settings.0,
            partitions: current.partitions,
        },
        generation: current.number,
        draining,
        relay_moved_on: row.relay_moved_on,
        retired: row.retired,
    })
}
