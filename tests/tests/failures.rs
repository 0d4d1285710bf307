//! What a failing target, tenant or user sets off: breakers and rate limits, shared by all workers.

mod breakers;
mod broker;
mod doubts;
mod garbage;
mod parking;
mod rate_limits;
mod replays;
mod schedules;
mod stale;

use super::delivery::{SOON, emit};
