use crate::{Generation, Store, StoreError, breaker::from_millis};
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// A worker process, drawn at its start.
pub type WorkerId = Uuid;

/// A partition of one of a target's generations, owned by a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The owner.
    pub worker: WorkerId,
    /// Number of the generation.
    pub generation: i32,
    /// The partition.
    pub partition: u16,
}

/// What one round of balancing gave and took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseChange {
    /// All partitions the worker owns after the round.
    pub owned: Vec<u16>,
    /// How many it should give up, once drained, so that others get their share.
    pub surplus: usize,
    /// Live workers that serve the target, this one included.
    pub workers: usize,
}

impl Store {
    /// Writes the worker's heartbeat: its leases hold until `lease` from now. Count the time from before the call.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn heartbeat(
        &self,
        worker: WorkerId,
        label: &str,
        targets: &[String],
        lease: Duration,
    ) -> Result<(), StoreError> {
        // A row that ran out was perhaps swept by another worker; its partitions are gone, and it starts afresh.
        sqlx::query(
            "-- heartbeat
            insert into postbound.worker as w (worker_id, label, targets, expires_at)
            values ($1, $2, $3, clock_timestamp() + $4 * interval '1 millisecond')
            on conflict on constraint worker_pk do update
                set expires_at = excluded.expires_at, targets = excluded.targets",
        )
        .bind(worker)
        .bind(label)
        .bind(targets)
        .bind(lease.as_millis() as f64)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Tells the other workers how long ago targets last took a state from this one, and gives the same of them: the
    /// shortest time of all others, by target.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn share_successes(
        &self,
        worker: WorkerId,
        own: &[(String, Duration)],
    ) -> Result<Vec<(String, Duration)>, StoreError> {
        let others: Vec<(String, i64)> = sqlx::query_as(
            "-- share_successes
            with own as (
                update postbound.worker set succeeded_targets = $2, succeeded_at = array(
                    select clock_timestamp() - u.age_ms * interval '1 millisecond'
                    from unnest($3::float8[]) with ordinality as u (age_ms, place) order by u.place)
                where worker_id = $1
            )
            select s.target, (extract(epoch from clock_timestamp() - max(s.at)) * 1000)::bigint
            from postbound.worker as w, unnest(w.succeeded_targets, w.succeeded_at) as s (target, at)
            where w.worker_id <> $1 group by s.target",
        )
        .bind(worker)
        .bind(own.iter().map(|(target, _)| target.as_str()).collect::<Vec<_>>())
        .bind(own.iter().map(|(_, age)| age.as_millis() as f64).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        Ok(others.into_iter().map(|(target, age_ms)| (target, from_millis(age_ms))).collect())
    }

    /// Takes free partitions of a target's generation up to the worker's fair share, and says how many it has too many.
    /// Those found empty for good are not given out again, and none is while any partition of another generation is
    /// leased: one user is never worked on in two partitions.
    ///
    /// Workers balance one after the other, under a lock of the target's.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn balance_partitions(
        &self,
        worker: WorkerId,
        target: &str,
        generation: Generation,
    ) -> Result<LeaseChange, StoreError> {
        let mut tx = self.pool.begin().await?;
        lock_leases(&mut tx, target).await?;
        // A worker's place among its peers, by age, decides who takes the odd partition: shares settle, and one that joins
        // moves no more partitions than it takes.
        let (workers, place): (i64, i64) = sqlx::query_as(
            "-- live_workers
            select count(*), count(*) filter (where (w.started_at, w.worker_id) < (me.started_at, me.worker_id))
            from postbound.worker as w left join postbound.worker as me on me.worker_id = $1
            where w.expires_at > clock_timestamp() and $2 = any(w.targets)",
        )
        .bind(worker)
        .bind(target)
        .fetch_one(&mut *tx)
        .await?;
        let (workers, place) = (workers.max(1) as u64, place as u64);
        let drained: i64 = sqlx::query_scalar(
            "-- count_drained_partitions
            select count(*) from postbound.drained_partition where target = $1 and generation = $2",
        )
        .bind(target)
        .bind(generation.number)
        .fetch_one(&mut *tx)
        .await?;
        let partitions = u64::from(generation.partitions).saturating_sub(drained as u64);
        let share = fair_share(partitions, workers, place);
        let owned: Vec<i32> = sqlx::query_scalar(
            "-- owned_partitions
            select partition from postbound.partition_lease
            where target = $1 and worker_id = $2 and generation = $3 order by partition",
        )
        .bind(target)
        .bind(worker)
        .bind(generation.number)
        .fetch_all(&mut *tx)
        .await?;
        let wanted = share.saturating_sub(owned.len());
        let taken = match wanted {
            0 => Vec::new(),
            _ => take_partitions(&mut tx, worker, target, generation, wanted).await?,
        };
        tx.commit().await?;
        let surplus = owned.len().saturating_sub(share);
        let mut owned: Vec<u16> =
            owned.into_iter().chain(taken).filter_map(|p| u16::try_from(p).ok()).collect();
        owned.sort_unstable();
        Ok(LeaseChange { owned, surplus, workers: workers as usize })
    }

    /// How many messages to take ahead from the live queue of a leased partition, `wanted` at least: as many as an earlier
    /// consumer may have given back. `is_empty`: the queue is, so that none was. What is given is kept, as this consumer may
    /// give back as many. None: the lease is another worker's.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn partition_prefetch(
        &self,
        target: &str,
        lease: Lease,
        wanted: u16,
        is_empty: bool,
    ) -> Result<Option<u16>, StoreError> {
        let messages: Option<i32> = sqlx::query_scalar(
            "-- partition_prefetch
            insert into postbound.partition_prefetch as p (target, generation, partition, messages)
            select l.target, l.generation, l.partition, $5 from postbound.partition_lease as l
            where l.target = $1 and l.generation = $2 and l.partition = $3 and l.worker_id = $4 for share
            on conflict on constraint partition_prefetch_pk do update
                set messages = case when $6 then excluded.messages else greatest(p.messages, excluded.messages) end
            returning messages",
        )
        .bind(target)
        .bind(lease.generation)
        .bind(i32::from(lease.partition))
        .bind(lease.worker)
        .bind(i32::from(wanted))
        .bind(is_empty)
        .fetch_optional(&self.pool)
        .await?;
        let messages = messages.map(u16::try_from).transpose();
        messages.map_err(|error| StoreError::Unexpected(error.to_string()))
    }

    /// Gives partitions back, after their lanes are drained.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn release_partition(
        &self,
        worker: WorkerId,
        target: &str,
        generation: i32,
        partition: u16,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "-- release_partition
            delete from postbound.partition_lease
            where target = $1 and generation = $2 and partition = $3 and worker_id = $4",
        )
        .bind(target)
        .bind(generation)
        .bind(i32::from(partition))
        .bind(worker)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Ends a worker: its partitions are free at once.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn sign_off(&self, worker: WorkerId) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("-- sign_off_partitions\ndelete from postbound.partition_lease where worker_id = $1")
            .bind(worker)
            .execute(&mut *tx)
            .await?;
        sqlx::query("-- sign_off\ndelete from postbound.worker where worker_id = $1")
            .bind(worker)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Sweeps heartbeat rows of workers that died a day ago.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn sweep_dead_workers(&self) -> Result<(), StoreError> {
        sqlx::query(
            "-- sweep_dead_workers
            delete from postbound.worker as w where expires_at < clock_timestamp() - interval '1 day'
              and not exists (select from postbound.partition_lease as l where l.worker_id = w.worker_id)",
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// One after the other: who changes a target's leases waits for whoever does so now.
pub(crate) async fn lock_leases(tx: &mut PgConnection, target: &str) -> Result<(), StoreError> {
    sqlx::query(
        "-- lock_target_leases\nselect pg_advisory_xact_lock(hashtextextended('postbound.lease.' || $1, 0))",
    )
    .bind(target)
    .execute(tx)
    .await?;
    Ok(())
}

/// Holds leases for the rest of the transaction: until then nobody else can take them over. Says of each whether it is
/// its worker's still; what has no lease is not asked about.
///
/// A worker that is stopped in the middle of the transaction loses it (`StoreOptions::by_index`): its partitions are not
/// to wait for it.
pub(crate) async fn hold_leases<'a>(
    tx: &mut PgConnection,
    leases: impl Iterator<Item = (&'a str, Option<Lease>)> + Clone,
) -> Result<Vec<bool>, StoreError> {
    let asked: Vec<(&str, Lease)> =
        leases.clone().filter_map(|(target, lease)| Some((target, lease?))).collect();
    if asked.is_empty() {
        return Ok(leases.map(|_| true).collect());
    }
    let held: Vec<HeldLease> = sqlx::query_as(
        "-- hold_leases
        with held as materialized (
            select l.target, l.generation, l.partition
            from (select distinct target collate \"C\" as target, worker_id, generation, partition
                  from unnest($1::text[], $2::uuid[], $3::integer[], $4::integer[])
                    as u (target, worker_id, generation, partition)) as a
            join postbound.partition_lease as l
              on l.target = a.target and l.generation = a.generation and l.partition = a.partition
             and l.worker_id = a.worker_id
            order by l.target, l.generation, l.partition for share of l
        )
        select target, generation, partition
        from held",
    )
    .bind(asked.iter().map(|(target, _)| *target).collect::<Vec<_>>())
    .bind(asked.iter().map(|(_, lease)| lease.worker).collect::<Vec<_>>())
    .bind(asked.iter().map(|(_, lease)| lease.generation).collect::<Vec<_>>())
    .bind(asked.iter().map(|(_, lease)| i32::from(lease.partition)).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    Ok(leases.map(|(target, lease)| is_held(&held, target, lease)).collect())
}

/// Target, generation and partition of a lease that is its worker's.
pub(crate) type HeldLease = (String, i32, i32);

/// Whether a lease is among those that are its worker's still; without one, nothing is asked.
pub(crate) fn is_held(held: &[HeldLease], target: &str, lease: Option<Lease>) -> bool {
    lease.is_none_or(|lease| {
        held.iter().any(|(of, generation, partition)| {
            of == target && *generation == lease.generation && *partition == i32::from(lease.partition)
        })
    })
}

/// Takes partitions nobody owns, if the generation may be leased.
async fn take_partitions(
    tx: &mut PgConnection,
    worker: WorkerId,
    target: &str,
    generation: Generation,
    wanted: usize,
) -> Result<Vec<i32>, StoreError> {
    let taken = sqlx::query_scalar(
        "-- take_partitions
        with held as (
            select l.generation, l.partition from postbound.partition_lease as l
            join postbound.worker as w on w.worker_id = l.worker_id and w.expires_at > clock_timestamp()
            where l.target = $1), left_behind as materialized (
            -- What the last owner is writing under its lease is waited for: the partition is taken the next time.
            select l.partition from postbound.partition_lease as l
            where l.target = $1 and l.generation = $2 and not exists (
                select from postbound.worker as w
                where w.worker_id = l.worker_id and w.expires_at > clock_timestamp())
            for update skip locked)
        insert into postbound.partition_lease as l (target, generation, partition, worker_id)
        select $1, $2, free.partition, $3 from (
            select p as partition from generate_series(0, $4 - 1) as p
            where not exists (select from held where held.generation = $2 and held.partition = p)
              and (exists (select from left_behind as b where b.partition = p) or not exists (
                select from postbound.partition_lease as l
                where l.target = $1 and l.generation = $2 and l.partition = p))
              and not exists (
                select from postbound.drained_partition as d
                where d.target = $1 and d.generation = $2 and d.partition = p)
              and not exists (select from held where held.generation <> $2)
              and exists (
                select from postbound.target as t
                where t.name = $1 and coalesce(t.draining_generation, t.generation) = $2)
            order by p limit $5) as free
        on conflict on constraint partition_lease_pk do update
            set worker_id = excluded.worker_id, acquired_at = now()
        returning partition",
    )
    .bind(target)
    .bind(generation.number)
    .bind(worker)
    .bind(i32::from(generation.partitions))
    .bind(wanted as i64)
    .fetch_all(tx)
    .await?;
    Ok(taken)
}

/// Partitions for the worker at `place` among `workers`.
fn fair_share(partitions: u64, workers: u64, place: u64) -> usize {
    let odd = u64::from(place < partitions % workers);
    usize::try_from(partitions / workers + odd).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::fair_share;

    #[test]
    fn shares_add_up_to_all_partitions_whatever_the_number_of_workers() {
        for partitions in [1, 2, 16, 255] {
            for workers in 1..40 {
                let shares: Vec<_> =
                    (0..workers).map(|place| fair_share(partitions, workers, place)).collect();
                assert_eq!(shares.iter().sum::<usize>() as u64, partitions);
                assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            }
        }
    }
}
