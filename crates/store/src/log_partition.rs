use crate::{Store, StoreError};
use sqlx::AssertSqlSafe;
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
    /// Partitions past retention that a cursor still needs; kept.
    pub kept: Vec<String>,
    /// Event ids that left the deduplication window.
    pub event_keys_pruned: u64,
}

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
        let sql = format!(
            "-- is_log_partition_read
            select not exists (
                select from postbound.stream_cursor as s
                where (select max(xid) from postbound.{}) >= pg_snapshot_xmin(s.done_snapshot))",
            quoted(&partition.table)
        );
        Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await?)
    }

    /// Detaches a partition without blocking producers, waiting at most `patience` for transactions that still see
    /// it, and drops it. False when the wait was too long: the next round goes on from there.
    ///
    /// # Errors
    /// When Postgres refuses for another reason.
    pub async fn drop_log_partition(
        &self,
        partition: &LogPartition,
        patience: Duration,
    ) -> Result<bool, StoreError> {
        let table = quoted(&partition.table);
        // Concurrent detaching cannot run inside a transaction, and the timeout is the session's: one of its own, which
        // ends with this call however that ends.
        let mut session = self.pool.acquire().await?.detach();
        let detach = match partition.detach_pending {
            true => format!("alter table postbound.change_log detach partition postbound.{table} finalize"),
            false => {
                format!("alter table postbound.change_log detach partition postbound.{table} concurrently")
            }
        };
        sqlx::raw_sql(AssertSqlSafe(format!("set statement_timeout = {}", patience.as_millis())))
            .execute(&mut session)
            .await?;
        let detached = sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut session).await;
        let dropped = match detached {
            Ok(_) => {
                sqlx::raw_sql(AssertSqlSafe(format!("drop table postbound.{table}")))
                    .execute(&mut session)
                    .await
            }
            Err(error) => Err(error),
        };
        match dropped {
            Ok(_) => Ok(true),
            // 57014: the timeout ended the wait
            Err(sqlx::Error::Database(db)) if db.code().as_deref() == Some("57014") => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Drops tables that were detached in an earlier round but not dropped.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn detached_log_partitions(&self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "-- detached_log_partitions
            select c.relname::text from pg_class as c
            where c.relnamespace = 'postbound'::regnamespace and c.relkind = 'r' and c.relname ~ '^change_log_[0-9]{8}$'
              and not exists (select from pg_inherits as i where i.inhrelid = c.oid)",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Drops one table found by [`Store::detached_log_partitions`].
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn drop_detached_log_partition(&self, table: &str) -> Result<(), StoreError> {
        sqlx::raw_sql(AssertSqlSafe(format!("drop table postbound.{}", quoted(table))))
            .execute(&self.pool)
            .await?;
        Ok(())
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

/// Table names come from the catalog; quoting keeps that an implementation detail.
fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
