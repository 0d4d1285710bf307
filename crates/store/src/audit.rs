use crate::{Store, StoreError};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, types::Json};
use time::OffsetDateTime;

/// What an operator is about to do, for the audit trail. The database login is added by Postgres.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The command, such as `dead-letters replay`.
    pub command: &'static str,
    /// Who they say they are (`--as`).
    pub acting_as: Option<String>,
    /// On what.
    pub filter: Value,
}

/// One row of the audit trail.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct AuditRow {
    /// Order of the actions.
    pub audit_id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Database login.
    pub login: String,
    /// Who they said they are.
    pub acting_as: Option<String>,
    /// The command.
    pub command: String,
    /// On what.
    pub filter: Value,
    /// How many it touched.
    pub counts: Value,
}

impl Store {
    /// Writes an action to the audit trail, for those that have no transaction of their own here.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn audit(&self, operation: &Operation, counts: &Value) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        Ok(write(&mut connection, operation, counts).await?)
    }

    /// The newest rows of the audit trail, the newest first; those before `before` where it is given.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn audit_rows(&self, limit: i64, before: Option<i64>) -> Result<Vec<AuditRow>, StoreError> {
        Ok(sqlx::query_as(
            "-- audit_rows
            select audit_id, at, login, acting_as, command, filter, counts from postbound.audit
            where $2::bigint is null or audit_id < $2 order by audit_id desc limit $1",
        )
        .bind(limit)
        .bind(before)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The database login of this store, as the audit trail shows it.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn login(&self) -> Result<String, StoreError> {
        Ok(sqlx::query_scalar("-- login\nselect session_user::text").fetch_one(&self.pool).await?)
    }
}

/// Also run inside the transactions of what is audited.
pub(crate) async fn write(
    connection: &mut PgConnection,
    operation: &Operation,
    counts: &Value,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- write_audit
        insert into postbound.audit (acting_as, command, filter, counts) values ($1, $2, $3, $4)",
    )
    .bind(operation.acting_as.as_deref())
    .bind(operation.command)
    .bind(Json(&operation.filter))
    .bind(Json(counts))
    .execute(connection)
    .await?;
    Ok(())
}
