//! Who may call: the shared key, compared in constant time, and the signature.

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;

use crate::config::{Contract, Mode, ReceiverConfig};
use crate::problem::Problem;
use crate::signature::{SignatureError, Verifier};

/// What the CRM's document answers to a wrong key, to the letter.
const INVALID_KEY: &str = "Unauthorized - Invalid API key";

/// Checks the shared key where the configuration asks for one. Runs before the body is read.
pub(crate) fn check_key(
    config: &ReceiverConfig,
    contract: Contract,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    let expected = match (contract, config.mode) {
        (Contract::S3, _) => config.api_key.as_deref(),
        (Contract::S0 | Contract::S2, Mode::Guarded) => config.backend_api_key.as_deref(),
        (Contract::S0 | Contract::S2, Mode::Guardless) => None,
    };
    let Some(expected) = expected else { return Ok(()) };
    let presented = match contract {
        Contract::S3 => only(headers, "x-internal-api-key"),
        Contract::S0 | Contract::S2 => only(headers, header::AUTHORIZATION.as_str())
            .and_then(|value| value.strip_prefix("Bearer "))
            .or_else(|| only(headers, "x-internal-api-key")),
    };
    // Digests are of one length, so that not even the key's length shows in the time this takes.
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    let equal = digest(presented.unwrap_or_default()).as_slice().ct_eq(digest(expected).as_slice());
    if presented.is_some() && bool::from(equal) {
        return Ok(());
    }
    let scheme = if contract == Contract::S3 { "ApiKey" } else { "Bearer" };
    Err(Problem::unauthorized(INVALID_KEY).challenge(scheme))
}

/// Checks the signature where secrets are configured. Runs before the body is parsed.
pub(crate) fn check_signature(verifier: &Verifier, headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
    if !verifier.is_required() {
        return Ok(());
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let unsigned =
        |error: SignatureError| Problem::unauthorized(error.to_string()).challenge("Webhook-Signature");
    verifier.verify(headers, body, now).map_err(unsigned)
}

fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}
