use crate::{LogRow, PageLimits, Store, StoreError, log::log_row};
use futures_util::TryStreamExt as _;
use sqlx::Row as _;
use time::OffsetDateTime;

/// How far a snapshot's oldest running transaction may be behind for its news to be told: what was committed since
/// that one began is gone through each time.
const XIDS_MAX: u64 = 10_000;

/// What was committed between an earlier snapshot and this one.
#[derive(Debug, Clone)]
pub struct News {
    /// The snapshot that sees it, as `pg_snapshot` text.
    pub snapshot: String,
    /// When the server that was asked started.
    pub server_started: OffsetDateTime,
    /// The rows of the log between the two, in their order. None: they are not to be told cheaply, and have to be read
    /// as a window.
    pub rows: Option<Vec<LogRow>>,
}

// A row that this statement sees is visible in `pg_current_snapshot()`, which is the statement's own. What an earlier
// snapshot does not see has an xid of at least its xmin.
// The parameters stand in subqueries so that the planner does not look at them: with their values it would find a plan
// for each call a little cheaper than the one it has, and make it anew a hundred times a second.
const NEWS: &str = "-- news
    select n.id, n.logged_at, n.version, n.event_id, n.tenant_id, n.user_id, n.action, n.origin, n.targets, n.traceparent,
           n.data, null::text as known, (select pg_current_snapshot()::text), (select pg_postmaster_start_time())
    from (values (1)) as always
    left join lateral (
        select id, logged_at, version, event_id, tenant_id, user_id, action, origin, targets, traceparent, data::text as data
        from postbound.change_log
        where xid >= (select pg_snapshot_xmin($1::pg_snapshot))
          and not pg_visible_in_snapshot(xid, (select $1::pg_snapshot))
        limit (select $2::bigint)
    ) as n on true";

impl Store {
    /// The current snapshot, and what was committed since an earlier one, in one look. With no earlier one only the
    /// snapshot.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn news(&self, since: Option<&str>, limits: PageLimits) -> Result<News, StoreError> {
        match since {
            Some(since) if is_near(since) => self.news_since(since, limits).await,
            _ => self.snapshot_only().await,
        }
    }

    async fn snapshot_only(&self) -> Result<News, StoreError> {
        let (snapshot, server_started) = sqlx::query_as(
            "-- current_snapshot
            select pg_current_snapshot()::text, pg_postmaster_start_time()",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(News { snapshot, server_started, rows: None })
    }

    async fn news_since(&self, since: &str, limits: PageLimits) -> Result<News, StoreError> {
        let mut found = sqlx::query(NEWS).bind(since).bind(limits.rows + 1).fetch(&self.pool);
        let mut news: Option<News> = None;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.try_next().await? {
            if news.is_none() {
                news =
                    Some(News { snapshot: row.try_get(12)?, server_started: row.try_get(13)?, rows: None });
            }
            if row.try_get::<Option<i64>, _>(0)?.is_none() {
                break;
            }
            let (row, _) = log_row(&row)?;
            bytes += row.data.len() as i64;
            // The state before a bare delete is looked up by those who read windows.
            if rows.len() as i64 == limits.rows || bytes > limits.data_bytes || row.is_bare_delete() {
                return news.ok_or_else(nothing);
            }
            rows.push(row);
        }
        rows.sort_unstable_by_key(|row: &LogRow| row.id);
        let news = news.ok_or_else(nothing)?;
        Ok(News { rows: Some(rows), ..news })
    }
}

/// A `pg_snapshot` is `xmin:xmax:running,...`.
fn is_near(snapshot: &str) -> bool {
    let mut parts = snapshot.split(':').map(str::parse::<u64>);
    matches!((parts.next(), parts.next()), (Some(Ok(xmin)), Some(Ok(xmax))) if xmax.saturating_sub(xmin) <= XIDS_MAX)
}

fn nothing() -> StoreError {
    StoreError::Unexpected("no row where there always is one".to_owned())
}

#[cfg(test)]
mod tests {
    use super::is_near;

    #[test]
    fn a_snapshot_whose_oldest_transaction_is_old_is_not_near() {
        assert!(is_near("740:740:"));
        assert!(is_near("740:10740:740,800"));
        assert!(!is_near("740:10741:740"));
        assert!(!is_near("no snapshot"));
    }
}
