use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::validate::Check;
use crate::{Secret, SecretSource, units};

/// `[ingress.tokens.<name>]`: who may call the ingress' own routes, and for which tenants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngressToken {
    /// What the caller presents as `Authorization: Bearer`. This or `token_file` is required.
    pub token: Option<Secret>,
    /// The same, kept in a file.
    pub token_file: Option<PathBuf>,
    /// What it opens. Default: nothing.
    #[serde(with = "units::list")]
    pub scopes: BTreeSet<IngressScope>,
    /// The only tenants it opens. Default: all.
    #[serde(with = "units::list")]
    pub tenants: BTreeSet<String>,
}

/// What a bearer token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IngressScope {
    /// `POST /v1/events`.
    Events,
    /// Sync status and identity links, and the retry of a user (`/v1/users`, `/v1/links`).
    Status,
    /// The directory (`/api/users`, `/api/sessions`), all users of it.
    Directory,
}

impl IngressToken {
    /// Where the token comes from.
    pub fn source(&self) -> Option<SecretSource> {
        SecretSource::from_settings(self.token.as_ref(), self.token_file.as_ref())
    }
}

impl Check<'_> {
    pub(crate) fn ingress_token(&mut self, name: &str, token: &IngressToken) {
        let key = format!("ingress.tokens.{name}");
        self.one_source(token.token.is_some(), &token.token_file, &format!("{key}.token"));
        let given = token.token.is_some() || token.token_file.is_some();
        self.require(given, &format!("{key}.token"), "is required, or `token_file`");
        let long = token.token.as_ref().is_none_or(|token| token.expose().len() >= 16);
        self.require_or_mend(
            long,
            &format!("{key}.token"),
            "must have 16 characters or more",
            Some("make one with: openssl rand -hex 32".to_owned()),
        );
        self.require(
            !token.scopes.is_empty(),
            &format!("{key}.scopes"),
            "is required: any of \"events\", \"status\", \"directory\"",
        );
    }
}
