use crate::{Store, StoreError};
use sqlx::Row as _;
use std::collections::HashMap;
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
    /// The user's state as JSON text. A bare delete (`{}`) has the last known state here, as far as it is known.
    pub data: String,
    /// Whether this is a bare delete whose user had a state before that `user_state` has not got to yet: read again
    /// after a while, it has that.
    pub awaits_state: bool,
}

impl LogRow {
    /// Whether it says nothing of the user it deletes but the ids.
    pub(crate) fn is_bare_delete(&self) -> bool {
        self.action == "deleted" && self.data == "{}"
    }
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
    /// When the server that gave them started; None where there are none.
    pub server_started: Option<OffsetDateTime>,
}

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

/// The rows of a page: parameters are S1, S2, the id it begins after, the last one of the window, rows at most, and the id
/// after which there are fresh rows.
//
// Snapshots stand in subqueries, or they would be parsed for each row.
macro_rules! page_rows {
    () => {
        "(select id, logged_at, version, event_id, tenant_id, user_id, action, origin, targets, traceparent, data
          from postbound.change_log
          where id > greatest($3::bigint, $6::bigint) and id <= $4
            and (xid >= (select pg_snapshot_xmax($1::pg_snapshot))) is true
            and pg_visible_in_snapshot(xid, (select $2::pg_snapshot))
          order by id limit $5)
         union all
         (select id, logged_at, version, event_id, tenant_id, user_id, action, origin, targets, traceparent, data
          from postbound.change_log
          where id > $3 and xid = any(array(select pg_snapshot_xip($1::pg_snapshot)))
            and pg_visible_in_snapshot(xid, (select $2::pg_snapshot))
          order by id + 0 limit $5)
         order by id limit $5"
    };
}
pub(crate) use page_rows;

// A bare delete is read with the last known state, from the projection once that has got to the version before: what
// it has earlier is older than what the target may hold. One that is ahead has the newest known state, of a life after
// the delete perhaps: mostly it is by the same e-mail, and a target that knows its users by that has no other way to
// find the user; one that knows ids is not misled.
// "offset 0" keeps the look-up from being copied to each place that uses it.
const WINDOW_PAGE: &str = concat!(
    "-- window_page
    select id, logged_at, version, event_id, tenant_id, user_id, action, origin, targets, traceparent, data, known,
           pg_postmaster_start_time()
    from (
        select known.*,
               sum(octet_length(data) + coalesce(octet_length(known), 0)) over (order by id)
                   - octet_length(data) - coalesce(octet_length(known), 0) as bytes_before
        from (
            select id, logged_at, version, event_id, tenant_id, user_id, action, origin, targets, traceparent,
                   data::text as data,
                   case when action = 'deleted' and data = '{}' then (
                       select s.data::text from postbound.user_state as s
                       where s.tenant_id = page.tenant_id and s.user_id = page.user_id and s.version >= page.version - 1
                   ) end as known
            from (",
    page_rows!(),
    ") as page
            offset 0
        ) as known
    ) as measured
    where bytes_before < $7
    order by id"
);

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
            .bind(bounds.fresh_first_id - 1)
            .bind(limits.data_bytes)
            .fetch_all(&self.pool)
            .await?;
        let server_started = found.first().map(|row| row.try_get(12)).transpose()?;
        let read = found.iter().map(log_row).collect::<Result<Vec<_>, _>>()?;
        let rows = with_last_states(read, limits.data_bytes);
        let is_last = rows.last().is_none_or(|row| row.id >= bounds.last_id);
        Ok(Page { rows, is_last, server_started })
    }
}

/// A row, and for a bare delete the last known state from the projection.
type Read = (LogRow, Option<String>);

pub(crate) fn log_row(row: &sqlx::postgres::PgRow) -> Result<Read, sqlx::Error> {
    let read = LogRow {
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
        awaits_state: false,
    };
    Ok((read, row.try_get(11)?))
}

