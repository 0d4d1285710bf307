//! Takes events from partition queues and settles each at its target: delivered, superseded or dead-lettered.
//!
//! Fed by RabbitMQ through `broker`, it feeds targets through `target`, and keeps leases and the ledger through
//! `store`. It knows no target's contract: an adapter turns states into a request and an answer into outcomes.
//!
//! ```text
//! leases ─> partition (one consumer) ─> lane (one per user) ─> dispatch ─> target
//!                  ▲                                              │ outcome
//!                  └──── ack ◀── ledger commit ◀── (dead letter confirmed) ◀──┘
//! ```
//!
//! Architecture invariant: no send is started that could not end within the worker's lease, and no message is
//! acknowledged before the ledger has each of its events.

mod archiver;
mod backlog;
mod batch;
mod breaker;
mod context;
mod dead_letters;
mod delivery;
mod feeder;
mod fence;
mod gathered;
mod generation;
mod held_fields;
mod identity;
mod lane;
mod ledger;
mod links;
mod news;
mod notices;
mod optional;
mod pace;
mod partition;
mod rate;
mod retry;
mod settings;
mod tenants;
mod worker;

pub use settings::{BatchSettings, BreakerSettings, RateLimit, RetrySchedule, TargetPlan, WorkerSettings};
pub use worker::Worker;
