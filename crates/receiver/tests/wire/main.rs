//! The receivers over their real wire: HTTP through a client, and what Postgres then holds.

mod backend;
mod concurrency;
mod crm;
mod faults;
mod samples;
mod schema;
mod stage;
mod workflow;
