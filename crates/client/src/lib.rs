//! Writes user changes into the Postbound outbox, in the caller's own transaction.
//!
//! A change and the write it tells of commit together or not at all; the relay reads it from there and every target
//! gets it, in the order of the user's versions. This crate only calls the SQL functions of the schema `postbound`
//! (`emit`, `emit_many`, `lock_user`), so it promises exactly what they do. It knows neither the broker nor the
//! targets, opens no connection and never begins, commits or repeats a transaction: those are the caller's.
//!
//! ```no_run
//! use postbound_client::{Change, emit};
//! use serde_json::json;
//!
//! # async fn rename(pool: &sqlx::PgPool) -> anyhow::Result<()> {
//! let mut tx = pool.begin().await?;
//! // The state comes from the user's own locked row: the newest version then is the newest state.
//! let (email, name): (String, String) =
//!     sqlx::query_as("update app_user set name = $2 where id = $1 returning email, name")
//!         .bind("u-1")
//!         .bind("Ada")
//!         .fetch_one(&mut *tx)
//!         .await?;
//! let change = Change::updated("acme", "u-1").data(&json!({"email": email, "displayName": name}))?;
//! let emitted = emit(&mut tx, &change).await?;
//! tx.commit().await?;
//! println!("event {} is version {}", emitted.event_id, emitted.version);
//! # Ok(())
//! # }
//! ```
//!
//! Behind PgBouncer in transaction mode, see [`unprepared`].

mod change;
mod emit;
mod error;
pub mod unprepared;

pub use change::{Change, DEFAULT_TENANT};
pub use emit::{Emitted, emit, emit_many, lock_user};
pub use error::{EmitError, Refusal};
