//! A request as it came in: what its headers say, and its body, hashed.

use axum::http::HeaderMap;
use postbound_http::{parse_key, single};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::Contract;
use crate::problem::Problem;

/// One authenticated request.
pub(crate) struct Delivery {
    pub(crate) contract: Contract,
    pub(crate) headers: HeaderMap,
    pub(crate) sha256: [u8; 32],
    /// The body, or what is wrong with it as JSON.
    pub(crate) json: Result<Value, String>,
}

/// What the headers say about the change. Not about who sent it: that is `auth`'s and `signature`'s.
pub(crate) struct Envelope {
    /// `postbound-tenant`, else `X-Tenant-ID`.
    pub(crate) tenant: Option<String>,
    /// `postbound-user-version`.
    pub(crate) version: Option<i64>,
    /// `Idempotency-Key` without its quotes.
    pub(crate) key: Option<String>,
    /// `postbound-event-id`.
    pub(crate) event_id: Option<String>,
}

/// A user named in a body, for the log of what was refused.
pub(crate) struct NamedUser<'d> {
    pub(crate) id: &'d str,
    pub(crate) action: &'d str,
    pub(crate) version: Option<i64>,
    pub(crate) content: &'d Value,
}

impl Delivery {
    pub(crate) fn new(contract: Contract, headers: HeaderMap, body: &[u8]) -> Self {
        let json = serde_json::from_slice(body).map_err(|error| error.to_string());
        Self { contract, headers, sha256: Sha256::digest(body).into(), json }
    }

    /// The body as JSON, or a 400.
    pub(crate) fn json(&self) -> Result<&Value, Problem> {
        self.json.as_ref().map_err(|error| Problem::malformed(format!("the body is not JSON: {error}")))
    }

    /// The users the body names, as far as it can be read.
    pub(crate) fn users(&self) -> Vec<NamedUser<'_>> {
        let Ok(json) = &self.json else { return Vec::new() };
        let contents = match self.contract {
            Contract::S0 | Contract::S2 => std::slice::from_ref(json),
            Contract::S3 => json.get("users").and_then(Value::as_array).map_or(&[][..], Vec::as_slice),
        };
        let header_version = Envelope::lenient(&self.headers).version;
        let named = |content| {
            let id = match self.contract {
                Contract::S0 => Value::pointer(content, "/inputData/metadata/convexUserId"),
                Contract::S2 | Contract::S3 => Value::get(content, "id"),
            };
            let id = id.and_then(Value::as_str)?;
            let deleted = content.get("deleted") == Some(&Value::Bool(true));
            Some(match self.contract {
                Contract::S0 => {
                    let action = content.get("trigger").and_then(Value::as_str).unwrap_or_default();
                    NamedUser { id, action, version: header_version, content }
                }
                Contract::S2 => {
                    let action = content.get("action").and_then(Value::as_str).unwrap_or_default();
                    NamedUser { id, action, version: header_version, content }
                }
                Contract::S3 => NamedUser {
                    id,
                    action: if deleted { "deleted" } else { "synced" },
                    version: content.get("version").and_then(Value::as_i64),
                    content,
                },
            })
        };
        contents.iter().filter_map(named).collect()
    }
}

impl Envelope {
    /// Reads the headers as the guarded receivers do: what is there must be right.
    pub(crate) fn strict(headers: &HeaderMap) -> Result<Self, Problem> {
        let tenant = match single(headers, "postbound-tenant")? {
            Some(tenant) => Some(tenant),
            None => single(headers, "x-tenant-id")?,
        };
        let version = single(headers, "postbound-user-version")?
            .map(|text| {
                parse_version(text).ok_or_else(|| {
                    Problem::malformed("header postbound-user-version must be a positive integer")
                })
            })
            .transpose()?;
        let key = single(headers, "idempotency-key")?
            .map(|text| {
                parse_key(text).ok_or_else(|| {
                    Problem::malformed(
                        "header Idempotency-Key must be a quoted string of at most 255 characters",
                    )
                })
            })
            .transpose()?;
        let event_id = single(headers, "postbound-event-id")?.map(str::to_owned);
        Ok(Self { tenant: tenant.map(str::to_owned), version, key, event_id })
    }

    /// Reads what can be read, for the log of receivers and refusals that do not care.
    pub(crate) fn lenient(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            tenant: text("postbound-tenant").or_else(|| text("x-tenant-id")),
            version: text("postbound-user-version").as_deref().and_then(parse_version),
            key: text("idempotency-key").map(|raw| parse_key(&raw).unwrap_or(raw)),
            event_id: text("postbound-event-id"),
        }
    }
}

fn parse_version(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|version: &i64| digits && *version > 0)
}
