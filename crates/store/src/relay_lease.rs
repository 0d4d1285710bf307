use crate::{Store, StoreError};
use std::time::Duration;

/// The active relay's claim, with the token that fences its writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayLease {
    /// Who holds it.
    pub holder: String,
    /// Grows with every takeover.
    pub token: i64,
}

impl Store {
    /// Takes the relay lease if it is free or run out.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn acquire_relay_lease(
        &self,
        holder: &str,
        lease: Duration,
    ) -> Result<Option<RelayLease>, StoreError> {
        let token: Option<i64> = sqlx::query_scalar(
            "-- acquire_relay_lease
            update postbound.relay_lease
            set holder = $1, token = token + 1, expires_at = clock_timestamp() + $2 * interval '1 millisecond'
            where expires_at < clock_timestamp()
            returning token",
        )
        .bind(holder)
        .bind(lease.as_millis() as f64)
        .fetch_optional(&self.pool)
        .await?;
        Ok(token.map(|token| RelayLease { holder: holder.to_owned(), token }))
    }

    /// Prolongs the lease; false when it was lost. Count its time from before the call.
    ///
    /// The holder counts too: a database that has gone back in time gives the same token again.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn renew_relay_lease(&self, held: &RelayLease, lease: Duration) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "-- renew_relay_lease
            update postbound.relay_lease set expires_at = clock_timestamp() + $2 * interval '1 millisecond'
            where token = $1 and holder = $3",
        )
        .bind(held.token)
        .bind(lease.as_millis() as f64)
        .bind(&held.holder)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives the lease back, so that a standby takes over at once.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn release_relay_lease(&self, held: &RelayLease) -> Result<(), StoreError> {
        sqlx::query(
            "-- release_relay_lease
            update postbound.relay_lease set holder = null, expires_at = '-infinity'
            where token = $1 and holder = $2",
        )
        .bind(held.token)
        .bind(&held.holder)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
