use crate::{Store, StoreError};
use sqlx::Row as _;
use time::OffsetDateTime;
use uuid::Uuid;

/// One row of the change log, as the relay reads it.
#[derive(Debug, Clone)]
pub struct LogRow {
    /// Order of the log.
    pub id: i64,
    /// When the row was written.
    pub logged_at: OffsetDateTime,
    /// The user's version after the change.
    pub version: i64,
    /// The event's id.
    pub event_id: Uuid,
    /// Tenant of the user.
    pub tenant_id: String,
    /// The user's id.
    pub user_id: String,
    /// created, updated or deleted.
    pub action: String,
    /// Where the change came from.
    pub origin: Option<String>,
    /// Targets it is for; None: all.
    pub targets: Option<Vec<String>>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The user's state as JSON text.
    pub data: String,
}

/// The lowest and highest id of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowBounds {
    /// No row of the window has a lower id.
    pub first_id: i64,
    /// No fresh row of the window has a lower id; only stragglers may. Pages of fresh rows begin here, or they would
    /// go through all that lies between an old straggler and them.
    pub fresh_first_id: i64,
    /// No row of the window has a higher id.
    pub last_id: i64,
}

/// How much one page may hold.
#[derive(Debug, Clone, Copy)]
pub struct PageLimits {
    /// Rows at most.
    pub rows: i64,
    /// Bytes of data at most, but for the row that crosses the limit.
    pub data_bytes: i64,
}

/// A stretch of a window, by id.
#[derive(Debug)]
pub struct Page {
    /// Its rows.
    pub rows: Vec<LogRow>,
    /// Whether the window has no row after them.
    pub is_last: bool,
}

// A bare delete goes out with the last known state, as far as the projection has it: targets render deletes from it.
// One that has the delete already has kept the state before it; one that is behind would give an older state, and the
// worker may have a newer one to fold into the delete.
//
// The window (S1 = $1, S2 = $2] is made of
//   fresh rows:  xmax(S1) <= xid < xmax(S2), committed in S2; and
//   stragglers:  xids that were running in S1 and are committed in S2.
// A transaction can draw its log id before S1 is taken and still have an xid of at least xmax(S1), so ids alone do not
// bound the window; (xid, id) does, and from it come the bounds by which the pages then go along the primary key.

// "id + 0" keeps the planner from going along the primary key, through the whole history, where (xid, id) is meant.
const WINDOW_BOUNDS: &str = "-- window_bounds
    select least(fresh.first_id, late.first_id), coalesce(fresh.first_id, late.last_id), greatest(fresh.last_id, late.last_id)
    from (
        select min(id + 0) as first_id, max(id + 0) as last_id from postbound.change_log
        where xid >= pg_snapshot_xmax($1::pg_snapshot) and xid < pg_snapshot_xmax($2::pg_snapshot)
          and pg_visible_in_snapshot(xid, $2::pg_snapshot)
    ) as fresh, (
        select min(id + 0) as first_id, max(id + 0) as last_id from postbound.change_log
        where xid = any(array(select pg_snapshot_xip($1::pg_snapshot)))
          and pg_visible_in_snapshot(xid, $2::pg_snapshot)
    ) as late";

const WINDOW_PAGE: &str = "-- window_page
    select id, logged_at, version, event_id, tenant_id, user_id, action, origin, targets, traceparent,
           case when action = 'deleted' and data = '{}' then coalesce((
               select s.data::text from postbound.user_state as s
               where s.tenant_id = measured.tenant_id and s.user_id = measured.user_id
                 and s.version between measured.version - 1 and measured.version
           ), data) else data end
    from (
        select page.*, sum(octet_length(data)) over (order by id) - octet_length(data) as bytes_before
        from (
            (select id, logged_at, version, event_id, tenant_id, user_id, action, origin, targets, traceparent,
                    data::text as data
             from postbound.change_log
             where id > greatest($3, $7) and id <= $4
               and xid >= pg_snapshot_xmax($1::pg_snapshot) and pg_visible_in_snapshot(xid, $2::pg_snapshot)
             order by id limit $5)
            union all
            (select id, logged_at, version, event_id, tenant_id, user_id, action, origin, targets, traceparent,
                    data::text as data
             from postbound.change_log
             where id > $3 and xid = any(array(select pg_snapshot_xip($1::pg_snapshot)))
               and pg_visible_in_snapshot(xid, $2::pg_snapshot)
             order by id + 0 limit $5)
            order by id limit $5
        ) as page
    ) as measured
    where bytes_before < $6
    order by id";

impl Store {
    /// The lowest and highest id of the window between two snapshots; None when it is empty. One look into the
    /// index of each log partition when there is nothing new.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn window_bounds(&self, s1: &str, s2: &str) -> Result<Option<WindowBounds>, StoreError> {
        let (first_id, fresh_first_id, last_id): (Option<i64>, Option<i64>, Option<i64>) =
            sqlx::query_as(WINDOW_BOUNDS).bind(s1).bind(s2).fetch_one(&self.pool).await?;
        let (Some(first_id), Some(fresh_first_id), Some(last_id)) = (first_id, fresh_first_id, last_id)
        else {
            return Ok(None);
        };
        Ok(Some(WindowBounds { first_id, fresh_first_id, last_id }))
    }

    /// The next rows of a window after `after_id`, in order.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn window_page(
        &self,
        (s1, s2): (&str, &str),
        bounds: WindowBounds,
        after_id: i64,
        limits: PageLimits,
    ) -> Result<Page, StoreError> {
        let found = sqlx::query(WINDOW_PAGE)
            .bind(s1)
            .bind(s2)
            .bind(after_id.max(bounds.first_id - 1))
            .bind(bounds.last_id)
            .bind(limits.rows)
            .bind(limits.data_bytes)
            .bind(bounds.fresh_first_id - 1)
            .fetch_all(&self.pool)
            .await?;
        let rows = found.iter().map(log_row).collect::<Result<Vec<_>, _>>()?;
        let is_last = rows.last().is_none_or(|row| row.id >= bounds.last_id);
        Ok(Page { rows, is_last })
    }
}

fn log_row(row: &sqlx::postgres::PgRow) -> Result<LogRow, sqlx::Error> {
    Ok(LogRow {
        id: row.try_get(0)?,
        logged_at: row.try_get(1)?,
        version: row.try_get(2)?,
        event_id: row.try_get(3)?,
        tenant_id: row.try_get(4)?,
        user_id: row.try_get(5)?,
        action: row.try_get(6)?,
        origin: row.try_get(7)?,
        targets: row.try_get(8)?,
        traceparent: row.try_get(9)?,
        data: row.try_get(10)?,
    })
}
