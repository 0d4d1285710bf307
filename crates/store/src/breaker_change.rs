use crate::{
    BreakerCause, Operation, Store, StoreError, audit,
    breaker::{CHANNEL, from_millis},
};
use serde_json::json;
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;

/// What a failure says of a target, or of one tenant of it.
#[derive(Debug, Clone)]
pub struct BreakerOpening<'a> {
    /// The target.
    pub target: &'a str,
    /// The tenant; None: all.
    pub tenant: Option<&'a str>,
    /// What it was; never an operator.
    pub cause: BreakerCause,
    /// Reason of the failure.
    pub reason: &'a str,
    /// HTTP status of the failure.
    pub status: Option<u16>,
    /// The target's own words, masked.
    pub detail: &'a str,
    /// How long from now the target asked to be left alone; None: it did not.
    pub wish: Option<Duration>,
    /// The pause of our own choice.
    pub pause: Duration,
    /// Parked users get the attempts back that failed within this time; None: nobody does.
    pub refund: Option<Duration>,
}

/// What came of an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerOpened {
    /// It was closed before, or only paused. So many parked users got an attempt back.
    Opened {
        /// Their number.
        refunded: u64,
    },
    /// It was open already, and the target wished for longer.
    Prolonged,
    /// It was open already.
    Already,
}

/// The pauses between probes.
#[derive(Debug, Clone, Copy)]
pub struct ProbePauses {
    /// How long from now the target asked to be left alone; None: it did not, and the pause doubles.
    pub wish: Option<Duration>,
    /// The shortest pause of our own choice.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

/// What an operator's resumption came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// Requests go out again.
    Closed,
    /// The pause is over, but the target failed as well: workers probe it as before.
    StillOpen,
    /// It was not paused.
    NotPaused,
}

