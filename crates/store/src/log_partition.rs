use crate::{Store, StoreError};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgExecutor};
use std::time::Duration;

/// A daily partition of the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPartition {
    /// Table name within the schema, `change_log_YYYYMMDD`.
    pub table: String,
    /// Days from today (UTC) to the partition's day; negative: past.
    pub days_from_today: i32,
    /// Whether its detaching was begun and not ended.
    pub detach_pending: bool,
}

/// What one round of maintenance did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Days for which a partition was made.
    pub created: u32,
    /// Partitions detached and dropped.
    pub dropped: Vec<String>,
    /// Partitions past retention that a cursor or an open transaction still needs; kept.
    pub kept: Vec<String>,
    /// Event ids that left the deduplication window.
    pub event_keys_pruned: u64,
}

/// What became of dropping a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropping {
    /// It is gone.
    Dropped,
    /// Transactions that may still see it were waited for in vain; the next round goes on from there.
    Pending,
    /// A stream has not read it, or a transaction is open that has written to it.
    StillNeeded,
}

/// The comment of a partition the relay is about to drop, by which it knows its own from those detached by hand.
const MARK: &str = "read by every stream; being dropped by the relay";

/// How long is waited for a lock that only a writer of the partition can withhold.
const LOCK_TIMEOUT: &str = "2s";

impl Store {
    /// Makes partitions up to `days_ahead`. Producers never wait for it, nor it for them.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn create_log_partitions(&self, days_ahead: u16) -> Result<u32, StoreError> {
        let mut created = 0;
        for day in -1..=i32::from(days_ahead) {
            let made: bool = sqlx::query_scalar(
                "-- create_log_partition
                select postbound.ensure_log_partition((now() at time zone 'UTC')::date + $1)",
            )
            .bind(day)
            .fetch_one(&self.pool)
            .await?;
            created += u32::from(made);
        }
        Ok(created)
    }

    /// The log's partitions, oldest first.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn log_partitions(&self) -> Result<Vec<LogPartition>, StoreError> {
        let rows: Vec<(String, i32, bool)> = sqlx::query_as(
            "-- log_partitions
            select c.relname::text, to_date(right(c.relname, 8), 'YYYYMMDD') - (now() at time zone 'UTC')::date,
                   i.inhdetachpending
            from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
            where i.inhparent = 'postbound.change_log'::regclass
            order by c.relname",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(table, days_from_today, detach_pending)| LogPartition {
                table,
                days_from_today,
                detach_pending,
            })
            .collect())
    }

    /// Whether every stream has read the whole of a partition: all its rows are in every stream's S1.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn is_log_partition_read(&self, partition: &LogPartition) -> Result<bool, StoreError> {
        is_read(&partition.table, &self.pool).await
    }

    /// Detaches a partition without blocking producers, waiting at most `patience` for transactions that still see
    /// it, and drops it; unless something in it is not read by every stream, or may not be.
    ///
    /// # Errors
    /// When Postgres refuses for another reason.
    pub async fn drop_log_partition(
        &self,
        partition: &LogPartition,
        patience: Duration,
    ) -> Result<Dropping, StoreError> {
        let table = quoted(&partition.table);
        // Concurrent detaching cannot run inside a transaction, and the timeouts are the session's: one of its own,
        // which ends with this call however that ends.
        let mut session = self.pool.acquire().await?.detach();
        let timeout = format!("set statement_timeout = {}", patience.as_millis());
        sqlx::raw_sql(AssertSqlSafe(timeout)).execute(&mut session).await?;
        match mark_if_unneeded(&mut session, &partition.table).await {
            Ok(true) => {}
            Ok(false) => return Ok(Dropping::StillNeeded),
            Err(error) => return timed_out(error),
        }
        let how = if partition.detach_pending { "finalize" } else { "concurrently" };
        let detach = format!("alter table postbound.change_log detach partition postbound.{table} {how}");
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut session).await {
            let outcome = timed_out(error.into());
            if outcome.is_err() {
                // It stays a partition: one that is detached by hand later is not ours.
                let unmark = format!("comment on table postbound.{table} is null");
                sqlx::raw_sql(AssertSqlSafe(unmark)).execute(&mut session).await.ok();
            }
            return outcome;
        }
        drop_if_read(&mut session, &partition.table).await
    }

    /// Tables that an earlier round has detached and not dropped. Those that somebody else has detached are not ours.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn detached_log_partitions(&self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "-- detached_log_partitions
            select c.relname::text from pg_class as c
            where c.relnamespace = 'postbound'::regnamespace and c.relkind = 'r' and c.relname ~ '^change_log_[0-9]{8}$'
              and obj_description(c.oid, 'pg_class') = $1
              and not exists (select from pg_inherits as i where i.inhrelid = c.oid)",
        )
        .bind(MARK)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Drops one table found by [`Store::detached_log_partitions`].
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn drop_detached_log_partition(&self, table: &str) -> Result<Dropping, StoreError> {
        let mut session = self.pool.acquire().await?;
        drop_if_read(&mut session, table).await
    }

    /// Forgets event ids older than the deduplication window, some thousands at a time.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn prune_event_keys(&self, window: Duration) -> Result<u64, StoreError> {
        let mut pruned = 0;
        loop {
            let done = sqlx::query(
                "-- prune_event_keys
                delete from postbound.event_key where event_id = any(array(
                    select event_id from postbound.event_key
                    where logged_at < clock_timestamp() - $1 * interval '1 second'
                    order by logged_at limit 5000))",
            )
            .bind(window.as_secs_f64())
            .execute(&self.pool)
            .await?;
            pruned += done.rows_affected();
            if done.rows_affected() < 5000 {
                return Ok(pruned);
            }
        }
    }
}

