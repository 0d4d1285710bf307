//! Standard Webhooks signatures, both sides: <https://www.standardwebhooks.com>. Svix and Clerk use the same under
//! `svix-*` names (seed 004).
//!
//! The signed text is `id.timestamp.body` over the body's raw bytes; the header holds a space-separated list of
//! `v1,<base64>`, one per key, so that keys can be rotated without a gap.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::HeaderMap;
use sha2::Sha256;
use std::fmt;
use subtle::{Choice, ConstantTimeEq as _};

/// How far a timestamp may be from our clock, both ways, in seconds.
pub const TOLERANCE_SECONDS: u64 = 300;
/// More signatures than any rotation needs; each costs a comparison per key.
pub const SIGNATURES_MAX: usize = 16;

const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const SIGNATURE_BYTES: usize = 32;

/// One decoded secret.
#[derive(Clone)]
pub struct SigningKey(Vec<u8>);

/// A secret that is no key. It is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret must be whsec_ followed by the base64 of 24 to 64 bytes")]
pub struct InvalidSecret;

impl SigningKey {
    /// Decodes a `whsec_...` secret.
    ///
    /// # Errors
    /// When the prefix is missing, the rest is not base64, or not of 24 to 64 bytes.
    pub fn parse(secret: &str) -> Result<Self, InvalidSecret> {
        secret
            .strip_prefix("whsec_")
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .filter(|key| KEY_BYTES.contains(&key.len()))
            .map(Self)
            .ok_or(InvalidSecret)
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("an HMAC key may have any length");
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The signature header's value: one signature per key, in their order. `timestamp` is in Unix seconds.
pub fn sign(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let timestamp = timestamp.to_string();
    let signatures: Vec<String> =
        keys.iter().map(|key| format!("v1,{}", STANDARD.encode(key.mac(id, &timestamp, body)))).collect();
    signatures.join(" ")
}

/// Whose header names a request must use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderNames {
    /// `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    Standard,
    /// `svix-id`, `svix-timestamp`, `svix-signature` (Svix, Clerk).
    Svix,
}

impl HeaderNames {
    fn all(self) -> [&'static str; 3] {
        match self {
            Self::Standard => ["webhook-id", "webhook-timestamp", "webhook-signature"],
            Self::Svix => ["svix-id", "svix-timestamp", "svix-signature"],
        }
    }

    fn other_prefix(self) -> &'static str {
        match self {
            Self::Standard => "svix-",
            Self::Svix => "webhook-",
        }
    }
}

/// Why a request's signature is not accepted. The text may be told to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A header is missing or not of visible ASCII.
    #[error("header {0} is missing or not readable")]
    Missing(&'static str),
    /// Which one is meant cannot be told.
    #[error("header {0} stands more than once")]
    Duplicated(&'static str),
    /// Both families of names: a sign of a request put together from two.
    #[error("svix-* and webhook-* headers are mixed")]
    MixedNames,
    /// The id would be ambiguous within the signed text.
    #[error("the id is empty or holds a full stop")]
    Id,
    /// Signed, fractional, empty or no number at all.
    #[error("the timestamp is not a count of seconds")]
    Timestamp,
    /// A replay, or a clock that is off.
    #[error("the timestamp is more than {TOLERANCE_SECONDS} s from now")]
    Stale,
    /// Nothing to compare with.
    #[error("there is no whole v1 signature")]
    NoSignature,
    /// More than [`SIGNATURES_MAX`].
    #[error("there are too many signatures")]
    TooManySignatures,
    /// The body is over the limit and was not hashed.
    #[error("the body is too large")]
    BodyTooLarge,
    /// Signed with another key, or changed on the way.
    #[error("no signature matches")]
    Mismatch,
}

/// Checks signed requests.
#[derive(Debug, Clone)]
pub struct Verifier {
    /// Any of them may have signed.
    pub keys: Vec<SigningKey>,
    /// The names the sender uses.
    pub names: HeaderNames,
    /// Longer bodies are refused before they are hashed.
    pub body_bytes_max: usize,
}

impl Verifier {
    /// Accepts the request and gives its id, to deduplicate by, if one of its signatures is of one of the keys.
    /// `now` is in Unix seconds. Compares every signature with every key, in constant time.
    ///
    /// # Errors
    /// The [`Rejection`]; nothing about the request may be trusted then.
    pub fn verify<'h>(&self, headers: &'h HeaderMap, body: &[u8], now: i64) -> Result<&'h str, Rejection> {
        let other = self.names.other_prefix();
        if headers.keys().any(|name| name.as_str().starts_with(other)) {
            return Err(Rejection::MixedNames);
        }
        let [id, timestamp, signatures] = self.names.all();
        let (id, timestamp, signatures) =
            (only(headers, id)?, only(headers, timestamp)?, only(headers, signatures)?);
        if id.is_empty() || id.contains('.') {
            return Err(Rejection::Id);
        }
        check_timestamp(timestamp, now)?;
        let candidates = v1_signatures(signatures)?;
        if body.len() > self.body_bytes_max {
            return Err(Rejection::BodyTooLarge);
        }

        let mut matched = Choice::from(0);
        for key in &self.keys {
            let expected = key.mac(id, timestamp, body);
            for candidate in &candidates {
                matched |= expected.as_slice().ct_eq(candidate);
            }
        }
        if bool::from(matched) { Ok(id) } else { Err(Rejection::Mismatch) }
    }
}

fn only<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h str, Rejection> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().and_then(|value| value.to_str().ok()).ok_or(Rejection::Missing(name))?;
    if values.next().is_some() { Err(Rejection::Duplicated(name)) } else { Ok(value) }
}

fn check_timestamp(text: &str, now: i64) -> Result<(), Rejection> {
    // Digits only: parse() alone would take a sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Rejection::Timestamp);
    }
    let at: i64 = text.parse().map_err(|_| Rejection::Timestamp)?;
    if now.abs_diff(at) > TOLERANCE_SECONDS { Err(Rejection::Stale) } else { Ok(()) }
}

/// The decoded `v1` entries; other versions and broken ones are passed over.
fn v1_signatures(list: &str) -> Result<Vec<Vec<u8>>, Rejection> {
    let entries: Vec<&str> = list.split(' ').filter(|entry| !entry.is_empty()).collect();
    if entries.len() > SIGNATURES_MAX {
        return Err(Rejection::TooManySignatures);
    }
    let decoded: Vec<Vec<u8>> = entries
        .into_iter()
        .filter_map(|entry| entry.strip_prefix("v1,"))
        .filter_map(|encoded| STANDARD.decode(encoded).ok())
        .filter(|signature| signature.len() == SIGNATURE_BYTES)
        .collect();
    if decoded.is_empty() { Err(Rejection::NoSignature) } else { Ok(decoded) }
}
