//! Standard Webhooks signatures, the receiving side: <https://www.standardwebhooks.com>.
//!
//! The signed text is `id.timestamp.body` over the raw bytes of the body. Everything that is not exactly that is
//! refused before a byte of the body is parsed.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::config::ReceiverError;

/// How far the timestamp may be from our clock, both ways.
const TOLERANCE_SECONDS: i64 = 300;
/// More signatures than any rotation needs; each costs an HMAC comparison.
const SIGNATURES_MAX: usize = 16;
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The keys that may have signed, decoded once.
pub(crate) struct Verifier {
    keys: Vec<Vec<u8>>,
}

/// Why a request's signature is not accepted. The text may be told to the sender.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    #[error("header {0} is missing or not readable")]
    Missing(&'static str),
    #[error("header {0} stands more than once")]
    Duplicated(&'static str),
    #[error("svix-* headers are not taken here")]
    MixedNames,
    #[error("webhook-id is empty or holds a full stop")]
    Id,
    #[error("webhook-timestamp is not a count of seconds")]
    Timestamp,
    #[error("webhook-timestamp is more than {TOLERANCE_SECONDS} s from now")]
    Stale,
    #[error("webhook-signature holds no v1 signature, or too many")]
    Signatures,
    #[error("no signature matches")]
    Mismatch,
}

impl Verifier {
    /// Decodes the secrets.
    pub(crate) fn new(secrets: &[String]) -> Result<Self, ReceiverError> {
        let decode = |(position, secret): (usize, &String)| {
            secret
                .strip_prefix("whsec_")
                .and_then(|text| STANDARD.decode(text).ok())
                .filter(|key| KEY_BYTES.contains(&key.len()))
                .ok_or(ReceiverError::SigningSecret { position })
        };
        Ok(Self { keys: secrets.iter().enumerate().map(decode).collect::<Result<_, _>>()? })
    }

    /// Whether signatures are asked for at all.
    pub(crate) fn is_required(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Accepts the request if one of its signatures was made with one of the keys. `now` is in Unix seconds.
    pub(crate) fn verify(&self, headers: &HeaderMap, body: &[u8], now: i64) -> Result<(), SignatureError> {
        if headers.keys().any(|name| name.as_str().starts_with("svix-")) {
            return Err(SignatureError::MixedNames);
        }
        let id = only(headers, "webhook-id")?;
        let timestamp = only(headers, "webhook-timestamp")?;
        let signatures = only(headers, "webhook-signature")?;
        if id.is_empty() || id.contains('.') {
            return Err(SignatureError::Id);
        }
        check_timestamp(timestamp, now)?;
        let candidates = v1_signatures(signatures)?;

        let mut matched = subtle::Choice::from(0);
        for key in &self.keys {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("an HMAC key may have any length");
            for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                mac.update(part);
            }
            let expected = mac.finalize().into_bytes();
            for candidate in &candidates {
                matched |= expected.as_slice().ct_eq(candidate);
            }
        }
        if bool::from(matched) { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

fn only<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h str, SignatureError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().and_then(|v| v.to_str().ok()).ok_or(SignatureError::Missing(name))?;
    if values.next().is_some() { Err(SignatureError::Duplicated(name)) } else { Ok(value) }
}

fn check_timestamp(text: &str, now: i64) -> Result<(), SignatureError> {
    // Digits only: parse() alone would take a sign.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SignatureError::Timestamp);
    }
    let at: i64 = text.parse().map_err(|_| SignatureError::Timestamp)?;
    if now.abs_diff(at) > TOLERANCE_SECONDS.unsigned_abs() { Err(SignatureError::Stale) } else { Ok(()) }
}

/// The decoded `v1` entries of the space-separated list; other versions are passed over.
fn v1_signatures(list: &str) -> Result<Vec<Vec<u8>>, SignatureError> {
    let entries: Vec<&str> = list.split(' ').filter(|entry| !entry.is_empty()).collect();
    if entries.len() > SIGNATURES_MAX {
        return Err(SignatureError::Signatures);
    }
    let decoded: Vec<Vec<u8>> = entries
        .into_iter()
        .filter_map(|entry| entry.strip_prefix("v1,"))
        .filter_map(|text| STANDARD.decode(text).ok())
        .filter(|signature| signature.len() == 32)
        .collect();
    if decoded.is_empty() { Err(SignatureError::Signatures) } else { Ok(decoded) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in entries {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn check(entries: &[(&'static str, &str)], body: &[u8], now: i64, expected: &Result<(), SignatureError>) {
        let verifier = Verifier::new(&[OTHER.to_owned(), SECRET.to_owned()]).unwrap();
        assert_eq!(&verifier.verify(&headers(entries), body, now), expected, "{entries:?} at {now}");
    }

    fn signed<'a>(id: &'a str, timestamp: &'a str, signature: &'a str) -> [(&'static str, &'a str); 3] {
        [("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", signature)]
    }

    #[test]
    fn the_published_vectors_are_accepted_under_any_of_the_secrets() {
        check(&signed(ID, "1614265330", SIGNATURE), BODY, AT, &Ok(()));
        check(&signed(ID, "1614265330", SIGNATURE), BODY, AT + 300, &Ok(()));
        check(&signed(ID, "1614265330", SIGNATURE), BODY, AT - 300, &Ok(()));
        check(
            &signed(
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                "1649367553",
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            br#"{"email":"test@example.com","username":"test_user"}"#,
            1_649_367_553,
            &Ok(()),
        );
        let rotated = format!("v1a,zzzz v1,{} {SIGNATURE}", STANDARD.encode([7; 32]));
        check(&signed(ID, "1614265330", &rotated), BODY, AT, &Ok(()));
    }

    #[test]
    fn anything_else_is_refused() {
        use SignatureError as E;
        let good = signed(ID, "1614265330", SIGNATURE);
        for missing in 0..3 {
            let name = good[missing].0;
            let rest: Vec<_> = good.iter().filter(|(n, _)| *n != name).copied().collect();
            check(&rest, BODY, AT, &Err(E::Missing(name)));
            let twice: Vec<_> = good.iter().chain([&good[missing]]).copied().collect();
            check(&twice, BODY, AT, &Err(E::Duplicated(name)));
        }
        let mixed: Vec<_> = good.iter().copied().chain([("svix-id", ID)]).collect();
        check(&mixed, BODY, AT, &Err(E::MixedNames));
        for id in ["", "msg.1"] {
            check(&signed(id, "1614265330", SIGNATURE), BODY, AT, &Err(E::Id));
        }
        for timestamp in ["", "+1614265330", "-1614265330", "1614265330.0", "soon", "99999999999999999999"] {
            check(&signed(ID, timestamp, SIGNATURE), BODY, AT, &Err(E::Timestamp));
        }
        check(&good, BODY, AT + 301, &Err(E::Stale));
        check(&good, BODY, AT - 301, &Err(E::Stale));
        let many = [SIGNATURE; 17].join(" ");
        for list in ["", "v1,", "v1,g0hM9SsE", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", &many] {
            check(&signed(ID, "1614265330", list), BODY, AT, &Err(E::Signatures));
        }
        check(&good, br#"{"test":2432232314}"#, AT, &Err(E::Mismatch));
        check(&signed("msg_other", "1614265330", SIGNATURE), BODY, AT, &Err(E::Mismatch));
    }

    #[test]
    fn a_secret_that_is_no_key_stops_the_start() {
        for secret in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%"] {
            let result = Verifier::new(&[secret.to_owned()]);
            assert!(matches!(result, Err(ReceiverError::SigningSecret { position: 0 })), "{secret}");
        }
    }
}
