//! The six flows of the contracts, over real processes and the real wire: relay, worker, ingress, the reference backend
//! with its workflow and its webhooks, the reference CRM. And what only all of them together can show: that echoes come to
//! rest, and that a storm of webhooks in any order ends in the newest state.

mod bulk_sync;
mod clerk_sessions;
mod forgeries;
mod ping_pong;
mod registration;
mod round_trip;
mod storm;
mod town;

use town::{SOON, Town};
