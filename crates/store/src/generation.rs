//! Changing a target's number of partitions: a new generation of queues, leased when the one before is empty.
//!
//! The relay publishes to the current generation from its next session on. Its cursor is fenced when the registration
//! changes: what a session of the generation before gets confirmed after that is not counted, and published again to the
//! current one. So a live message that reaches an old queue late is a duplicate, and an old queue found empty after the
//! relay has gone on holds nothing that is needed.
//!
//! A job's message that reaches an old backfill queue late is not published again with the log. Its items stay sent until
//! the relay misses them (`relay.job_lost_after`) and sends them to the current generation.

use crate::{
    Registration, Store, StoreError, WorkerId, target::write_registration, worker_lease::lock_leases,
};
use serde::Serialize;

/// A generation of a target's partition queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// From 1.
    pub number: i32,
    /// Number of partitions.
    pub partitions: u16,
}

impl Generation {
    pub(crate) fn stored(number: i32, partitions: i32) -> Result<Self, StoreError> {
        let partitions =
            u16::try_from(partitions).map_err(|error| StoreError::Unexpected(error.to_string()))?;
        Ok(Self { number, partitions })
    }
}

/// A target whose partitions are changing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrainingTarget {
    /// The target.
    pub target: String,
    /// The generation workers drain.
    pub generation: i32,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many of them are empty for good.
    pub drained: i64,
    /// Whether the relay publishes to the current generation; until then nothing is empty for good.
    pub relay_moved_on: bool,
}

/// A partition of a past generation, whose queues may still be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastPartition {
    /// Its generation.
    pub generation: i32,
    /// Its number.
    pub partition: u16,
}

type DrainingRow = (String, i32, i32, i64, bool);

impl Store {
    /// Registers a target with another number of partitions, as the generation after `current`, which is drained first.
    /// False: meanwhile somebody else did, or `current` still waits for the generation before it.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn repartition_target(&self, target: &Registration, current: i32) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let moved = sqlx::query(
            "-- repartition_target
            update postbound.target
            set draining_generation = generation, draining_partitions = partitions,
                generation = generation + 1, partitions = $3, updated_at = now()
            where name = $1 and generation = $2 and draining_generation is null",
        )
        .bind(&target.name)
        .bind(current)
        .bind(i32::from(target.partitions))
        .execute(&mut *tx)
        .await?;
        if moved.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(
            "-- fence_past_generation
            update postbound.stream_cursor set rewinds = rewinds + 1 where stream = $1",
        )
        .bind(&target.name)
        .execute(&mut *tx)
        .await?;
        write_registration(&mut tx, target).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Says which generation a stream publishes to from now on. False: the target is registered with another one, or a
    /// newer relay has the stream.
    ///
    /// Call it after the cursor is claimed: a claim from before the registration changed cannot move the cursor.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn enter_generation(
        &self,
        stream: &str,
        lease_token: i64,
        generation: i32,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "-- enter_generation
            update postbound.stream_cursor set generation = $3
            where stream = $1 and lease_token <= $2
              and exists (select from postbound.target where name = $1 and generation = $3)",
        )
        .bind(stream)
        .bind(lease_token)
        .bind(generation)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives a partition back for good: its queues were found empty after the relay had gone on. True: it was the last
    /// one, and workers may lease the current generation.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn retire_partition(
        &self,
        worker: WorkerId,
        target: &str,
        generation: i32,
        partition: u16,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        // One after the other, so that the last one sees all others.
        lock_leases(&mut tx, target).await?;
        sqlx::query(
            "-- retire_partition
            insert into postbound.drained_partition (target, generation, partition)
            select name, $2, $3 from postbound.target where name = $1 and draining_generation = $2
            on conflict do nothing",
        )
        .bind(target)
        .bind(generation)
        .bind(i32::from(partition))
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "-- release_retired_partition
            delete from postbound.partition_lease
            where target = $1 and generation = $2 and partition = $3 and worker_id = $4",
        )
        .bind(target)
        .bind(generation)
        .bind(i32::from(partition))
        .bind(worker)
        .execute(&mut *tx)
        .await?;
        let finished = sqlx::query(
            "-- finish_generation
            update postbound.target as t
            set draining_generation = null, draining_partitions = null, updated_at = now()
            where t.name = $1 and t.draining_generation = $2 and t.draining_partitions = (
                select count(*) from postbound.drained_partition as d where d.target = $1 and d.generation = $2)",
        )
        .bind(target)
        .bind(generation)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(finished.rows_affected() == 1)
    }

    /// Targets whose partitions are changing.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn draining_targets(&self) -> Result<Vec<DrainingTarget>, StoreError> {
        let rows: Vec<DrainingRow> = sqlx::query_as(
            "-- draining_targets
            select t.name, t.draining_generation, t.draining_partitions, count(d.partition),
                   coalesce(bool_and(c.generation = t.generation), false)
            from postbound.target as t
            left join postbound.stream_cursor as c on c.stream = t.name
            left join postbound.drained_partition as d on d.target = t.name and d.generation = t.draining_generation
            where t.draining_generation is not null and t.retired_at is null
            group by t.name order by t.name",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(target, generation, partitions, drained, relay_moved_on)| DrainingTarget {
                target,
                generation,
                partitions,
                drained,
                relay_moved_on,
            })
            .collect())
    }

    /// A target's partitions of past generations whose queues were not deleted yet; not of one still being drained.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn past_partitions(&self, target: &str) -> Result<Vec<PastPartition>, StoreError> {
        let rows: Vec<(i32, i32)> = sqlx::query_as(
            "-- past_partitions
            select d.generation, d.partition
            from postbound.drained_partition as d join postbound.target as t on t.name = d.target
            where d.target = $1 and d.generation < coalesce(t.draining_generation, t.generation)
            order by d.generation, d.partition",
        )
        .bind(target)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(generation, partition)| {
                let partition =
                    u16::try_from(partition).map_err(|error| StoreError::Unexpected(error.to_string()))?;
                Ok(PastPartition { generation, partition })
            })
            .collect()
    }

    /// The queues of a past partition are deleted.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn forget_past_partition(&self, target: &str, past: &PastPartition) -> Result<(), StoreError> {
        sqlx::query(
            "-- forget_past_partition
            with prefetch as (
                delete from postbound.partition_prefetch where target = $1 and generation = $2 and partition = $3)
            delete from postbound.drained_partition where target = $1 and generation = $2 and partition = $3",
        )
        .bind(target)
        .bind(past.generation)
        .bind(i32::from(past.partition))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