async fn is_read(table: &str, executor: impl PgExecutor<'_>) -> Result<bool, StoreError> {
    let sql = format!(
        "-- is_log_partition_read
        select not exists (
            select from postbound.stream_cursor as s
            where (select max(xid) from postbound.{}) >= pg_snapshot_xmin(s.done_snapshot))",
        quoted(table)
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(executor).await?)
}

/// Marks a partition as about to be dropped; false when it may not be. A transaction that has written to it and is
/// still open, prepared perhaps, has rows in it that nobody sees yet: it withholds the lock, and what it has written
/// would be lost with a table that no stream reads any more once it is detached.
async fn mark_if_unneeded(session: &mut PgConnection, table: &str) -> Result<bool, StoreError> {
    let mut tx = session.begin().await?;
    if !lock(&mut tx, table, "share").await? || !is_read(table, &mut *tx).await? {
        return Ok(false);
    }
    let mark = format!("comment on table postbound.{} is '{MARK}'", quoted(table));
    sqlx::raw_sql(AssertSqlSafe(mark)).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

/// Drops a detached partition; not if something came into it while it was detached, as it can when a clock went back.
async fn drop_if_read(session: &mut PgConnection, table: &str) -> Result<Dropping, StoreError> {
    let mut tx = session.begin().await?;
    if !lock(&mut tx, table, "access exclusive").await? {
        return Ok(Dropping::Pending);
    }
    if !is_read(table, &mut *tx).await? {
        return Ok(Dropping::StillNeeded);
    }
    sqlx::raw_sql(AssertSqlSafe(format!("drop table postbound.{}", quoted(table)))).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Dropping::Dropped)
}

/// Locks a table until the transaction ends; false when others withhold the lock.
async fn lock(tx: &mut PgConnection, table: &str, mode: &str) -> Result<bool, StoreError> {
    let sql = format!(
        "set local lock_timeout = '{LOCK_TIMEOUT}'; lock table postbound.{} in {mode} mode",
        quoted(table)
    );
    match sqlx::raw_sql(AssertSqlSafe(sql)).execute(tx).await {
        Ok(_) => Ok(true),
        // 55P03: the timeout ended the wait for the lock
        Err(sqlx::Error::Database(db)) if db.code().as_deref() == Some("55P03") => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A wait that took too long is no error.
fn timed_out(error: StoreError) -> Result<Dropping, StoreError> {
    match &error {
        // 57014: the timeout ended the statement
        StoreError::Database(sqlx::Error::Database(db)) if db.code().as_deref() == Some("57014") => {
            Ok(Dropping::Pending)
        }
        _ => Err(error),
    }
}

/// Table names come from the catalog; quoting keeps that an implementation detail.
fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
