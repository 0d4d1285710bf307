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
use postbound_event::{Action, Event, UserKey};
use time::OffsetDateTime;

/// An update of a user of tenant t0, as a message brings it.
fn updated(user: &str, version: i64) -> Event {
    Event {
        id: uuid::Uuid::new_v4(),
        log_id: version,
        key: UserKey::new("t0", user),
        version,
        action: Action::Updated,
        origin: None,
        traceparent: None,
        logged_at: OffsetDateTime::now_utc(),
        data: serde_json::value::RawValue::from_string("{}".to_owned()).unwrap(),
        resend: 0,
        job: None,
    }
}
