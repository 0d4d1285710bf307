use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::target::RateLimit;
use crate::{Secret, SecretList, SecretSource, units};

/// `[receiver]`: the reference receivers, model for those who write a real one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Receiver {
    /// Where requests are taken; port 0 takes any free one. Default `127.0.0.1:8080`.
    #[serde(with = "units::listen")]
    pub listen: SocketAddr,
    /// Postgres of the receiver. Default: that of `[database]`.
    pub database_url: Option<Secret>,
    /// Schema its tables are in. Default `receiver`.
    pub schema: String,
    /// Whether it guards itself by version and idempotency key. Default `guarded`.
    pub mode: ReceiverMode,
    /// What callers of `crm-batch` must present as API key (`X-Internal-API-Key`). Default: none is asked for.
    pub api_key: Option<Secret>,
    /// The same, kept in a file. Default: none.
    pub api_key_file: Option<PathBuf>,
    /// What callers of `backend-sync` and of the workflow must present as API key (`X-Internal-API-Key`, or `Authorization: Bearer`); not
    /// asked for in mode `guardless`. Default: none is asked for.
    pub backend_api_key: Option<Secret>,
    /// The same, kept in a file. Default: none.
    pub backend_api_key_file: Option<PathBuf>,
    /// Secrets that verify signatures; any match passes. Default: signatures are not asked for.
    #[serde(with = "units::list")]
    pub signing_secrets: Vec<Secret>,
    /// The same, kept in a file, one a line. Default: none.
    pub signing_secrets_file: Option<PathBuf>,
    /// The mail server of the workflow's welcome e-mails: `smtps://user:password@host`, or
    /// `smtp://user:password@host:587?tls=required`. Default: none, they are written down and not sent.
    pub smtp_url: Option<Secret>,
    /// Who writes them. Default `Postbound <postbound@localhost>`.
    pub smtp_from: String,
    /// Requests taken in a span of time, then 429 with `Retry-After`. Default: no limit.
    pub rate_limit: Option<RateLimit>,
    /// Where the backend tells of users that were changed in it (`PUT`, `DELETE /admin/users/{tenant}/{user}`): a path of
    /// `postbound ingress`. Default: nowhere; then these routes are not served.
    pub notify_url: Option<String>,
    /// Signs what it tells, `whsec_...`. Required with `notify_url`.
    pub notify_secret: Option<Secret>,
    /// Whether the routes that inject faults are served, for trials. Default false.
    pub faults: bool,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            database_url: None,
            schema: "receiver".to_owned(),
            mode: ReceiverMode::Guarded,
            api_key: None,
            api_key_file: None,
            backend_api_key: None,
            backend_api_key_file: None,
            signing_secrets: Vec::new(),
            signing_secrets_file: None,
            smtp_url: None,
            smtp_from: "Postbound <postbound@localhost>".to_owned(),
            rate_limit: None,
            notify_url: None,
            notify_secret: None,
            faults: false,
        }
    }
}

impl Receiver {
    /// Where the API key of `crm-batch` comes from, if one is asked for.
    pub fn api_key(&self) -> Option<SecretSource> {
        SecretSource::from_settings(self.api_key.as_ref(), self.api_key_file.as_ref())
    }

    /// Where the API key of `backend-sync` comes from, if one is asked for.
    pub fn backend_api_key(&self) -> Option<SecretSource> {
        SecretSource::from_settings(self.backend_api_key.as_ref(), self.backend_api_key_file.as_ref())
    }

    /// Where the signing secrets come from, if signatures are asked for.
    pub fn signing_secrets(&self) -> Option<SecretList> {
        SecretList::from_settings(&self.signing_secrets, self.signing_secrets_file.as_ref())
    }
}

/// How a reference receiver treats what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiverMode {
    /// Honours versions and idempotency keys: an older state never overwrites a newer one.
    Guarded,
    /// Behaves like the seeds' samples: no version guard, unknown fields refused.
    Guardless,
}
