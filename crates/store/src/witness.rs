use crate::{Store, StoreError};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

/// What this database knows of the history it shares with RabbitMQ, and which server it is on now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseWitness {
    /// Grows with every rebase.
    pub epoch: i64,
    /// Name of the history.
    pub lineage: Uuid,
    /// Beats so far; 0: the history begins, and RabbitMQ is given its name before the first.
    pub beat: i64,
    /// The greatest version that was published.
    pub version_max: i64,
    /// The cluster the cursors are of; None: not known yet.
    pub system_identifier: Option<i64>,
    /// Its timeline at the last beat.
    pub timeline: Option<i32>,
    /// The server that answered.
    pub server: DatabaseServer,
}

/// A server of Postgres, from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseServer {
    /// Its cluster's.
    pub system_identifier: i64,
    /// Its timeline.
    pub timeline: i32,
    /// When its postmaster started: no two servers that ever answer here have the same.
    pub started: OffsetDateTime,
}

/// A row of the log as a stream took it for publishing: enough to know it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublishedRow {
    /// Its place in the log.
    pub id: i64,
    /// When it was written.
    pub logged_at: OffsetDateTime,
    /// Its event.
    pub event_id: Uuid,
}

/// Why the relay publishes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RelayHalt {
    /// What was found on each side, what it means, which command mends it.
    pub reason: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

impl DatabaseWitness {
    /// Whether the cursors were written in another cluster, in which their transaction ids meant something else.
    pub fn is_of_another_cluster(&self) -> bool {
        self.system_identifier.is_some_and(|recorded| recorded != self.server.system_identifier)
    }
}

impl Store {
    /// The database's side.
    ///
    /// # Errors
    /// When Postgres cannot be asked, or is a standby, which nothing can be published from.
    pub async fn database_witness(&self) -> Result<DatabaseWitness, StoreError> {
        type Row = (i64, Uuid, i64, i64, Option<i64>, Option<i32>, i64, i32, OffsetDateTime);
        let row: Row = sqlx::query_as(
            "-- database_witness
            select w.epoch, w.lineage, w.beat, w.version_max, w.system_identifier, w.timeline, c.system_identifier,
                   ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer,
                   pg_postmaster_start_time()
            from postbound.witness as w, pg_control_system() as c",
        )
        .fetch_one(&self.pool)
        .await?;
        let (
            epoch,
            lineage,
            beat,
            version_max,
            recorded_system,
            recorded_timeline,
            system,
            timeline,
            started,
        ) = row;
        Ok(DatabaseWitness {
            epoch,
            lineage,
            beat,
            version_max,
            system_identifier: recorded_system,
            timeline: recorded_timeline,
            server: DatabaseServer { system_identifier: system, timeline, started },
        })
    }

    /// One more beat after `seen`, on the server that was seen. False: the relay with this token leads no more, somebody
    /// else wrote since, or Postgres was restarted: look again.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn beat(
        &self,
        seen: &DatabaseWitness,
        version_max: i64,
        lease_token: i64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "-- beat
            update postbound.witness
            set beat = beat + 1, version_max = greatest(version_max, $3), system_identifier = $4, timeline = $5,
                beat_at = clock_timestamp()
            where lineage = $1 and beat = $2 and pg_postmaster_start_time() = $6
              and exists (select from postbound.relay_lease where token = $7)",
        )
        .bind(seen.lineage)
        .bind(seen.beat)
        .bind(version_max)
        .bind(seen.server.system_identifier)
        .bind(seen.server.timeline)
        .bind(seen.server.started)
        .bind(lease_token)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Those of these rows that the log should have and has not, or has as another event. Rows of days that were dropped
    /// from the log are not missed.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn missing_rows(&self, rows: &[PublishedRow]) -> Result<Vec<i64>, StoreError> {
        Ok(sqlx::query_scalar(
            "-- missing_rows
            select r.id from unnest($1::bigint[], $2::timestamptz[], $3::uuid[]) as r (id, logged_at, event_id)
            where exists (
                    select from pg_inherits as i
                    where i.inhparent = 'postbound.change_log'::regclass and not i.inhdetachpending
                      and i.inhrelid = to_regclass(
                          'postbound.change_log_' || to_char(r.logged_at at time zone 'UTC', 'YYYYMMDD')))
              and not exists (
                    select from postbound.change_log as c
                    where c.id = r.id and c.logged_at = r.logged_at and c.event_id = r.event_id)
            order by r.id",
        )
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.logged_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.event_id).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?)
    }

    /// Says why the relay publishes nothing, or that it does again. Written only where it changes.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn say_halted(&self, reason: Option<&str>) -> Result<(), StoreError> {
        sqlx::query(
            "-- say_halted
            update postbound.witness
            set halted = $1, halted_at = case when $1::text is not null then coalesce(halted_at, clock_timestamp()) end
            where halted is distinct from $1",
        )
        .bind(reason)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Why the relay publishes nothing; None: nothing keeps it from publishing.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn relay_halt(&self) -> Result<Option<RelayHalt>, StoreError> {
        let halt: Option<(String, OffsetDateTime)> = sqlx::query_as(
            "-- relay_halt\nselect halted, halted_at from postbound.witness where halted is not null",
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(halt.map(|(reason, since)| RelayHalt { reason, since }))
    }
}
