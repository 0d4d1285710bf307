//! Bearer tokens of services: `[ingress.tokens.<name>]`.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::{HeaderMap, header};
use postbound_config::{IngressScope, IngressToken, SecretSource};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::IngressError;
use crate::problem::Problem;

/// The tokens there are.
pub(crate) struct Tokens(Vec<Token>);

struct Token {
    name: String,
    source: SecretSource,
    scopes: BTreeSet<IngressScope>,
    tenants: BTreeSet<String>,
}

/// Who calls, after the token was checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    /// The token's name in the configuration, for logs and audit rows.
    pub(crate) name: &'a str,
    tenants: &'a BTreeSet<String>,
}

impl Tokens {
    pub(crate) fn new(settings: &BTreeMap<String, IngressToken>) -> Result<Self, IngressError> {
        let mut tokens = Vec::new();
        for (name, token) in settings {
            let Some(source) = token.source() else { continue };
            let key = || format!("tokens.{name}.token_file");
            source.current().map_err(|error| IngressError::Secret { key: key(), error })?;
            let (scopes, tenants) = (token.scopes.clone(), token.tenants.clone());
            tokens.push(Token { name: name.clone(), source, scopes, tenants });
        }
        Ok(Self(tokens))
    }

    /// Who presents `Authorization: Bearer`, if that opens `scope`: else 401, or 403 for a token of another scope.
    pub(crate) fn authorize(&self, headers: &HeaderMap, scope: IngressScope) -> Result<Caller<'_>, Problem> {
        let presented = bearer(headers).ok_or_else(|| Problem::unauthorized("a bearer token is required"))?;
        let digest = Sha256::digest(presented.as_bytes());
        // All are compared, so that the time tells nothing.
        let mut found = None;
        for token in &self.0 {
            let Ok(secret) = token.source.current() else { continue };
            if bool::from(Sha256::digest(secret.expose().as_bytes()).ct_eq(&digest)) {
                found = Some(token);
            }
        }
        let token = found.ok_or_else(|| Problem::unauthorized("the bearer token is not known"))?;
        if !token.scopes.contains(&scope) {
            return Err(Problem::forbidden("the bearer token is not for this"));
        }
        Ok(Caller { name: &token.name, tenants: &token.tenants })
    }
}

impl Caller<'_> {
    /// Refuses (403) a tenant the token is not for.
    pub(crate) fn check_tenant(&self, tenant: &str) -> Result<(), Problem> {
        if self.admits(tenant) {
            return Ok(());
        }
        Err(Problem::forbidden("the bearer token is not for this tenant"))
    }

    /// Whether the token is for this tenant.
    pub(crate) fn admits(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.contains(tenant)
    }

    /// The only tenants the token is for; none: it is for all.
    pub(crate) fn tenants(&self) -> Option<Vec<String>> {
        (!self.tenants.is_empty()).then(|| self.tenants.iter().cloned().collect())
    }
}

/// The token of `Authorization: Bearer`, if there is exactly one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, token) = values.next()?.to_str().ok()?.split_once(' ')?;
    let alone = values.next().is_none();
    (alone && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim()).filter(|token| !token.is_empty())
}
