//! Inbound changes that wait for an identity link, as operators see them. `ingress` keeps and applies them.

use crate::{Operation, Store, StoreError, audit};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

/// A change of a user whom nobody knows yet. Without what it says of the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct InboundWaiting {
    /// Order of arrival, by which it is named.
    pub waiting_id: i64,
    /// The source, as in the configuration.
    pub source: String,
    /// The sender's id of the message.
    pub message_id: String,
    /// The tenant the user must be of; None: any.
    pub tenant_id: Option<String>,
    /// The target whose id it is; empty: the id is ours.
    pub target: String,
    /// The id nobody is known by.
    pub external_id: String,
    /// When it was taken in.
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
    /// How often it was tried again.
    pub tries: i32,
    /// When it was last tried again.
    #[serde(with = "time::serde::rfc3339::option")]
    pub tried_at: Option<OffsetDateTime>,
    /// What it waits for; `refused`: the outbox refused it, and it is not tried again by itself.
    pub reason: String,
}

impl Store {
    /// What waits, the oldest first, of one source or of all; how many there are in all beside those given.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn inbound_waiting(
        &self,
        source: Option<&str>,
        limit: i64,
    ) -> Result<(Vec<InboundWaiting>, i64), StoreError> {
        let rows = sqlx::query_as(
            "-- inbound_waiting
            select waiting_id, source, message_id, tenant_id, target, external_id, received_at, tries, tried_at, reason
            from postbound.inbound_waiting where $1::text is null or source = $1 order by waiting_id limit $2",
        )
        .bind(source)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let total = sqlx::query_scalar(
            "-- inbound_waiting_total
            select count(*) from postbound.inbound_waiting where $1::text is null or source = $1",
        )
        .bind(source)
        .fetch_one(&self.pool)
        .await?;
        Ok((rows, total))
    }

    /// Has these changes tried at once, refused ones too; all where none is named. Gives how many.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn retry_inbound(
        &self,
        waiting_ids: Option<&[i64]>,
        operation: &Operation,
    ) -> Result<u64, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let hurried = sqlx::query(
            "-- inbound_hurry
            update postbound.inbound_waiting
            set due_at = clock_timestamp(), reason = case reason when 'refused' then 'to be tried again' else reason end
            where $1::bigint[] is null or waiting_id = any($1)",
        )
        .bind(waiting_ids)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        audit::write(&mut transaction, operation, &json!({ "changes": hurried })).await?;
        transaction.commit().await?;
        Ok(hurried)
    }

    /// Throws these changes away: they will never be applied. Gives how many there were.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn drop_inbound(&self, waiting_ids: &[i64], operation: &Operation) -> Result<u64, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let dropped = sqlx::query(
            "-- inbound_drop
            delete from postbound.inbound_waiting where waiting_id = any($1)",
        )
        .bind(waiting_ids)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        audit::write(&mut transaction, operation, &json!({ "changes": dropped })).await?;
        transaction.commit().await?;
        Ok(dropped)
    }
}
