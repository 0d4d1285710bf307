//! The harness of the end-to-end tests: what every module of the one test binary (`tests/main.rs`) starts from.
//!
//! A test makes a [`TestDatabase`] of its own and talks to it through the login roles of [`Role`], so that least
//! privilege is exercised by every test. Outside processes are waited for with [`eventually`], never by sleeping.
//! The servers come from the environment (`POSTBOUND_TESTBED`): run the tests with `cargo xtask test`.
//!
//! Tests of the whole way start an [`Installation`], which has a virtual host, both reference receivers and real
//! `postbound` processes too, and ask its [`Oracle`] what the receivers saw.

mod crowd;
mod database;
mod eventually;
mod installation;
mod locks;
mod options;
mod oracle;
mod outbox;
mod process;
mod role;
mod target;
mod template;
mod vhost;

pub use crowd::{Crowd, emit_states};
pub use database::TestDatabase;
pub use eventually::eventually;
pub use installation::{Installation, Letter};
pub use locks::{backend_pid, until_waiting};
pub use options::{API_KEY, Options};
pub use oracle::Oracle;
pub use outbox::{LogEntry, log_entries, register_targets};
pub use process::{Process, Readiness};
pub use role::Role;
pub use target::{TestTarget, answers};
pub use vhost::Vhost;
