//! Real PostgreSQL and RabbitMQ, private to one checkout and one run.
//!
//! The tests, the demo and `cargo xtask services` need both servers on a machine that may hold nothing but a Rust
//! toolchain, next to other servers and other checkouts. So this crate installs the distribution's packages where they
//! are missing ([`packages`]), starts an instance of each on free loopback ports with data under `.testbed/`
//! ([`Services`]), and leaves neither processes nor files behind. Both servers speak TLS too, with certificates of an
//! [`Authority`] of the run.
//!
//! Fed by: `xtask`, which owns one [`Services`] and passes its [`Endpoints`] to the test processes in
//! [`ENDPOINTS_VARIABLE`]; a test that breaks servers on purpose starts a [`Services`] of its own.
//!
//! It knows nothing of Postbound: no migration, no topology, no target.

mod amqp;
mod authority;
mod child;
mod endpoints;
mod launch;
mod management;
pub mod packages;
mod ports;
mod postgres;
mod postgres_server;
mod processes;
mod rabbitmq;
mod rabbitmq_server;
mod run_dir;
mod services;

pub use amqp::QueueInfo;
pub use authority::{Authority, Certificate, Subject};
pub use child::ChildProcess;
pub use endpoints::{ENDPOINTS_VARIABLE, Endpoints};
pub use postgres::Postgres;
pub use processes::MARK;
pub use rabbitmq::RabbitMq;
pub use services::{Options, Services};