impl Store {
    /// Opens a breaker. One that is open already is not changed, but for a pause the target wishes to be longer.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was changed.
    pub async fn open_breaker(&self, opening: &BreakerOpening<'_>) -> Result<BreakerOpened, StoreError> {
        let mut tx = self.pool.begin().await?;
        // One that is only paused by an operator learns of the failure.
        let opened = sqlx::query(
            "-- open_breaker
            insert into postbound.breaker as b (target, tenant_id, cause, reason, status, detail, retry_at, pause_ms)
            values ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7 * interval '1 millisecond', $8)
            on conflict on constraint breaker_pk do update
                set cause = excluded.cause, reason = excluded.reason, status = excluded.status, detail = excluded.detail,
                    retry_at = excluded.retry_at, pause_ms = excluded.pause_ms, probe_until = null
                where b.retry_at is null",
        )
        .bind(opening.target)
        .bind(opening.tenant.unwrap_or_default())
        .bind(opening.cause.as_str())
        .bind(opening.reason)
        .bind(opening.status.map(i32::from))
        .bind(opening.detail)
        .bind(millis(opening.wish.unwrap_or(opening.pause)))
        .bind(opening.pause.as_millis() as i64)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        let came = if opened > 0 {
            let refunded = match opening.refund {
                Some(window) => refund_parked(&mut tx, opening.target, opening.tenant, window).await?,
                None => 0,
            };
            BreakerOpened::Opened { refunded }
        } else if prolong(&mut tx, opening).await? {
            BreakerOpened::Prolonged
        } else {
            return Ok(BreakerOpened::Already);
        };
        announce(&mut tx, opening.target).await?;
        tx.commit().await?;
        Ok(came)
    }

    /// Claims the probe of an open breaker that is due, over all workers. `within`: when the probe is back at the
    /// latest; others may try from then on. None: it is not due, or somebody else's, or closed. What it gives names
    /// the claim.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn claim_probe(
        &self,
        target: &str,
        tenant: Option<&str>,
        within: Duration,
    ) -> Result<Option<OffsetDateTime>, StoreError> {
        let claim = sqlx::query_scalar(
            "-- claim_probe
            update postbound.breaker set probe_until = clock_timestamp() + $3 * interval '1 millisecond'
            where target = $1 and tenant_id = $2 and paused_by is null and retry_at <= clock_timestamp()
              and (probe_until is null or probe_until <= clock_timestamp())
            returning probe_until",
        )
        .bind(target)
        .bind(tenant.unwrap_or_default())
        .bind(millis(within))
        .fetch_optional(&self.pool)
        .await?;
        Ok(claim)
    }

    /// Gives a claim back: the probe was not made, or said nothing.
    ///
    /// # Errors
    /// When Postgres cannot be asked; the claim then runs out by itself.
    pub async fn release_probe(
        &self,
        target: &str,
        tenant: Option<&str>,
        claim: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "-- release_probe
            update postbound.breaker set probe_until = null where target = $1 and tenant_id = $2 and probe_until = $3",
        )
        .bind(target)
        .bind(tenant.unwrap_or_default())
        .bind(claim)
        .execute(&mut *tx)
        .await?;
        announce(&mut tx, target).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The probe failed: the next one waits as long as the target asks, else twice as long as this one. Gives that
    /// time; None: the claim had run out.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn fail_probe(
        &self,
        target: &str,
        tenant: Option<&str>,
        claim: OffsetDateTime,
        pauses: ProbePauses,
    ) -> Result<Option<Duration>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let wait_ms: Option<i64> = sqlx::query_scalar(
            "-- fail_probe
            update postbound.breaker as b
            set pause_ms = next.pause_ms, probe_until = null,
                retry_at = greatest(b.retry_at, clock_timestamp() + coalesce($4, next.pause_ms) * interval '1 millisecond')
            from (select target, tenant_id, least(greatest(pause_ms * 2, $5), $6) as pause_ms
                  from postbound.breaker where target = $1 and tenant_id = $2) as next
            where b.target = next.target and b.tenant_id = next.tenant_id and b.probe_until = $3
            returning ceil(extract(epoch from b.retry_at - clock_timestamp()) * 1000)::bigint",
        )
        .bind(target)
        .bind(tenant.unwrap_or_default())
        .bind(claim)
        .bind(pauses.wish.map(millis))
        .bind(pauses.min.as_millis() as i64)
        .bind(pauses.max.as_millis() as i64)
        .fetch_optional(&mut *tx)
        .await?;
        announce(&mut tx, target).await?;
        tx.commit().await?;
        Ok(wait_ms.map(from_millis))
    }

    /// The probe succeeded: requests go out again, unless an operator paused them meanwhile. False: the claim had run
    /// out, and nothing was changed.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn close_breaker(
        &self,
        target: &str,
        tenant: Option<&str>,
        claim: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let paused = sqlx::query(
            "-- forget_failure_of_paused
            update postbound.breaker
            set cause = 'operator', reason = 'paused', status = null, detail = '', retry_at = null, pause_ms = 0,
                probe_until = null
            where target = $1 and tenant_id = $2 and probe_until = $3 and paused_by is not null",
        )
        .bind(target)
        .bind(tenant.unwrap_or_default())
        .bind(claim)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        let closed = match paused {
            0 => delete_row(&mut tx, target, tenant, Some(claim)).await?,
            _ => true,
        };
        announce(&mut tx, target).await?;
        tx.commit().await?;
        Ok(closed)
    }

    /// An operator pauses a target, or one tenant of it: nothing is sent until they resume, and no worker probes.
    /// A pause that is there already gets the new name and reason. The audit trail is written with it.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn pause_target(
        &self,
        target: &str,
        tenant: Option<&str>,
        by: &str,
        reason: &str,
        operation: &Operation,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "-- pause_target
            insert into postbound.breaker (target, tenant_id, cause, reason, paused_by, pause_reason)
            values ($1, $2, 'operator', 'paused', $3, $4)
            on conflict on constraint breaker_pk do update
                set paused_by = excluded.paused_by, pause_reason = excluded.pause_reason",
        )
        .bind(target)
        .bind(tenant.unwrap_or_default())
        .bind(by)
        .bind(reason)
        .execute(&mut *tx)
        .await?;
        audit::write(&mut tx, operation, &json!({})).await?;
        announce(&mut tx, target).await?;
        tx.commit().await?;
        Ok(())
    }

    /// An operator ends a pause. A target that failed as well stays open for that, until a probe succeeds. The audit
    /// trail is written with it, if there was a pause.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn resume_target(
        &self,
        target: &str,
        tenant: Option<&str>,
        operation: &Operation,
    ) -> Result<Resumed, StoreError> {
        let mut tx = self.pool.begin().await?;
        let failed: Option<bool> = sqlx::query_scalar(
            "-- resume_target
            update postbound.breaker
            set paused_by = case when retry_at is null then paused_by end,
                pause_reason = case when retry_at is null then pause_reason end
            where target = $1 and tenant_id = $2 and paused_by is not null
            returning retry_at is not null",
        )
        .bind(target)
        .bind(tenant.unwrap_or_default())
        .fetch_optional(&mut *tx)
        .await?;
        let resumed = match failed {
            None => return Ok(Resumed::NotPaused),
            Some(true) => Resumed::StillOpen,
            Some(false) => {
                delete_row(&mut tx, target, tenant, None).await?;
                Resumed::Closed
            }
        };
        audit::write(&mut tx, operation, &json!({})).await?;
        announce(&mut tx, target).await?;
        tx.commit().await?;
        Ok(resumed)
    }
}

