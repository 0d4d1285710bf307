//! What a verified body says, by the kind of its source.

use axum::http::HeaderMap;
use postbound_config::InboundKind;
use postbound_http::single;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Source;
use crate::directory::clerk::ClerkUser;
use crate::directory::{Says, Word};
use crate::problem::Problem;

/// Fields of `backend-sync`'s data that name the user, or the message, and are no part of the user's state.
const NOT_STATE: [&str; 8] = [
    "id",
    "frontendUserId",
    "convexUserId",
    "crmContactId",
    "reason",
    "version",
    "updatedAt",
    "lastSyncedAt",
];

/// Longest id of a user that is taken, as long as any that a target may tell.
const ID_BYTES_MAX: usize = 512;

/// What a body says.
pub(super) enum Inbound {
    Change(InboundChange),
    /// An event of no interest here.
    Ignored,
}

/// A change of one user.
pub(super) struct InboundChange {
    /// The user's id: ours, or the sender's own where the source has a `link_target`.
    pub(super) id: String,
    /// The tenant, where configuration or body name it.
    pub(super) tenant: Option<String>,
    pub(super) word: Word,
    pub(super) says: Says,
    /// The sender's own time of the change, by which an older one is told; Clerk's is in `says`.
    pub(super) ordered_at: Option<OffsetDateTime>,
    pub(super) traceparent: Option<String>,
}

impl Inbound {
    /// Reads a body; 422 where it is not of the contract's form. What is refused is never repeated in the reason.
    pub(super) fn read(source: &Source, headers: &HeaderMap, body: &Value) -> Result<Self, Problem> {
        let (id, word, says, ordered_at) = match source.settings.kind {
            InboundKind::Clerk => match read_clerk(body)? {
                Some((id, word, says)) => (id, word, says, None),
                None => return Ok(Self::Ignored),
            },
            InboundKind::BackendSync => match read_backend(body)? {
                Some(change) => change,
                None => return Ok(Self::Ignored),
            },
        };
        if id.len() > ID_BYTES_MAX {
            return Err(Problem::unacceptable(format!("the user's id is longer than {ID_BYTES_MAX} bytes")));
        }
        let tenant = tenant_of(source, body, &word)?;
        let traceparent = single(headers, "traceparent").ok().flatten().map(str::to_owned);
        Ok(Self::Change(InboundChange { id, tenant, word, says, ordered_at, traceparent }))
    }
}

/// The tenant that configuration or body name. A delete may tell nothing but the id, as Clerk's does: then the tenant is
/// looked up.
fn tenant_of(source: &Source, body: &Value, word: &Word) -> Result<Option<String>, Problem> {
    let Some(pointer) = &source.settings.tenant_pointer else { return Ok(source.settings.tenant.clone()) };
    let named = body.pointer(pointer).and_then(Value::as_str).filter(|tenant| !tenant.is_empty());
    match (named, word) {
        (Some(tenant), _) => Ok(Some(tenant.to_owned())),
        (None, Word::Delete { .. }) => Ok(None),
        (None, Word::Set(_)) => Err(Problem::unacceptable(format!("there is no tenant at {pointer}"))),
    }
}

/// `user.created`, `user.updated` and `user.deleted` (<https://clerk.com/docs/webhooks>); anything else is of no interest.
fn read_clerk(body: &Value) -> Result<Option<(String, Word, Says)>, Problem> {
    let (event, data) = event_and_data(body, "type")?;
    match event {
        "user.created" | "user.updated" => {
            let user = ClerkUser::read(&Value::Object(data.clone()))
                .map_err(|error| Problem::unacceptable(error.to_string()))?;
            let says = Says::Clerk { updated_at: Some(user.updated_at) };
            Ok(Some((user.id, Word::Set(user.fields), says)))
        }
        // Clerk leaves the id out of a user that was never whole: there is nobody to delete.
        "user.deleted" => Ok(text_or_number(data.get("id"))
            .map(|id| (id, Word::Delete { reason: reason(data) }, Says::Clerk { updated_at: None }))),
        _ => Ok(None),
    }
}

type BackendChange = (String, Word, Says, Option<OffsetDateTime>);

/// `{event, data: {frontendUserId, reason?, ...}}` (seed 000). Beyond the seed, `data.updatedAt` orders changes and
/// `data.version` is the version of ours that the backend held when it made the change.
fn read_backend(body: &Value) -> Result<Option<BackendChange>, Problem> {
    let (event, data) = event_and_data(body, "event")?;
    let word = match event {
        "user.updated" => Word::Set(state_of(data)),
        "user.deleted" => Word::Delete { reason: reason(data) },
        _ => return Ok(None),
    };
    let id = text_or_number(data.get("frontendUserId"))
        .ok_or_else(|| Problem::unacceptable("data.frontendUserId is missing"))?;
    let ordered_at = match data.get("updatedAt").or_else(|| body.get("timestamp")) {
        None | Some(Value::Null) => None,
        Some(time) => Some(moment(time).ok_or_else(|| {
            Problem::unacceptable("data.updatedAt is neither RFC 3339 nor Unix milliseconds")
        })?),
    };
    let version = data.get("version").and_then(Value::as_i64);
    Ok(Some((id, word, Says::Peer { version }, ordered_at)))
}

fn event_and_data<'b>(body: &'b Value, event: &str) -> Result<(&'b str, &'b Map<String, Value>), Problem> {
    let named = body.get(event).and_then(Value::as_str);
    let data = body.get("data").and_then(Value::as_object);
    let named = named.ok_or_else(|| Problem::unacceptable(format!("`{event}` is missing")))?;
    let data = data.ok_or_else(|| Problem::unacceptable("`data` is not an object"))?;
    Ok((named, data))
}

fn state_of(data: &Map<String, Value>) -> Map<String, Value> {
    let state = data.iter().filter(|(name, _)| !NOT_STATE.contains(&name.as_str()) && !name.starts_with('_'));
    state.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn reason(data: &Map<String, Value>) -> Option<String> {
    data.get("reason").and_then(Value::as_str).filter(|reason| !reason.is_empty()).map(str::to_owned)
}

/// Ids of some systems are numbers.
fn text_or_number(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

fn moment(value: &Value) -> Option<OffsetDateTime> {
    if let Some(text) = value.as_str() {
        return OffsetDateTime::parse(text, &Rfc3339).ok();
    }
    let milliseconds = value.as_i64()?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000).ok()
}
