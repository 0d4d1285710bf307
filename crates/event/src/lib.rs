//! What a user change is: its fields, its place among the partitions, and its form on the wire.
//!
//! Fed by `relay`, which encodes rows of the change log, and read by `worker` and `target`. It does no IO and knows
//! neither Postgres nor RabbitMQ nor HTTP.

mod action;
mod batch;
mod event;
mod key;

pub use action::{Action, UnknownAction};
pub use batch::{BATCH_CONTENT_TYPE, BatchBuilder, DecodeError, decode_batch};
pub use event::{Event, EventHeader, JobPart};
pub use key::UserKey;