async fn prolong(tx: &mut PgConnection, opening: &BreakerOpening<'_>) -> Result<bool, StoreError> {
    let Some(wish) = opening.wish else { return Ok(false) };
    let prolonged = sqlx::query(
        "-- prolong_breaker
        update postbound.breaker set retry_at = clock_timestamp() + $3 * interval '1 millisecond'
        where target = $1 and tenant_id = $2 and retry_at < clock_timestamp() + $3 * interval '1 millisecond'",
    )
    .bind(opening.target)
    .bind(opening.tenant.unwrap_or_default())
    .bind(millis(wish))
    .execute(tx)
    .await?;
    Ok(prolonged.rows_affected() > 0)
}

/// Gives parked users the attempts back that failed within the window: the target is to blame for them, not they. Their
/// number is bounded by what can fail in a window; sorted, so that it cannot deadlock with writers of the ledger.
async fn refund_parked(
    tx: &mut PgConnection,
    target: &str,
    tenant: Option<&str>,
    window: Duration,
) -> Result<u64, StoreError> {
    // Nobody is parked to a time before their failure: the index finds those who may be meant.
    let refunded = sqlx::query(
        "-- refund_parked
        with failed as materialized (
            select target, tenant_id, user_id,
                   (select count(*)::integer from unnest(recent_failures) as failed_at
                    where failed_at >= clock_timestamp() - $3 * interval '1 millisecond') as attempts
            from postbound.parked_user
            where target = $1 and ($2::text is null or tenant_id = $2) and class in ('transient', 'unknown', 'permanent')
              and last_failed_at >= clock_timestamp() - $3 * interval '1 millisecond'
              and next_attempt_at >= clock_timestamp() - $3 * interval '1 millisecond'
            order by target, tenant_id, user_id for update
        )
        update postbound.parked_user as p
        set attempts = greatest(p.attempts - f.attempts, 0), repeats = greatest(p.repeats - f.attempts, 0),
            first_failed_at = case when p.attempts > f.attempts then p.first_failed_at end,
            recent_failures = '{}', next_attempt_at = clock_timestamp()
        from failed as f
        where p.target = f.target and p.tenant_id = f.tenant_id and p.user_id = f.user_id and f.attempts > 0",
    )
    .bind(target)
    .bind(tenant)
    .bind(millis(window))
    .execute(tx)
    .await?;
    Ok(refunded.rows_affected())
}

/// Closes: the row goes, and the time it was open is kept. With a claim, only if that still holds.
async fn delete_row(
    tx: &mut PgConnection,
    target: &str,
    tenant: Option<&str>,
    claim: Option<OffsetDateTime>,
) -> Result<bool, StoreError> {
    let closed = sqlx::query(
        "-- close_breaker
        with closed as (
            delete from postbound.breaker
            where target = $1 and tenant_id = $2 and ($3::timestamptz is null or probe_until = $3)
            returning target, tenant_id, opened_at, cause, reason
        )
        insert into postbound.outage (target, tenant_id, opened_at, closed_at, cause, reason)
        select target, tenant_id, opened_at, greatest(clock_timestamp(), opened_at), cause, reason from closed",
    )
    .bind(target)
    .bind(tenant.unwrap_or_default())
    .bind(claim)
    .execute(tx)
    .await?;
    Ok(closed.rows_affected() > 0)
}

async fn announce(tx: &mut PgConnection, target: &str) -> Result<(), StoreError> {
    sqlx::query("-- announce_breaker\nselect pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(target)
        .execute(tx)
        .await?;
    Ok(())
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
