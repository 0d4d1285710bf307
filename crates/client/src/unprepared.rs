//! The same calls without named prepared statements, for PgBouncer in transaction mode before 1.21 (or with
//! `max_prepared_statements = 0`): there a name made on one server connection is unknown, or taken, on the next.
//! The caller's own queries need `persistent(false)` as well. Two round trips a call instead of one.

use crate::{Change, EmitError, Emitted, emit::Statements};
use sqlx::PgConnection;

/// As [`crate::emit()`].
///
/// # Errors
/// As [`crate::emit()`].
pub async fn emit(connection: &mut PgConnection, change: &Change) -> Result<Emitted, EmitError> {
    Statements::Unnamed.emit(connection, change).await
}

/// As [`crate::emit_many`].
///
/// # Errors
/// As [`crate::emit_many`].
pub async fn emit_many(connection: &mut PgConnection, changes: &[Change]) -> Result<Vec<Emitted>, EmitError> {
    Statements::Unnamed.emit_many(connection, changes).await
}

/// As [`crate::lock_user`].
///
/// # Errors
/// As [`crate::lock_user`].
pub async fn lock_user(
    connection: &mut PgConnection,
    tenant_id: &str,
    user_id: &str,
) -> Result<i64, EmitError> {
    Statements::Unnamed.lock_user(connection, tenant_id, user_id).await
}
