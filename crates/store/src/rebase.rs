//! Beginning another history, after Postgres or RabbitMQ went back to an older state of its own.

use crate::{CreatedJob, JobOptions, Operation, ResyncFilter, Store, StoreError, audit, job_create::resync};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json};

/// Each begins anew, and a worker that was in the way has gone on meanwhile.
const REBASE_TRIES: u32 = 5;

/// How the database is made the truth again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebaseOptions {
    /// Versions are raised above this, and above all the database knows of.
    pub version_floor: i64,
    /// The cursors' transaction ids are another cluster's.
    pub foreign_cursors: bool,
    /// Whether users whom only the ledger knows are deleted at the targets.
    pub delete_lost: bool,
    /// The greatest epoch either side has seen.
    pub epoch: i64,
}

/// What a rebase did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebased {
    /// All users' versions were raised by so much.
    pub version_floor: i64,
    /// Users whose version was raised.
    pub users: i64,
    /// Users whom targets were sent and the database does not know, as far as the ledger tells.
    pub lost_users: i64,
    /// The first of them.
    pub lost_users_shown: Vec<LostUser>,
    /// Parked states of the lost future that were thrown away.
    pub parked_states: i64,
    /// Dead letters of the lost future that were discarded.
    pub letters: i64,
    /// Changes still to be published, or published again to targets that get every event and had not settled them, whose
    /// versions were raised with their users'.
    pub changes: i64,
}

/// A user of whom the database knows nothing, and a target was sent something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostUser {
    /// Tenant of the user.
    pub tenant: String,
    /// The user's id.
    pub user: String,
}

impl Store {
    /// Raises all versions, gives the targets another generation of queues, makes the jobs that send everybody's newest
    /// state to those that take newest states, and begins another history, in one transaction. Producers, and workers that
    /// settle, wait until it ends. Where Postgres ended it for a deadlock with one of them, it is done again.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was changed.
    pub async fn rebase(
        &self,
        options: RebaseOptions,
        operation: &Operation,
    ) -> Result<(Rebased, Vec<CreatedJob>), StoreError> {
        for _ in 1..REBASE_TRIES {
            match self.rebase_once(&options, operation).await {
                Err(error) if error.is_deadlock() => {}
                done => return done,
            }
        }
        self.rebase_once(&options, operation).await
    }

    async fn rebase_once(
        &self,
        options: &RebaseOptions,
        operation: &Operation,
    ) -> Result<(Rebased, Vec<CreatedJob>), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("-- rebase_lock\nselect postbound.lock_for_rebase()").execute(&mut *tx).await?;
        let done: Json<Rebased> = sqlx::query_scalar("-- rebase\nselect postbound.rebase($1, $2, $3)")
            .bind(options.version_floor)
            .bind(options.foreign_cursors)
            .bind(options.delete_lost)
            .fetch_one(&mut *tx)
            .await?;
        begin_history(&mut tx, options.epoch, Some(done.version_floor)).await?;
        // Ids of users stay in the command's answer.
        let mut counts = serde_json::to_value(&done.0).unwrap_or(Value::Null);
        if let Some(counts) = counts.as_object_mut() {
            counts.remove("lost_users_shown");
        }
        audit::write(&mut tx, operation, &counts).await?;
        let jobs = resync_targets(&mut tx, operation).await?;
        tx.commit().await?;
        Ok((done.0, jobs))
    }

    /// Has the log published again from its oldest row, to all targets, after RabbitMQ lost messages; gives how many
    /// targets. The ledger keeps what was delivered from being sent again.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was changed.
    pub async fn republish_log(&self, epoch: i64, operation: &Operation) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        let streams = rewind_targets(&mut tx).await?;
        begin_history(&mut tx, epoch, None).await?;
        audit::write(&mut tx, operation, &json!({ "rewound_targets": streams })).await?;
        tx.commit().await?;
        Ok(streams)
    }

    /// How many users, and how many targets' ledger entries name one the database does not know: for a dry run.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn rebase_counts(&self) -> Result<(i64, i64), StoreError> {
        Ok(sqlx::query_as(
            "-- rebase_counts
            select (select count(*) from postbound.user_head where version > 0),
                   (select count(distinct (l.tenant_id, l.user_id)) from postbound.delivery_ledger as l
                    where not exists (select from postbound.user_head as h where h.tenant_id = l.tenant_id
                                      and h.user_id = l.user_id and h.version > 0))",
        )
        .fetch_one(&self.pool)
        .await?)
    }
}

/// Changes that wait are not sent to these targets any more: their users' newest states are.
async fn resync_targets(tx: &mut PgConnection, operation: &Operation) -> Result<Vec<CreatedJob>, StoreError> {
    let targets: Vec<String> = sqlx::query_scalar(
        "-- targets_to_resync\nselect name from postbound.target where retired_at is null and fold order by name",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut jobs = Vec::new();
    for target in targets {
        let operation = Operation { filter: json!({ "resync": target }), ..operation.clone() };
        let filter = ResyncFilter { target, ..ResyncFilter::default() };
        jobs.extend(resync(tx, &filter, &JobOptions::default(), &operation).await?);
    }
    Ok(jobs)
}

async fn rewind_targets(tx: &mut PgConnection) -> Result<u64, StoreError> {
    let rewound = sqlx::query(
        "-- rewind_targets
        update postbound.stream_cursor as c
        set done_snapshot = '1:1:', open_snapshot = null, confirmed_id = null, rewinds = rewinds + 1, updated_at = now()
        from postbound.target as t where t.name = c.stream and t.retired_at is null",
    )
    .execute(&mut *tx)
    .await?;
    // What was sent is gone with the queues; what is parked is in Postgres.
    sqlx::query(
        "-- resend_lost_items
        update postbound.job_item as i set state = 'waiting'
        from postbound.job as j
        where j.job_id = i.job_id and j.finished_at is null and i.state = 'sent'
          and not exists (select from postbound.parked_state as p where p.job_id = i.job_id and p.job_item = i.item)",
    )
    .execute(&mut *tx)
    .await?;
    Ok(rewound.rows_affected())
}

/// RabbitMQ's witness of an older epoch is overwritten before the first beat. With a version floor, cursors are of the cluster
/// that is there now.
async fn begin_history(
    tx: &mut PgConnection,
    epoch: i64,
    version_floor: Option<i64>,
) -> Result<(), StoreError> {
    sqlx::query(
        "-- begin_history
        update postbound.witness
        set epoch = greatest(epoch, $1) + 1, lineage = gen_random_uuid(), beat = 0,
            version_max = greatest(version_max, $2),
            system_identifier = case when $3 then null else system_identifier end,
            timeline = case when $3 then null else timeline end,
            halted = null, halted_at = null",
    )
    .bind(epoch)
    .bind(version_floor.unwrap_or(0))
    .bind(version_floor.is_some())
    .execute(tx)
    .await?;
    Ok(())
}
