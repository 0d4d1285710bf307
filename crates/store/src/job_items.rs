//! The items of a running job: what there is to send for them now, and what became of them.

use crate::{Saved, Store, StoreError};
use postbound_event::{Action, UserKey};
use std::str::FromStr as _;
use time::OffsetDateTime;
use uuid::Uuid;

/// An item that waits to be sent, with what there is to send now.
#[derive(Debug, Clone)]
pub struct JobItem {
    /// Place in the job.
    pub item: i64,
    /// The user.
    pub key: UserKey,
    /// The dead letter it is of, in a replay.
    pub letter: Option<JobLetter>,
    /// The state; None where there is none, or a letter that nobody can read.
    pub state: Option<JobState>,
}

/// What of a dead letter decides on its replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLetter {
    /// Number of the idempotency key its last attempt was sent under.
    pub resend: i32,
    /// Whether an attempt ended without anyone knowing how.
    pub unknown_outcome: bool,
    /// Whether anybody still wants it delivered.
    pub open: bool,
}

/// A state to be sent for an item.
#[derive(Debug, Clone)]
pub struct JobState {
    /// Version of the state.
    pub version: i64,
    /// The event that holds it.
    pub event_id: Uuid,
    /// Its place in the change log; 0 where that is not known.
    pub log_id: i64,
    /// What happened to the user.
    pub action: Action,
    /// Where the change came from.
    pub origin: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// When the change was written.
    pub logged_at: OffsetDateTime,
    /// The state as JSON text.
    pub data: String,
    /// Whether the target wants it.
    pub wanted: bool,
    /// Whether the user's data was removed for good, this version's too.
    pub erased: bool,
}

/// What became of an item that was waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedItem {
    /// Place in the job.
    pub item: i64,
    /// The version that was looked at; None: there was none.
    pub version: Option<i64>,
    /// What became of it.
    pub mark: ItemMark,
}

