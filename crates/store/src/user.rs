use crate::{Operation, Store, StoreError, audit};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A user's newest change.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct UserHead {
    /// Version of the newest change; 0: locked once, never written.
    pub version: i64,
    /// Whether it was a delete.
    pub deleted: bool,
    /// Newest version whose state is in `user_state`; 0: none yet.
    pub projected_version: i64,
    /// The change that led to it.
    pub action: Option<String>,
    /// When that was written.
    #[serde(with = "time::serde::rfc3339::option")]
    pub changed_at: Option<OffsetDateTime>,
    /// When the user's data was removed for good.
    #[serde(with = "time::serde::rfc3339::option")]
    pub erased_at: Option<OffsetDateTime>,
}

/// Everything known of one user at one target.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct UserAtTarget {
    /// The target.
    pub target: String,
    /// Version of the user's newest change.
    pub newest_version: i64,
    /// Whether the target wants the newest change; None: the projection has not got to it yet.
    pub wanted: Option<bool>,
    /// Newest version the target took; 0: none.
    pub held_version: i64,
    /// Whether the target holds the user.
    pub present: bool,
    /// When `held_version` was settled.
    #[serde(with = "time::serde::rfc3339::option")]
    pub held_since: Option<OffsetDateTime>,
    /// The target's own id of the user.
    pub external_id: Option<String>,
    /// Its ids in systems behind the target, by system.
    pub links: Json<BTreeMap<String, String>>,
    /// Newest version that was dead-lettered; 0: none.
    pub dead_version: i64,
    /// Why.
    pub dead_reason: Option<String>,
    /// The newest open letter.
    pub open_letter: Option<i64>,
    /// Version of its state.
    pub letter_version: Option<i64>,
    /// Why it died.
    pub letter_reason: Option<String>,
    /// What the target said.
    pub letter_detail: Option<String>,
    /// Attempts of a parked user that failed; None: not parked.
    pub attempts: Option<i32>,
    /// Why it is parked.
    pub parked_reason: Option<String>,
    /// HTTP status of the last answer.
    pub parked_status: Option<i32>,
    /// What the target said.
    pub parked_detail: Option<String>,
    /// When the last attempt failed: the parked user's, else the open letter's.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_failed_at: Option<OffsetDateTime>,
    /// When it is tried again.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    /// Since when the target's breaker, or the tenant's there, is open.
    #[serde(with = "time::serde::rfc3339::option")]
    pub closed_since: Option<OffsetDateTime>,
    /// Why.
    pub closed_reason: Option<String>,
    /// When a probe may go out.
    #[serde(with = "time::serde::rfc3339::option")]
    pub probe_at: Option<OffsetDateTime>,
    /// The operator who paused it.
    pub paused_by: Option<String>,
    /// Their reason.
    pub pause_reason: Option<String>,
    /// When the newest state is sent once more, because an older request may still be executed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub doubt_until: Option<OffsetDateTime>,
}

/// One change of a user's, without its data.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct UserChange {
    /// Its place in the change log.
    pub log_id: i64,
    /// When it was written.
    #[serde(with = "time::serde::rfc3339")]
    pub logged_at: OffsetDateTime,
    /// The user's version after it.
    pub version: i64,
    /// What happened.
    pub action: String,
    /// The event.
    pub event_id: Uuid,
    /// Where it came from.
    pub origin: Option<String>,
    /// Targets it is for; None: all.
    pub targets: Option<Vec<String>>,
    /// The state after it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// One dead letter of a user's.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct UserLetter {
    /// The letter.
    pub letter_id: i64,
    /// The target.
    pub target: String,
    /// Version of its state.
    pub version: i64,
    /// Why.
    pub reason: String,
    /// Last failed attempt.
    #[serde(with = "time::serde::rfc3339")]
    pub last_failed_at: OffsetDateTime,
    /// Whether it is open.
    pub open: bool,
}

/// What came of an erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Whether it was done.
    pub erased: bool,
    /// Version up to which.
    pub version: i64,
    /// Whether the newest change is a delete.
    pub deleted: bool,
    /// Targets the newest change is for that have not settled it; `user_state` where that has not got to it.
    pub missing: Vec<MissingTarget>,
    /// Targets that hold the user, by the ledger.
    pub still_present: Vec<String>,
    /// Changes that lost their data.
    #[serde(default)]
    pub log_rows: i64,
    /// Dead letters that did.
    #[serde(default)]
    pub letters: i64,
    /// Parked states that were dropped.
    #[serde(default)]
    pub parked_states: i64,
    /// Identity links that were dropped.
    #[serde(default)]
    pub links: i64,
}

/// A target that has not settled the newest change yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingTarget {
    /// The target.
    pub target: String,
    /// Newest version it took; 0: none.
    pub delivered_version: i64,
}

