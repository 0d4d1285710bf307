use crate::{Store, StoreError};
use sqlx::postgres::{PgListener, PgPoolOptions};
use std::time::Duration;
use time::OffsetDateTime;

/// Where changes of breakers are announced; the payload is the target.
pub(crate) const CHANNEL: &str = "postbound_breaker";

/// Why requests to a target are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerCause {
    /// An answer, or the want of one, that speaks of the target and not of a user.
    WholeTarget,
    /// Most deliveries failed.
    FailingShare,
    /// An operator's pause, and nothing else.
    Operator,
}

impl BreakerCause {
    /// The word in tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WholeTarget => "whole_target",
            Self::FailingShare => "failing_share",
            Self::Operator => "operator",
        }
    }

    fn parse(word: &str) -> Result<Self, StoreError> {
        [Self::WholeTarget, Self::FailingShare, Self::Operator]
            .into_iter()
            .find(|cause| cause.as_str() == word)
            .ok_or_else(|| StoreError::Unexpected(format!("breaker of unknown cause {word}")))
    }
}

/// An open breaker, or an operator's pause, or both. Spans are by the database's clock, at the time of reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerRow {
    /// The target.
    pub target: String,
    /// The tenant it is open for; None: all.
    pub tenant: Option<String>,
    /// Since when.
    pub opened_at: OffsetDateTime,
    /// For how long.
    pub open_for: Duration,
    /// Why.
    pub cause: BreakerCause,
    /// Reason of the failure that opened it, a word of a closed set; `paused` where only an operator did.
    pub reason: String,
    /// HTTP status of that failure.
    pub status: Option<u16>,
    /// The target's own words, masked.
    pub detail: String,
    /// When a probe may go out. None: no failure opened it, only an operator can close it.
    pub retry_at: Option<OffsetDateTime>,
    /// The time until then; zero when it has come.
    pub retry_in: Option<Duration>,
    /// A probe is out, and should be back within this time.
    pub probe_for: Option<Duration>,
    /// The operator who paused it. Until they resume, no probe goes out.
    pub paused_by: Option<String>,
    /// What they gave as the reason.
    pub pause_reason: Option<String>,
}

/// Hears of breakers that change, on a connection of its own, outside the pool.
pub struct BreakerListener {
    listener: PgListener,
}

type Row = (
    String,
    String,
    OffsetDateTime,
    i64,
    String,
    String,
    Option<i32>,
    String,
    Option<OffsetDateTime>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
);

impl Store {
    /// All open breakers and pauses, by target and tenant; those of whole targets come first.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn breakers(&self) -> Result<Vec<BreakerRow>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "-- breakers
            select target, tenant_id, opened_at, (extract(epoch from t.now - opened_at) * 1000)::bigint, cause, reason,
                   status, detail, retry_at, ceil(extract(epoch from retry_at - t.now) * 1000)::bigint,
                   ceil(extract(epoch from probe_until - t.now) * 1000)::bigint, paused_by, pause_reason
            from postbound.breaker, (select clock_timestamp() as now) as t
            order by target, tenant_id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(breaker_row).collect()
    }

    /// Milliseconds between two times in which nothing could be sent for a tenant of a target: its breaker or that of
    /// the whole target was open, or still is.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn outage_ms(
        &self,
        target: &str,
        tenant: &str,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Result<i64, StoreError> {
        let ms = sqlx::query_scalar(
            "-- outage_ms
            with open as (
                select opened_at, closed_at from postbound.outage
                where target = $1 and tenant_id in ('', $2) and closed_at > $3 and opened_at < $4
                union all
                select opened_at, clock_timestamp() from postbound.breaker
                where target = $1 and tenant_id in ('', $2) and opened_at < $4
            ), spans as (
                select unnest(range_agg(tstzrange(greatest(opened_at, $3), least(closed_at, $4)))) as span
                from open where greatest(opened_at, $3) < least(closed_at, $4)
            )
            select coalesce(sum(extract(epoch from upper(span) - lower(span)) * 1000), 0)::bigint from spans",
        )
        .bind(target)
        .bind(tenant)
        .bind(from)
        .bind(to)
        .fetch_one(&self.pool)
        .await?;
        Ok(ms)
    }

    /// Starts to listen for changes of breakers. What changed before must be read with [`Store::breakers`].
    ///
    /// # Errors
    /// When Postgres cannot be reached.
    pub async fn listen_to_breakers(&self) -> Result<BreakerListener, StoreError> {
        // The pool's options at this moment: its password may have been rotated.
        let options = self.pool.connect_options().as_ref().clone();
        let own = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let mut listener = PgListener::connect_with(&own.connect_lazy_with(options)).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(BreakerListener { listener })
    }
}

impl BreakerListener {
    /// Waits for the next announcement.
    ///
    /// # Errors
    /// When the connection is lost; listen anew, and read what was missed.
    pub async fn changed(&mut self) -> Result<(), StoreError> {
        match self.listener.try_recv().await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Database(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()))),
        }
    }
}

fn breaker_row(row: Row) -> Result<BreakerRow, StoreError> {
    let (
        target,
        tenant,
        opened_at,
        open_ms,
        cause,
        reason,
        status,
        detail,
        retry_at,
        retry_ms,
        probe_ms,
        by,
        why,
    ) = row;
    Ok(BreakerRow {
        target,
        tenant: (!tenant.is_empty()).then_some(tenant),
        opened_at,
        open_for: from_millis(open_ms),
        cause: BreakerCause::parse(&cause)?,
        reason,
        status: status.and_then(|status| u16::try_from(status).ok()),
        detail,
        retry_at,
        retry_in: retry_ms.map(from_millis),
        probe_for: probe_ms.filter(|ms| *ms > 0).map(from_millis),
        paused_by: by,
        pause_reason: why,
    })
}

/// Times that are past are no time at all.
pub(crate) fn from_millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