/// See [`MarkedItem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemMark {
    /// Its backfill queue has it.
    Sent,
    /// There is no need for it any more; why, a word of a closed set.
    Superseded(&'static str),
    /// There is nothing to send; why, likewise.
    Skipped(&'static str),
}

#[derive(sqlx::FromRow)]
struct ItemRow {
    item: i64,
    tenant_id: String,
    user_id: String,
    resend: Option<i32>,
    unknown_outcome: Option<bool>,
    open: bool,
    version: Option<i64>,
    event_id: Option<Uuid>,
    log_id: Option<i64>,
    action: Option<String>,
    origin: Option<String>,
    traceparent: Option<String>,
    logged_at: Option<OffsetDateTime>,
    data: Option<String>,
    wanted: Option<bool>,
    erased: bool,
}

impl Store {
    /// The next waiting items of a job after `after_item`, in order, with what there is to send for them now: the
    /// letter's state, the user's newest, or whichever is newer (a replay of current states). At most `rows`, and no
    /// more than the first that brings them to `data_bytes`.
    ///
    /// A target that gets every event never gets a newest state aside: the ledger would then count the events before it
    /// as settled. Only users of before Postbound go to it, in the state they were imported with; and to one that hears of
    /// registrations alone, those it has not heard of.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn job_page(
        &self,
        job: i64,
        after_item: i64,
        rows: i64,
        data_bytes: i64,
    ) -> Result<Vec<JobItem>, StoreError> {
        let found: Vec<ItemRow> = sqlx::query_as(
            "-- job_page
            select * from (
                select i.item, i.tenant_id, i.user_id, d.resend, d.unknown_outcome,
                       exists (select from postbound.open_dead_letter as o where o.letter_id = i.letter_id) as open,
                       s.version, s.event_id, s.log_id, s.action, s.origin, s.traceparent, s.logged_at, s.data, s.wanted,
                       coalesce(e.version >= s.version, false) as erased,
                       sum(coalesce(octet_length(s.data), 0)) over (order by i.item)
                           - coalesce(octet_length(s.data), 0) as bytes_before
                from (
                    select * from postbound.job_item
                    where job_id = $1 and item > $2 and state = 'waiting'
                    order by item limit $3
                ) as i
                join postbound.job as j on j.job_id = i.job_id
                join postbound.target as t on t.name = j.target
                left join postbound.dead_letter as d on d.letter_id = i.letter_id
                left join lateral (
                    select d.version, d.event_id, d.log_id, d.action, d.origin, d.traceparent, d.logged_at,
                           d.data::text as data, true as wanted
                    where d.event_id is not null
                    union all
                    select u.version, u.event_id, 0, u.action, u.origin, null, u.logged_at, u.data::text,
                           case when t.fold or j.kind = 'import' and u.version = coalesce(i.version, 1)
                                then postbound.admits(t.actions, t.tenants, t.name, u.tenant_id, u.action, u.targets)
                                else postbound.takes_newest_states(t.fold, t.actions) and u.action <> 'deleted'
                                 and postbound.admits(t.actions, t.tenants, t.name, u.tenant_id, 'created', u.targets)
                                 and not postbound.has_heard_of(t.name, u.tenant_id, u.user_id) end
                    from postbound.user_state as u
                    where u.tenant_id = i.tenant_id and u.user_id = i.user_id
                      and (i.letter_id is null or (j.use_current and postbound.takes_newest_states(t.fold, t.actions)))
                    order by wanted desc, version desc, log_id desc limit 1
                ) as s on true
                left join postbound.erased_user as e on e.tenant_id = i.tenant_id and e.user_id = i.user_id
            ) as page
            where bytes_before < $4
            order by item",
        )
        .bind(job)
        .bind(after_item)
        .bind(rows)
        .bind(data_bytes)
        .fetch_all(&self.pool)
        .await?;
        found.into_iter().map(job_item).collect()
    }

    /// Writes what became of waiting items. One that a worker has settled already stays settled. Items are locked in their
    /// order, as by workers that settle them.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was written.
    pub async fn mark_job_items(
        &self,
        job: i64,
        items: &[MarkedItem],
        lease_token: i64,
    ) -> Result<Saved, StoreError> {
        let held: bool = sqlx::query_scalar(
            "-- mark_job_items
            with lease as (
                select from postbound.relay_lease where token = $6
            ), asked as materialized (
                -- The job as a column: as a constant the planner, before it has statistics, would go through the whole job
                -- for each item.
                select i.job_id, i.item, n.state, n.reason, n.version
                from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[])
                    as n (job_id, item, state, reason, version)
                join postbound.job_item as i on i.job_id = n.job_id and i.item = n.item
                where exists (select from lease)
                order by i.job_id, i.item for update of i
            ), marked as (
                update postbound.job_item as i
                set version = coalesce(n.version, i.version),
                    state = case i.state when 'waiting' then n.state else i.state end,
                    reason = case i.state when 'waiting' then n.reason else i.reason end,
                    settled_at = case when i.state = 'waiting' and n.state <> 'sent' then clock_timestamp() else i.settled_at end
                from asked as n
                where i.job_id = n.job_id and i.item = n.item and (i.state = 'waiting' or i.version is null)
            )
            select exists (select from lease)",
        )
        .bind(vec![job; items.len()])
        .bind(items.iter().map(|marked| marked.item).collect::<Vec<_>>())
        .bind(items.iter().map(|marked| marked.mark.state()).collect::<Vec<_>>())
        .bind(items.iter().map(|marked| marked.mark.reason()).collect::<Vec<_>>())
        .bind(items.iter().map(|marked| marked.version).collect::<Vec<_>>())
        .bind(lease_token)
        .fetch_one(&self.pool)
        .await?;
        Ok(if held { Saved::Yes } else { Saved::Fenced })
    }
}

impl ItemMark {
    fn state(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Superseded(_) => "superseded",
            Self::Skipped(_) => "skipped",
        }
    }

    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Sent => None,
            Self::Superseded(reason) | Self::Skipped(reason) => Some(reason),
        }
    }
}

fn job_item(row: ItemRow) -> Result<JobItem, StoreError> {
    let letter = row.resend.zip(row.unknown_outcome);
    let letter =
        letter.map(|(resend, unknown_outcome)| JobLetter { resend, unknown_outcome, open: row.open });
    let state = match (row.version, row.event_id, row.log_id, row.action, row.logged_at, row.data) {
        (Some(version), Some(event_id), Some(log_id), Some(action), Some(logged_at), Some(data)) => {
            Some(JobState {
                version,
                event_id,
                log_id,
                action: Action::from_str(&action)
                    .map_err(|error| StoreError::Unexpected(error.to_string()))?,
                origin: row.origin,
                traceparent: row.traceparent,
                logged_at,
                data,
                wanted: row.wanted.unwrap_or(false),
                erased: row.erased,
            })
        }
        _ => None,
    };
    Ok(JobItem { item: row.item, key: UserKey { tenant: row.tenant_id, user: row.user_id }, letter, state })
}
