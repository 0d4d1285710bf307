//! Takes committed changes out of the change log and publishes them, to each target's exchange, confirmed.
//!
//! Fed by the outbox through `store`, it feeds RabbitMQ through `broker`. One relay is active, others stand by. It
//! knows nothing of HTTP or of a target's contract: a target is a name, a filter and a number of partitions here.
//!
//! ```text
//! lease ──held──> per target: pulse ──new snapshot──> window ──pages──> slots (one per partition) ──confirms──> cursor
//! ```
//!
//! Jobs (replays, resyncs, reconciles, imports) go beside it, into backfill queues of their own: `jobs` → per target
//! `job_stream` → `job_page` → `job_flight` → items marked as sent.
//!
//! Before a session publishes, and for as long as it does, `guard` looks whether Postgres or RabbitMQ has gone back in time.
//!
//! Architecture invariant: a cursor moves only past rows that RabbitMQ has confirmed, and a partition has at most one
//! unconfirmed message, so that neither a crash nor a refusal can lose or reorder a user's changes.

mod filter;
mod flight;
mod gauges;
mod guard;
mod job_flight;
mod job_page;
mod job_progress;
mod job_rate;
mod job_stream;
mod jobs;
mod last_states;
mod maintenance;
mod published;
mod pulse;
mod recent;
mod reconcile;
mod relay;
mod settings;
mod slot;
mod stream;
mod stream_health;
mod supervise;
mod travel;
mod user_state;
mod window;

pub use relay::Relay;
pub use settings::RelaySettings;
pub use travel::{LookError, Sides, Travel};
