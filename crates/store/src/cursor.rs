use crate::{Store, StoreError};
use sqlx::PgExecutor;
use time::OffsetDateTime;

/// Name of the stream that feeds `user_state`. No target can be called so: names of targets have no underscore.
pub const USER_STATE_STREAM: &str = "user_state";

/// How far a stream has read the change log.
///
/// Snapshots are Postgres' own text form (`xmin:xmax:xip,...`), passed back as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// S1: every change visible in it is published and confirmed.
    pub done: String,
    /// The window being published, if its reading has begun.
    pub open: Option<OpenWindow>,
    /// Rewinds seen so far; a cursor that was rewound since is not overwritten.
    pub rewinds: i32,
    /// When the server it was claimed on started. On another one, or after a restart, it is not moved: that server may have
    /// gone back in time, and has to be looked at first.
    pub server_started: OffsetDateTime,
}

/// A window of the log: what its S2 sees and S1 does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenWindow {
    /// S2. A window keeps its S2 until it is done, over takeovers too: with another S2 the rows below
    /// `confirmed_id` would not be the same ones, and a late commit among them would be skipped for good.
    pub snapshot: String,
    /// All rows of the window up to this id are confirmed.
    pub confirmed_id: i64,
}

type CursorRow = (String, Option<String>, Option<i64>, i32, OffsetDateTime);

/// What became of a cursor's move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// Stored.
    Yes,
    /// Not stored: a newer relay holds the fence, the cursor was rewound, or Postgres is not the server it was claimed on.
    /// Load it anew, or stop.
    Fenced,
}

impl Store {
    /// Claims a stream's cursor for the relay with this lease token; None when the stream is not registered, or a
    /// newer relay has it.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn claim_cursor(&self, stream: &str, lease_token: i64) -> Result<Option<Cursor>, StoreError> {
        let row: Option<CursorRow> = sqlx::query_as(
            "-- claim_cursor
            update postbound.stream_cursor set lease_token = $2
            where stream = $1 and lease_token <= $2
            returning done_snapshot::text, open_snapshot::text, confirmed_id, rewinds, pg_postmaster_start_time()",
        )
        .bind(stream)
        .bind(lease_token)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(done, snapshot, confirmed_id, rewinds, server_started)| Cursor {
            done,
            open: snapshot
                .zip(confirmed_id)
                .map(|(snapshot, confirmed_id)| OpenWindow { snapshot, confirmed_id }),
            rewinds,
            server_started,
        }))
    }

    /// Moves a cursor, in one statement: S2 and the confirmed id are never stored apart.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn save_cursor(
        &self,
        stream: &str,
        lease_token: i64,
        cursor: &Cursor,
    ) -> Result<Saved, StoreError> {
        save(stream, lease_token, cursor, &self.pool).await
    }

    /// Sets a cursor back to the oldest row the log still has. The ledger keeps what was delivered from being sent
    /// again. The active relay notices within about a second.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn rewind_cursor(&self, stream: &str) -> Result<(), StoreError> {
        sqlx::query(
            "-- rewind_cursor
            update postbound.stream_cursor
            set done_snapshot = '1:1:', open_snapshot = null, confirmed_id = null, rewinds = rewinds + 1, updated_at = now()
            where stream = $1",
        )
        .bind(stream)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// How often the cursor was rewound; None when the stream is not registered.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn cursor_rewinds(&self, stream: &str) -> Result<Option<i32>, StoreError> {
        Ok(sqlx::query_scalar(
            "-- cursor_rewinds\nselect rewinds from postbound.stream_cursor where stream = $1",
        )
        .bind(stream)
        .fetch_optional(&self.pool)
        .await?)
    }
}

/// Also run by the user-state stream, inside the transaction of its projection.
pub(crate) async fn save(
    stream: &str,
    lease_token: i64,
    cursor: &Cursor,
    executor: impl PgExecutor<'_>,
) -> Result<Saved, StoreError> {
    let done = sqlx::query(
        "-- save_cursor
        update postbound.stream_cursor
        set done_snapshot = $3::pg_snapshot, open_snapshot = $4::pg_snapshot, confirmed_id = $5,
            lease_token = $2, updated_at = now()
        where stream = $1 and lease_token <= $2 and rewinds = $6 and pg_postmaster_start_time() = $7",
    )
    .bind(stream)
    .bind(lease_token)
    .bind(&cursor.done)
    .bind(cursor.open.as_ref().map(|open| &open.snapshot))
    .bind(cursor.open.as_ref().map(|open| open.confirmed_id))
    .bind(cursor.rewinds)
    .bind(cursor.server_started)
    .execute(executor)
    .await?;
    Ok(if done.rows_affected() == 1 { Saved::Yes } else { Saved::Fenced })
}
