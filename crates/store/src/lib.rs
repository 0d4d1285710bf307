//! All SQL of Postbound but the producers' own: cursors, leases, the ledger, the registry of targets, status.
//!
//! `relay`, `worker` and the command line call it. It knows Postgres and the schema in `migrations/`, and neither
//! RabbitMQ nor HTTP. Each query stands in the one function that runs it and opens with a comment naming it.

mod connect;
mod cursor;
mod ledger;
mod log;
mod log_partition;
mod migrate;
mod relay_lease;
mod state;
mod status;
mod target;
mod worker_lease;

pub use connect::{Store, StoreError, StoreOptions, within};
pub use cursor::{Cursor, OpenWindow, Saved, USER_STATE_STREAM};
pub use ledger::{Held, HeldRow, Settlement, Verdict};
pub use log::{LogRow, Page, PageLimits, WindowBounds};
pub use log_partition::{LogPartition, Maintained};
pub use migrate::MigrationStatus;
pub use relay_lease::RelayLease;
pub use status::{OpenDelivery, PartitionOwner, RelayStatus, Snapshot, StreamLag, TargetCounts, WorkerRow};
pub use target::{RegisteredTarget, Registration, Tenant};
pub use worker_lease::{LeaseChange, WorkerId};
