//! Whose id is whose: identity links in both directions, what is asked of them, and who asks.

mod checking;
mod registrations;
mod status;
mod writing;

use super::operators::{answer, done, held, idle, letters, number, parked, refused, sql, states};
use std::time::Duration;

/// A bound for what takes moments on an idle machine, no claim.
const SOON: Duration = Duration::from_secs(90);
