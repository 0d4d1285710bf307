//! Clerk's session tokens, checked as Clerk documents it (<https://clerk.com/docs/backend-requests/manual-jwt>): RS256 by
//! a key of Clerk's, `exp`, `nbf`, `iss`, and `azp` among the origins that are ours.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey, Validation};
use jsonwebtoken::{decode, decode_header};
use postbound_config::IngressDirectory;
use reqwest::Client;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::clerk_keys::{ClerkKeys, NoKey};
use crate::IngressError;

/// Longer tokens are not looked at; Clerk keeps its own below 4 KiB, as cookies are.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// What checks session tokens.
pub(crate) struct SessionTokens {
    keys: ClerkKeys,
    validation: Validation,
    authorized_parties: Vec<String>,
}

/// What a valid token says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Claims {
    /// The user.
    pub(crate) sub: String,
    /// The session.
    #[serde(default)]
    pub(crate) sid: Option<String>,
    /// The origin it was made for.
    #[serde(default)]
    azp: Option<String>,
    /// `pending`: signed in, but not through with what the application asks for.
    #[serde(default)]
    sts: Option<String>,
    /// All others, of which some may tell the user's profile.
    #[serde(flatten)]
    pub(crate) others: Map<String, Value>,
}

/// Why a token is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the session token is not a JWT signed with RS256")]
    Form,
    #[error("the session token's key is not known")]
    Key,
    #[error("the session token's signature does not match")]
    Signature,
    #[error("the session token has expired")]
    Expired,
    #[error("the session token is not valid yet")]
    Early,
    #[error("the session token is not from the issuer expected here")]
    Issuer,
    #[error("the session token lacks a claim, or one is of the wrong type")]
    Claims,
    #[error("the session token was made for another site")]
    Party,
    #[error("the session is pending")]
    Pending,
    /// Nothing is wrong with the token; whether it is right cannot be told now.
    #[error("the keys of session tokens cannot be fetched at the moment")]
    Unavailable,
}

impl SessionTokens {
    /// None where no issuer is configured.
    pub(crate) fn new(settings: &IngressDirectory, http: &Client) -> Result<Option<Self>, IngressError> {
        let Some(issuer) = &settings.clerk_issuer else { return Ok(None) };
        let Some(keys) = ClerkKeys::new(settings, http)? else { return Ok(None) };
        // Fails when it is installed already, which is as good.
        let _ = RING.install_default();
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = settings.clerk_leeway.as_secs();
        validation.validate_nbf = true;
        // Clerk's session tokens have no audience unless somebody adds one; `azp` is what tells sites apart.
        validation.validate_aud = false;
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "sub"]);
        Ok(Some(Self { keys, validation, authorized_parties: settings.clerk_authorized_parties.clone() }))
    }

    /// Checks a token.
    ///
    /// # Errors
    /// When it is not accepted. The text may be told to the caller.
    pub(crate) async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Form);
        }
        let header = decode_header(token).map_err(|_| TokenError::Form)?;
        if header.alg != Algorithm::RS256 {
            return Err(TokenError::Form);
        }
        let key = self.keys.key(header.kid.as_deref()).await.map_err(|error| match error {
            NoKey::Unknown => TokenError::Key,
            NoKey::Unavailable => TokenError::Unavailable,
        })?;
        let claims = decode::<Claims>(token, &key, &self.validation).map_err(|error| refusal(&error))?.claims;
        if claims.sub.is_empty() {
            return Err(TokenError::Claims);
        }
        if claims.sts.as_deref() == Some("pending") {
            return Err(TokenError::Pending);
        }
        // Tokens of native applications bear no azp.
        if claims.azp.as_deref().is_some_and(|party| !self.is_authorized(party)) {
            return Err(TokenError::Party);
        }
        Ok(claims)
    }

    /// Whether the origin is one of ours.
    pub(crate) fn is_authorized(&self, origin: &str) -> bool {
        self.authorized_parties.iter().any(|party| party == origin)
    }
}

fn refusal(error: &Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::Early,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::InvalidAlgorithm => TokenError::Form,
        _ => TokenError::Claims,
    }
}

/// RS256 by `ring`, which TLS has brought along: none of the providers that come with `jsonwebtoken` is needed.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: rs256_verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

struct Rs256(DecodingKey);

impl Verifier<Vec<u8>> for Rs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let parameters = &RSA_PKCS1_2048_8192_SHA256;
        let verified = match self.0.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            DecodingKeyKind::SecretOrDer(key) => {
                UnparsedPublicKey::new(parameters, key).verify(message, signature)
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Rs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

fn rs256_verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    match (algorithm, key.family()) {
        (Algorithm::RS256, AlgorithmFamily::Rsa) => Ok(Box::new(Rs256(key.clone()))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

#[cfg(test)]
mod tests;