impl Store {
    /// A user's newest change; None: nobody knows the user.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn user_head(&self, tenant: &str, user: &str) -> Result<Option<UserHead>, StoreError> {
        Ok(sqlx::query_as(
            "-- user_head
            select h.version, h.deleted, coalesce(s.version, 0) as projected_version, s.action, s.logged_at as changed_at,
                   e.erased_at
            from postbound.user_head as h
            left join postbound.user_state as s on s.tenant_id = h.tenant_id and s.user_id = h.user_id
            left join postbound.erased_user as e on e.tenant_id = h.tenant_id and e.user_id = h.user_id
            where h.tenant_id = $1 and h.user_id = $2",
        )
        .bind(tenant)
        .bind(user)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Where a user stands at each target in use.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn user_at_targets(&self, tenant: &str, user: &str) -> Result<Vec<UserAtTarget>, StoreError> {
        Ok(sqlx::query_as(
            "-- user_at_targets
            select t.name as target, h.version as newest_version,
                   case when s.version = h.version then postbound.admits(t.actions, t.tenants, t.name, h.tenant_id, s.action, s.targets) end as wanted,
                   coalesce(l.delivered_version, 0) as held_version, coalesce(l.present, false) as present,
                   l.delivered_at as held_since, i.external_id, coalesce(i.links, '{}') as links,
                   coalesce(l.dead_version, 0) as dead_version, l.dead_reason,
                   d.letter_id as open_letter, d.version as letter_version, d.reason as letter_reason, d.detail as letter_detail,
                   p.attempts, p.reason as parked_reason, p.status as parked_status, p.detail as parked_detail,
                   coalesce(p.last_failed_at, d.last_failed_at) as last_failed_at, p.next_attempt_at,
                   b.opened_at as closed_since, b.reason as closed_reason, b.retry_at as probe_at, b.paused_by, b.pause_reason,
                   q.due_at as doubt_until
            from postbound.user_head as h
            cross join postbound.target as t
            left join postbound.user_state as s on s.tenant_id = h.tenant_id and s.user_id = h.user_id
            left join postbound.delivery_ledger as l
              on l.target = t.name and l.tenant_id = h.tenant_id and l.user_id = h.user_id
            left join lateral (
                select min(k.external_id) filter (where k.system = '') as external_id,
                       jsonb_object_agg(k.system, k.external_id) filter (where k.system <> '') as links
                from postbound.identity_link as k
                where k.target = t.name and k.tenant_id = h.tenant_id and k.user_id = h.user_id
            ) as i on true
            left join postbound.parked_user as p
              on p.target = t.name and p.tenant_id = h.tenant_id and p.user_id = h.user_id
            left join postbound.doubt as q
              on q.target = t.name and q.tenant_id = h.tenant_id and q.user_id = h.user_id
            left join lateral (
                select o.letter_id, o.version, o.reason, o.detail, o.last_failed_at from postbound.open_dead_letter as o
                where o.target = t.name and o.tenant_id = h.tenant_id and o.user_id = h.user_id
                order by o.version desc, o.letter_id desc limit 1
            ) as d on true
            left join lateral (
                select c.opened_at, c.reason, c.retry_at, c.paused_by, c.pause_reason from postbound.breaker as c
                where c.target = t.name and c.tenant_id in ('', h.tenant_id)
                order by c.paused_by is null, c.tenant_id limit 1
            ) as b on true
            where h.tenant_id = $1 and h.user_id = $2 and h.version > 0 and t.retired_at is null
            order by t.name",
        )
        .bind(tenant)
        .bind(user)
        .fetch_all(&self.pool)
        .await?)
    }

    /// A user's changes since then, the newest first. Goes through the whole log of that time: it has no index by user.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn user_changes(
        &self,
        (tenant, user): (&str, &str),
        since: OffsetDateTime,
        limit: i64,
        with_data: bool,
    ) -> Result<Vec<UserChange>, StoreError> {
        Ok(sqlx::query_as(
            "-- user_changes
            select id as log_id, logged_at, version, action, event_id, origin, targets, case when $5 then data end as data
            from postbound.change_log
            where tenant_id = $1 and user_id = $2 and logged_at >= $3 order by version desc limit $4",
        )
        .bind(tenant)
        .bind(user)
        .bind(since)
        .bind(limit)
        .bind(with_data)
        .fetch_all(&self.pool)
        .await?)
    }

    /// A user's dead letters at all targets, the newest first.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn user_letters(
        &self,
        tenant: &str,
        user: &str,
        limit: i64,
    ) -> Result<Vec<UserLetter>, StoreError> {
        Ok(sqlx::query_as(
            "-- user_letters
            select d.letter_id, d.target, d.version, d.reason, d.last_failed_at, o.letter_id is not null as open
            from postbound.target as t
            join postbound.dead_letter as d on d.target = t.name
            left join postbound.open_dead_letter as o on o.letter_id = d.letter_id
            where d.tenant_id = $1 and d.user_id = $2 order by d.letter_id desc limit $3",
        )
        .bind(tenant)
        .bind(user)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Removes a user's data everywhere in the database, and leaves versions, ids and the proof. Refused, which the
    /// answer says, while a target has not settled the user's delete, unless it is forced. None: no such user.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was removed.
    pub async fn erase_user(
        &self,
        (tenant, user): (&str, &str),
        force: bool,
        operation: &Operation,
    ) -> Result<Option<Erasure>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let answer: Option<Value> =
            sqlx::query_scalar("-- erase_user\nselect postbound.erase_user($1, $2, $3)")
                .bind(tenant)
                .bind(user)
                .bind(force)
                .fetch_one(&mut *tx)
                .await?;
        let Some(answer) = answer else { return Ok(None) };
        let erasure: Erasure = serde_json::from_value(answer.clone())
            .map_err(|error| StoreError::Unexpected(error.to_string()))?;
        if erasure.erased {
            audit::write(&mut tx, operation, &answer).await?;
            tx.commit().await?;
        }
        Ok(Some(erasure))
    }
}