/// Gives bare deletes the state before them: the page's own where it has one, which is the exact one, else the
/// projection's. Ends the page early where the states it repeats would make it too big.
fn with_last_states(read: Vec<Read>, bytes_max: i64) -> Vec<LogRow> {
    if !read.iter().any(|(row, _)| row.is_bare_delete()) {
        return read.into_iter().map(|(row, _)| row).collect();
    }
    let mut rows: Vec<LogRow> = Vec::with_capacity(read.len());
    let mut newest: HashMap<(String, String), usize> = HashMap::new();
    let mut repeated_bytes = 0;
    for (mut row, known) in read {
        let key = (row.tenant_id.clone(), row.user_id.clone());
        if row.is_bare_delete() {
            let before = newest.get(&key).map(|place| &rows[*place]);
            let repeats = before.filter(|before| !before.awaits_state);
            (row.data, row.awaits_state) = match (repeats, known) {
                (Some(before), _) => (before.data.clone(), false),
                (None, Some(known)) => (known, false),
                (None, None) => (row.data, row.version > 1),
            };
            repeated_bytes += repeats.map_or(0, |before| before.data.len() as i64);
            if repeated_bytes > bytes_max && !rows.is_empty() {
                break;
            }
        }
        newest.insert(key, rows.len());
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of users named by their first letter, such as `("a1", "deleted", "{}", Some(..))`, and what becomes of them.
    fn check(case: &str, read: &[(&str, &str, &str, Option<&str>)], expected: &[(&str, bool)]) {
        let rows = read.iter().enumerate().map(|(index, (user_version, action, data, known))| {
            let row = LogRow {
                id: index as i64 + 1,
                logged_at: OffsetDateTime::UNIX_EPOCH,
                version: user_version[1..].parse().unwrap(),
                event_id: Uuid::nil(),
                tenant_id: "t".into(),
                user_id: user_version[..1].into(),
                action: (*action).into(),
                origin: None,
                targets: None,
                traceparent: None,
                data: (*data).into(),
                awaits_state: false,
            };
            (row, known.map(str::to_owned))
        });
        let resolved = with_last_states(rows.collect(), 100);
        let resolved: Vec<_> = resolved.iter().map(|row| (row.data.as_str(), row.awaits_state)).collect();
        assert_eq!(resolved, expected, "{case}");
    }

    #[test]
    fn a_bare_delete_has_the_state_before_it_or_says_that_it_waits_for_it() {
        const BARE: &str = "{}";
        let deleted = |user, known| (user, "deleted", BARE, known);
        check(
            "the page has the state before; the projection's may be newer",
            &[("a1", "created", "A", None), ("b1", "created", "B", None), deleted("a2", Some("newer"))],
            &[("A", false), ("B", false), ("A", false)],
        );
        check("the projection has it", &[deleted("a7", Some("A"))], &[("A", false)]);
        check("the projection is behind", &[deleted("a7", None)], &[(BARE, true)]);
        check("there was none before", &[deleted("a1", None)], &[(BARE, false)]);
        check("nor before two deletes", &[deleted("a1", None), deleted("a2", None)], &[(BARE, false); 2]);
        check("both wait", &[deleted("a5", None), deleted("a6", None)], &[(BARE, true); 2]);
        check(
            "the projection got to the state between two reads of it",
            &[deleted("a5", None), deleted("a6", Some("A"))],
            &[(BARE, true), ("A", false)],
        );
        check(
            "two deletes after one state",
            &[("a1", "updated", "A", None), deleted("a2", None), deleted("a3", None)],
            &[("A", false); 3],
        );
        check(
            "one that says what it deletes",
            &[("a1", "updated", "A", None), ("a2", "deleted", "B", None)],
            &[("A", false), ("B", false)],
        );
    }

    #[test]
    fn repeated_states_end_a_page_before_it_gets_too_big() {
        let long = "x".repeat(60);
        let deleted = ("a2", "deleted", "{}", None);
        check(
            "two repetitions are more than 100 bytes",
            &[("a1", "updated", &long, None), deleted, deleted, deleted],
            &[(&long, false), (&long, false)],
        );
    }
}
