//! Takes committed changes out of the change log and publishes them, to each target's exchange, confirmed.
//!
//! Fed by the outbox through `store`, it feeds RabbitMQ through `broker`. One relay is active, others stand by. It
//! knows nothing of HTTP or of a target's contract: a target is a name, a filter and a number of partitions here.
//!
//! ```text
//! lease ──held──> per target: pulse ──new snapshot──> window ──pages──> slots (one per partition) ──confirms──> cursor
//! ```
//!
//! Architecture invariant: a cursor moves only past rows that RabbitMQ has confirmed, and a partition has at most one
//! unconfirmed message, so that neither a crash nor a refusal can lose or reorder a user's changes.

mod filter;
mod gauges;
mod maintenance;
mod pulse;
mod relay;
mod settings;
mod slot;
mod stream;
mod supervise;
mod user_state;
mod window;

pub use relay::Relay;
pub use settings::RelaySettings;
