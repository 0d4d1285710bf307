use sqlx::{PgExecutor, PgPool, types::JsonValue};
use uuid::Uuid;

/// One row of the change log, without what differs from run to run.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct LogEntry {
    /// Tenant of the user.
    pub tenant_id: String,
    /// The user.
    pub user_id: String,
    /// The user's version.
    pub version: i64,
    /// created, updated or deleted.
    pub action: String,
    /// The state.
    pub data: JsonValue,
    /// Where the change came from.
    pub origin: Option<String>,
    /// Targets it is for.
    pub targets: Option<Vec<String>>,
    /// Trace context.
    pub traceparent: Option<String>,
    /// The event's id.
    pub event_id: Uuid,
}

/// The committed log, in the order of ids.
///
/// # Panics
/// When Postgres cannot be asked.
pub async fn log_entries(superuser: impl PgExecutor<'_>) -> Vec<LogEntry> {
    sqlx::query_as(
        "select tenant_id, user_id, version, action, data, origin, targets, traceparent, event_id
         from postbound.change_log order by id",
    )
    .fetch_all(superuser)
    .await
    .unwrap()
}

/// Makes targets known, as `topology apply` would.
///
/// # Panics
/// When Postgres refuses.
pub async fn register_targets(superuser: &PgPool, names: &[&str]) {
    sqlx::query(
        "insert into postbound.target (name, adapter, actions, origin, fold, config_hash, partitions)
         select name, 'webhook', array['created', 'updated', 'deleted'], name, false, '', 4 from unnest($1) as name",
    )
    .bind(names)
    .execute(superuser)
    .await
    .unwrap();
}
