use crate::eventually;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;

/// The server process of a connection, to be given to [`until_waiting`].
///
/// # Panics
/// When Postgres cannot be asked.
pub async fn backend_pid(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.unwrap()
}

/// Returns once the server process waits for a lock.
///
/// # Panics
/// When it does not within some seconds.
pub async fn until_waiting(superuser: &PgPool, pid: i32) {
    eventually(&format!("process {pid} waits for a lock"), Duration::from_secs(20), async || {
        let waits: bool =
            sqlx::query_scalar("select exists (select from pg_locks where pid = $1 and not granted)")
                .bind(pid)
                .fetch_one(superuser)
                .await
                .unwrap();
        waits.then_some(())
    })
    .await;
}
