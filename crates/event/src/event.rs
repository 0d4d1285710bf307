use crate::{Action, UserKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use time::OffsetDateTime;
use uuid::Uuid;

/// One committed change of one user, as a worker holds it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The event's id, drawn by the producer or by `emit`.
    pub id: Uuid,
    /// Place in the change log.
    pub log_id: i64,
    /// Whose change it is.
    pub key: UserKey,
    /// The user's version after the change, from 1.
    pub version: i64,
    /// What happened.
    pub action: Action,
    /// The system the change came from, if not the auth service itself.
    pub origin: Option<String>,
    /// W3C trace context of the producer.
    pub traceparent: Option<String>,
    /// When the change was written to the log.
    pub logged_at: OffsetDateTime,
    /// The user's state after the change, as raw JSON: an object.
    pub data: Box<RawValue>,
    /// Grows with every deliberate new idempotency key for the same state; 0 for one that comes from the log.
    pub resend: u32,
    /// The job that sends it, if it does not come from the log.
    pub job: Option<JobPart>,
}

/// Which item of which job (replay, resync, ...) an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobPart {
    /// The job.
    pub job: i64,
    /// Place in the job, from 1.
    pub item: i64,
    /// Whether it is to be sent also when the target holds this very version (a resync); an older one never is.
    pub repeats: bool,
    /// Whether the job is of all users of the tenant: a full sync.
    pub full: bool,
}

/// An event as CloudEvents 1.0 JSON; extension attributes are lower-case as the spec wants them.
///
/// `userversion` and `logid` are strings: a CloudEvents Integer has 32 bits, these have 64.
#[derive(Serialize, Deserialize)]
pub(crate) struct CloudEvent<'a> {
    pub(crate) specversion: Cow<'a, str>,
    pub(crate) id: Uuid,
    #[serde(borrow)]
    pub(crate) source: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    pub(crate) event_type: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) subject: Cow<'a, str>,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) time: OffsetDateTime,
    #[serde(borrow)]
    pub(crate) tenantid: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) userversion: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) logid: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) resend: u32,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) jobid: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) jobitem: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) jobrepeats: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) jobfull: bool,
    #[serde(borrow)]
    pub(crate) data: &'a RawValue,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The fields of a change beside its data, borrowed from a row of the log.
#[derive(Debug, Clone, Copy)]
pub struct EventHeader<'a> {
    /// See [`Event::id`].
    pub id: Uuid,
    /// See [`Event::log_id`].
    pub log_id: i64,
    /// Tenant of the user.
    pub tenant: &'a str,
    /// The user's id.
    pub user: &'a str,
    /// See [`Event::version`].
    pub version: i64,
    /// See [`Event::action`].
    pub action: Action,
    /// See [`Event::origin`].
    pub origin: Option<&'a str>,
    /// See [`Event::traceparent`].
    pub traceparent: Option<&'a str>,
    /// See [`Event::logged_at`].
    pub logged_at: OffsetDateTime,
    /// See [`Event::resend`].
    pub resend: u32,
    /// See [`Event::job`].
    pub job: Option<JobPart>,
}
