//! How people are told that nothing is sent to a target.

use crate::moment::{show, show_if};
use postbound_store::ClosedScope;

/// What is closed, why, since when and until when.
pub(crate) fn why_closed(target: &str, closed: &ClosedScope) -> String {
    format!("{}: {}", scope(target, closed.tenant.as_deref()), why(closed))
}

/// A target, or a tenant of it.
pub(crate) fn scope(target: &str, tenant: Option<&str>) -> String {
    match tenant {
        Some(tenant) => format!("{target}, tenant {tenant}"),
        None => target.to_owned(),
    }
}

/// Why it is closed, since when and until when.
pub(crate) fn why(closed: &ClosedScope) -> String {
    let since = show(closed.since);
    match &closed.paused_by {
        Some(_) => format!("{}; closed since {since}, until it is resumed", cause(closed)),
        None => format!("{} since {since}, next probe {}", cause(closed), show_if(closed.next_probe_at)),
    }
}

/// The cause alone, which stays the same as long as it is closed for it.
pub(crate) fn cause(closed: &ClosedScope) -> String {
    match &closed.paused_by {
        Some(by) => format!("paused by {by}: {}", closed.pause_reason.as_deref().unwrap_or_default()),
        None => format!("breaker open ({})", closed.reason),
    }
}
