//! What producers are promised: the way in, its refusals, its order, its rights; and what the relay reads back of it.

mod concurrency;
mod drivers;
mod entry;
mod event_id;
mod limits;
mod locking;
mod log_partitions;
mod privileges;
mod refusals;
mod schema;
mod versions;
mod window_cost;
mod windows;
mod windows_random;

use postbound_client::{Change, Emitted, emit};
use sqlx::PgConnection;

/// An update of a user of tenant t, with nothing else to it.
fn change(user_id: &str) -> Change {
    Change::updated("t", user_id)
}

/// Emits an update that has to succeed.
async fn emit_update(connection: &mut PgConnection, user_id: &str) -> Emitted {
    emit(connection, &change(user_id)).await.unwrap()
}

/// The SQLSTATE of a refusal.
fn sqlstate(error: &sqlx::Error) -> String {
    let database = error.as_database_error().unwrap_or_else(|| panic!("not refused by Postgres: {error}"));
    database.code().unwrap().into_owned()
}
