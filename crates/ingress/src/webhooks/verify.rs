//! Whether a request comes from who it says: over the raw bytes, before one of them is parsed.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use postbound_config::{IngressSource, Secret, SignatureEncoding, Verification};
use postbound_http::single;
use postbound_target::signature::{HeaderNames, Rejection, SigningKey, Verifier};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};
use time::OffsetDateTime;

use super::Source;
use crate::problem::Problem;

/// Longest id that is remembered.
const MESSAGE_ID_BYTES_MAX: usize = 256;

/// A verified message's id.
pub(super) struct MessageId {
    pub(super) text: String,
    /// Whether the sender gave it. One made of the body tells a repetition only for as long as a signature with a
    /// timestamp would: the same body may later be a change of its own.
    pub(super) lasting: bool,
}

impl Source {
    /// Verifies a request and gives its message's id.
    ///
    /// 401 where the signature is missing, wrong or out of time; 400 where the headers are no signature at all.
    pub(super) fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        digest: &[u8; 32],
        now: OffsetDateTime,
    ) -> Result<MessageId, Problem> {
        let secrets = self.secrets.current().map_err(|error| {
            tracing::error!(source = self.name(), %error, "ingress.secrets.unreadable");
            Problem::unavailable()
        })?;
        let id = match self.settings.verification {
            Verification::StandardWebhooks => {
                let text = verify_standard(&secrets, headers, body, now)?;
                MessageId { text, lasting: true }
            }
            Verification::HeaderHmac => self.verify_hmac(&secrets, headers, body, digest)?,
        };
        if id.text.len() > MESSAGE_ID_BYTES_MAX {
            return Err(Problem::malformed("the message's id is too long"));
        }
        Ok(id)
    }

    fn verify_hmac(
        &self,
        secrets: &[Secret],
        headers: &HeaderMap,
        body: &[u8],
        digest: &[u8; 32],
    ) -> Result<MessageId, Problem> {
        let settings = &self.settings;
        let refused = |why: &str| unsigned(format!("header {}: {why}", settings.signature_header));
        let presented = single(headers, &settings.signature_header)?.ok_or_else(|| refused("is missing"))?;
        let presented = presented
            .strip_prefix(&settings.signature_prefix)
            .ok_or_else(|| refused("has no such prefix"))?;
        let presented = match settings.signature_encoding {
            SignatureEncoding::Hex => presented.to_ascii_lowercase(),
            SignatureEncoding::Base64 => presented.to_owned(),
        };
        let mut matched = Choice::from(0);
        for secret in secrets {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
                .expect("an HMAC key may have any length");
            mac.update(body);
            let mac = mac.finalize().into_bytes();
            let expected = match settings.signature_encoding {
                SignatureEncoding::Hex => hex(&mac),
                SignatureEncoding::Base64 => STANDARD.encode(mac),
            };
            matched |= expected.as_bytes().ct_eq(presented.as_bytes());
        }
        if !bool::from(matched) {
            return Err(refused("does not match"));
        }
        let named = match &settings.id_header {
            Some(header) => single(headers, header)?,
            None => None,
        };
        Ok(match named {
            Some(id) => MessageId { text: format!("id:{id}"), lasting: true },
            None => MessageId { text: format!("body:{}", hex(digest)), lasting: false },
        })
    }
}

/// What is wrong with the secrets of a source. They are not repeated.
pub(super) fn check_secrets(settings: &IngressSource, secrets: &[Secret]) -> Result<(), String> {
    match settings.verification {
        Verification::StandardWebhooks => keys(secrets).map(drop).map_err(|error| error.to_string()),
        Verification::HeaderHmac if secrets.iter().any(|secret| secret.expose().len() < 16) => {
            Err("each must have 16 characters or more".to_owned())
        }
        Verification::HeaderHmac => Ok(()),
    }
}

fn verify_standard(
    secrets: &[Secret],
    headers: &HeaderMap,
    body: &[u8],
    now: OffsetDateTime,
) -> Result<String, Problem> {
    let keys = keys(secrets).map_err(|error| {
        tracing::error!(%error, "ingress.secrets.invalid");
        Problem::unavailable()
    })?;
    // Svix and Clerk sign the same under names of their own; a mix of both is refused by the verifier.
    let svix = headers.keys().any(|name| name.as_str().starts_with("svix-"));
    let names = if svix { HeaderNames::Svix } else { HeaderNames::Standard };
    // The body's length was bounded when it was read.
    let verifier = Verifier { keys, names, body_bytes_max: usize::MAX };
    match verifier.verify(headers, body, now.unix_timestamp()) {
        Ok(id) => Ok(id.to_owned()),
        Err(rejection) => Err(refusal(rejection)),
    }
}

fn refusal(rejection: Rejection) -> Problem {
    match rejection {
        Rejection::Missing(_) | Rejection::Stale | Rejection::NoSignature | Rejection::Mismatch => {
            unsigned(rejection.to_string())
        }
        Rejection::BodyTooLarge => Problem::too_large(0),
        Rejection::Duplicated(_)
        | Rejection::MixedNames
        | Rejection::Id
        | Rejection::Timestamp
        | Rejection::TooManySignatures => Problem::malformed(rejection.to_string()),
    }
}

/// 401, and not for want of a bearer token.
fn unsigned(detail: String) -> Problem {
    Problem::unauthorized(detail).challenge("Webhook-Signature")
}

fn keys(secrets: &[Secret]) -> Result<Vec<SigningKey>, postbound_target::signature::InvalidSecret> {
    secrets.iter().map(|secret| SigningKey::parse(secret.expose())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
