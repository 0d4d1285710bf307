//! What a failing target, tenant or user sets off: breakers and rate limits, shared by all workers.

mod breakers;
mod doubts;
mod garbage;
mod parking;
mod rate_limits;
mod replays;

use super::delivery::{SOON, emit};
