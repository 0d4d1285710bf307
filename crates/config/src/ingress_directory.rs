use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::validate::Check;
use crate::{Secret, SecretSource, units};

/// `[ingress.directory]`: `/api/users` and `/api/sessions`. Services come with a token of `[ingress.tokens]` that opens
/// `directory`, users with Clerk's session token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngressDirectory {
    /// Whether the routes are served. Default true; who may call is decided by tokens.
    pub enabled: bool,
    /// Tenant of users who come with a session token, and of service calls that name none. Default `default`.
    pub tenant: String,
    /// Clerk's issuer (`iss`), the Frontend API's URL such as `https://clerk.example.com`. Default: none; then no session
    /// token is taken.
    pub clerk_issuer: Option<String>,
    /// Where Clerk's keys are: `https://<frontend api>/.well-known/jwks.json`. One of this, `clerk_jwks_file` and
    /// `clerk_key_file` is required with `clerk_issuer`.
    pub clerk_jwks_url: Option<String>,
    /// The same, as a file that is read again when a token names a key that is not in it.
    pub clerk_jwks_file: Option<PathBuf>,
    /// The one public key, as PEM.
    pub clerk_key_file: Option<PathBuf>,
    /// Origins a session token may be made for (its `azp`), such as `https://app.example.com`. Required with `clerk_issuer`.
    #[serde(with = "units::list")]
    pub clerk_authorized_parties: Vec<String>,
    /// How far Clerk's clock may be from ours. Default 5 s.
    #[serde(with = "units::duration")]
    pub clerk_leeway: Duration,
    /// Clerk's Backend API, asked for the profile of a user whose token does not hold it. Default `https://api.clerk.com`.
    pub clerk_api_url: String,
    /// The Backend API's secret key (`sk_...`). Default: none; then nobody is asked.
    pub clerk_secret_key: Option<Secret>,
    /// The same, kept in a file.
    pub clerk_secret_key_file: Option<PathBuf>,
    /// Time for a request to Clerk. Default 5 s.
    #[serde(with = "units::duration")]
    pub clerk_timeout: Duration,
}

impl Default for IngressDirectory {
    fn default() -> Self {
        Self {
            enabled: true,
            tenant: "default".to_owned(),
            clerk_issuer: None,
            clerk_jwks_url: None,
            clerk_jwks_file: None,
            clerk_key_file: None,
            clerk_authorized_parties: Vec::new(),
            clerk_leeway: Duration::from_secs(5),
            clerk_api_url: "https://api.clerk.com".to_owned(),
            clerk_secret_key: None,
            clerk_secret_key_file: None,
            clerk_timeout: Duration::from_secs(5),
        }
    }
}

impl IngressDirectory {
    /// Where the Backend API's secret key comes from, if there is one.
    pub fn clerk_secret_key(&self) -> Option<SecretSource> {
        SecretSource::from_settings(self.clerk_secret_key.as_ref(), self.clerk_secret_key_file.as_ref())
    }
}

impl Check<'_> {
    pub(crate) fn ingress_directory(&mut self, directory: &IngressDirectory) {
        let key = |name: &str| format!("ingress.directory.{name}");
        let tenant = &directory.tenant;
        let plain = (1..=256).contains(&tenant.len()) && !tenant.chars().any(char::is_control);
        self.require(plain, &key("tenant"), "must have 1 to 256 bytes and no control character");
        let sources = [
            directory.clerk_jwks_url.is_some(),
            directory.clerk_jwks_file.is_some(),
            directory.clerk_key_file.is_some(),
        ];
        let count = sources.into_iter().filter(|given| *given).count();
        if directory.clerk_issuer.is_some() {
            self.require(
                count == 1,
                &key("clerk_jwks_url"),
                "give exactly one of `clerk_jwks_url`, `clerk_jwks_file` and `clerk_key_file`",
            );
            self.require_or_mend(
                !directory.clerk_authorized_parties.is_empty(),
                &key("clerk_authorized_parties"),
                "is required with `clerk_issuer`: a token made for another site would be taken",
                Some("list the origins of your front ends, such as [\"https://app.example.com\"]".to_owned()),
            );
        } else {
            self.require(count == 0, &key("clerk_issuer"), "is required where Clerk's keys are given");
        }
        for (name, url) in [
            ("clerk_issuer", directory.clerk_issuer.as_deref()),
            ("clerk_jwks_url", directory.clerk_jwks_url.as_deref()),
            ("clerk_api_url", Some(directory.clerk_api_url.as_str())),
        ] {
            let usable = url.is_none_or(|url| {
                Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            });
            self.require(
                usable,
                &key(name),
                "must be a URL that begins with https:// (or http://, for trials)",
            );
        }
        self.one_source(
            directory.clerk_secret_key.is_some(),
            &directory.clerk_secret_key_file,
            &key("clerk_secret_key"),
        );
        self.require(
            directory.clerk_leeway <= Duration::from_secs(60),
            &key("clerk_leeway"),
            "must be 60s or less: session tokens live for a minute",
        );
        self.some_time(directory.clerk_timeout, &key("clerk_timeout"));
    }
}
