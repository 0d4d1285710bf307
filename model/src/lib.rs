//! The protocol as two state machines, small enough that a checker goes through every state of them.
//!
//! [`source`] is the way from a producer's transaction into a target's queue: emit, snapshot windows, the relay's cursor
//! and its takeovers. [`delivery`] is the way from that queue to the target: leases, lanes, the ledger, parking, doubt,
//! dead letters and jobs. Between the two stands one sentence, which `source` proves and `delivery` assumes: *a version
//! is in the queue only when every older one of its user has been, any of them may be there again at any time, and none
//! of them was rolled back*. Users meet nowhere but in messages and transactions, so `delivery` has one user.
//!
//! A protection can be taken out of a model ([`source::Protections`], [`delivery::Protections`]); the checker must then
//! find what it protects from. Nothing here runs in production, and nothing of production is used: what ties the two
//! together are the property tests of the worker's lane, and readers who compare them.

mod check;
pub mod delivery;
pub mod source;

pub use check::{Explored, Violation, ends, explore};
