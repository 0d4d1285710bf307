use crate::{Change, EmitError};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

/// What the database gave a change that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Emitted {
    /// The event's id: the caller's own, or the one drawn for it.
    pub event_id: Uuid,
    /// The user's new version, from 1.
    pub version: i64,
}

/// Writes one change, in the transaction that `connection` is in. The user stays locked until it ends.
///
/// # Errors
/// When the change is refused or Postgres fails. The transaction is then aborted, and only a rollback (or a rollback
/// to a savepoint) gets out of it; [`EmitError::is_retryable`] says whether to run it again as a whole.
pub async fn emit(connection: &mut PgConnection, change: &Change) -> Result<Emitted, EmitError> {
    Statements::Named.emit(connection, change).await
}

/// Writes many changes in one round trip; gives their answers in the order of `changes`. Users are locked in the
/// order of their keys, so two such calls wait for one another instead of deadlocking.
///
/// # Errors
/// As [`emit`]; the message names the change at fault by its place, from 1. None of the changes is written then.
pub async fn emit_many(connection: &mut PgConnection, changes: &[Change]) -> Result<Vec<Emitted>, EmitError> {
    Statements::Named.emit_many(connection, changes).await
}

/// Locks a user until the transaction ends and gives its newest version; 0: it has none yet. State read after this
/// is the newest until then, wherever it is kept.
///
/// # Errors
/// As [`emit`].
pub async fn lock_user(
    connection: &mut PgConnection,
    tenant_id: &str,
    user_id: &str,
) -> Result<i64, EmitError> {
    Statements::Named.lock_user(connection, tenant_id, user_id).await
}

/// How statements are prepared: kept under a name by the connection, or sent anew with every call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statements {
    /// One round trip a call, once prepared.
    Named,
    /// Two round trips a call, and nothing left on the server's connection.
    Unnamed,
}

impl Statements {
    pub(crate) async fn emit(
        self,
        connection: &mut PgConnection,
        change: &Change,
    ) -> Result<Emitted, EmitError> {
        let (event_id, version) = sqlx::query_as(
            "-- emit
            select emitted_event_id, emitted_version from postbound.emit($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .persistent(self == Self::Named)
        .bind(&change.tenant_id)
        .bind(&change.user_id)
        .bind(change.action)
        .bind(change.data.as_deref().map(Json))
        .bind(&change.origin)
        .bind(&change.targets)
        .bind(change.event_id)
        .bind(&change.traceparent)
        .fetch_one(connection)
        .await?;
        Ok(Emitted { event_id, version })
    }

    pub(crate) async fn emit_many(
        self,
        connection: &mut PgConnection,
        changes: &[Change],
    ) -> Result<Vec<Emitted>, EmitError> {
        let answers: Vec<(Uuid, i64)> = sqlx::query_as(
            "-- emit_many
            select emitted_event_id, emitted_version from postbound.emit_many($1) order by ordinal",
        )
        .persistent(self == Self::Named)
        .bind(Json(changes))
        .fetch_all(connection)
        .await?;
        Ok(answers.into_iter().map(|(event_id, version)| Emitted { event_id, version }).collect())
    }

    pub(crate) async fn lock_user(
        self,
        connection: &mut PgConnection,
        tenant_id: &str,
        user_id: &str,
    ) -> Result<i64, EmitError> {
        let version = sqlx::query_scalar(
            "-- lock_user
            select postbound.lock_user($1, $2)",
        )
        .persistent(self == Self::Named)
        .bind(tenant_id)
        .bind(user_id)
        .fetch_one(connection)
        .await?;
        Ok(version)
    }
}
