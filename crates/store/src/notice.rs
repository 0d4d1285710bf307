//! Notices: what subscribed targets are told beside users' states. `ledger` and `job_run` write them.

use crate::{Operation, Store, StoreError, audit};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// A notice that was given up is kept for so long.
const DEAD_KEPT_DAYS: i32 = 30;
/// And any other, of a target that nobody works for any more.
const KEPT_DAYS: i32 = 60;

/// One notice, taken to be told.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Notice {
    /// The notice.
    pub notice_id: i64,
    /// Id of its event, the same for every attempt.
    pub event_id: Uuid,
    /// What happened: `identity.linked`, `sync.completed`.
    pub kind: String,
    /// Tenant of the user, where it is about one.
    pub tenant_id: Option<String>,
    /// The user, where it is about one.
    pub user_id: Option<String>,
    /// When it happened.
    pub noted_at: OffsetDateTime,
    /// Attempts that failed.
    pub attempts: i32,
    /// First failed attempt.
    pub first_failed_at: Option<OffsetDateTime>,
    /// What is told.
    pub data: Value,
}

/// A notice that is still to be told, or was given up; without what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct NoticeRow {
    /// The notice.
    pub notice_id: i64,
    /// Who is told.
    pub target: String,
    /// What happened: `identity.linked`, `sync.completed`.
    pub kind: String,
    /// Tenant of the user, where it is about one.
    pub tenant_id: Option<String>,
    /// The user, where it is about one.
    pub user_id: Option<String>,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    pub noted_at: OffsetDateTime,
    /// Attempts that failed.
    pub attempts: i32,
    /// When it is told next.
    #[serde(with = "time::serde::rfc3339")]
    pub next_attempt_at: OffsetDateTime,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// When it was given up.
    #[serde(with = "time::serde::rfc3339::option")]
    pub dead_at: Option<OffsetDateTime>,
}

/// How many notices a target has not taken.
#[derive(Debug, Clone, Default, PartialEq, sqlx::FromRow)]
pub struct NoticeBacklog {
    /// The target.
    pub target: String,
    /// Still to be told.
    pub waiting: i64,
    /// Age in seconds of the oldest of them; 0: there is none.
    pub oldest_seconds: f64,
    /// Given up, and kept for thirty days.
    pub given_up: i64,
}

/// What became of an attempt to tell a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The target has taken it.
    Taken,
    /// It failed for this reason, and is told again after a pause.
    Again(&'static str, Duration),
    /// It failed for this reason, and is given up.
    Dead(&'static str),
}

impl Store {
    /// Takes notices of a target that are due, for so long: another worker takes them only when that is over. None while
    /// the target is closed, retired, or registered with another configuration than `config_hash`.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn take_notices(
        &self,
        target: &str,
        config_hash: &str,
        hold: Duration,
        limit: i64,
    ) -> Result<Vec<Notice>, StoreError> {
        Ok(sqlx::query_as(
            "-- take_notices
            update postbound.notice as n
            set next_attempt_at = clock_timestamp() + $3 * interval '1 second'
            from (
                select d.notice_id from postbound.notice as d
                join postbound.target as t on t.name = d.target and t.retired_at is null and t.config_hash = $2
                where d.target = $1 and d.dead_at is null and d.next_attempt_at <= clock_timestamp()
                  and not exists (select from postbound.breaker as b where b.target = $1 and b.tenant_id = '')
                order by d.next_attempt_at limit $4 for update of d skip locked
            ) as due
            where n.notice_id = due.notice_id
            returning n.notice_id, n.event_id, n.kind, n.tenant_id, n.user_id, n.noted_at, n.attempts, n.first_failed_at,
                      n.data",
        )
        .bind(target)
        .bind(config_hash)
        .bind(hold.as_secs_f64())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Writes what became of an attempt.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn settle_notice(&self, notice: i64, told: Told) -> Result<(), StoreError> {
        let (reason, pause) = match told {
            Told::Taken => {
                sqlx::query("-- notice_taken\ndelete from postbound.notice where notice_id = $1")
                    .bind(notice)
                    .execute(&self.pool)
                    .await?;
                return Ok(());
            }
            Told::Again(reason, pause) => (reason, Some(pause)),
            Told::Dead(reason) => (reason, None),
        };
        sqlx::query(
            "-- notice_failed
            update postbound.notice
            set attempts = attempts + 1, reason = $2, first_failed_at = coalesce(first_failed_at, clock_timestamp()),
                next_attempt_at = clock_timestamp() + coalesce($3::float8, 0) * interval '1 second',
                dead_at = case when $3::float8 is null then clock_timestamp() end
            where notice_id = $1",
        )
        .bind(notice)
        .bind(reason)
        .bind(pause.map(|pause| pause.as_secs_f64()))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Gives back notices that were taken and of which no attempt was begun: they are due at once.
    ///
    /// # Errors
    /// When Postgres refuses; then they are due when the time they were taken for is over.
    pub async fn give_back_notices(&self, notices: &[i64]) -> Result<(), StoreError> {
        sqlx::query(
            "-- give_back_notices
            update postbound.notice set next_attempt_at = clock_timestamp() where notice_id = any($1)",
        )
        .bind(notices)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notices that are not taken yet, the oldest first; those that were given up before the others.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn notices(&self, target: Option<&str>, limit: i64) -> Result<Vec<NoticeRow>, StoreError> {
        Ok(sqlx::query_as(
            "-- notices
            select notice_id, target, kind, tenant_id, user_id, noted_at, attempts, next_attempt_at, reason, dead_at
            from postbound.notice where $1::text is null or target = $1
            order by dead_at is null, notice_id limit $2",
        )
        .bind(target)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// How many notices are not taken, of one target or of each that has some.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn notice_backlogs(&self, target: Option<&str>) -> Result<Vec<NoticeBacklog>, StoreError> {
        Ok(sqlx::query_as(
            "-- notice_backlogs
            select target, count(*) filter (where dead_at is null) as waiting,
                   coalesce(extract(epoch from clock_timestamp() - min(noted_at) filter (where dead_at is null)), 0)::float8
                       as oldest_seconds,
                   count(*) filter (where dead_at is not null) as given_up
            from postbound.notice where $1::text is null or target = $1
            group by target order by target",
        )
        .bind(target)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Has notices that were given up told again, of one target or of all, and writes the audit trail. Gives how many.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was changed.
    pub async fn retry_notices(
        &self,
        target: Option<&str>,
        operation: &Operation,
    ) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        let retried = sqlx::query(
            "-- retry_notices
            update postbound.notice
            set attempts = 0, first_failed_at = null, dead_at = null, next_attempt_at = clock_timestamp()
            where dead_at is not null and ($1::text is null or target = $1)",
        )
        .bind(target)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if retried > 0 {
            audit::write(&mut tx, operation, &json!({ "notices": retried })).await?;
        }
        tx.commit().await?;
        Ok(retried)
    }

    /// Removes notices of all targets that were given up, or written, long ago.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn prune_notices(&self) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "-- prune_notices
            delete from postbound.notice
            where dead_at < clock_timestamp() - make_interval(days => $1)
               or noted_at < clock_timestamp() - make_interval(days => $2)",
        )
        .bind(DEAD_KEPT_DAYS)
        .bind(KEPT_DAYS)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}
