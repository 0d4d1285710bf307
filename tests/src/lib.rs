//! The harness of the end-to-end tests: what every module of the one test binary (`tests/main.rs`) starts from.
//!
//! A test makes a [`TestDatabase`] of its own and talks to it through the login roles of [`Role`], so that least
//! privilege is exercised by every test. Outside processes are waited for with [`eventually`], never by sleeping.
//! The servers come from the environment (`POSTBOUND_TESTBED`): run the tests with `cargo xtask test`.

mod database;
mod eventually;
mod locks;
mod outbox;
mod role;
mod template;

pub use database::TestDatabase;
pub use eventually::eventually;
pub use locks::{backend_pid, until_waiting};
pub use outbox::{LogEntry, log_entries, register_targets};
pub use role::Role;
