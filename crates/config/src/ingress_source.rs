use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::target::RateLimit;
use crate::validate::Check;
use crate::{Secret, SecretList, units};

/// `[ingress.sources.<name>]`: one system whose webhooks are taken in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IngressSource {
    /// The key of the section.
    #[serde(skip_deserializing, default)]
    pub name: String,
    /// What its bodies look like. Required.
    pub kind: InboundKind,
    /// The path it posts to. Default: that of the kind, `/api/webhooks/clerk` or `/api/webhooks/backend-sync`.
    #[serde(default)]
    pub path: Option<String>,
    /// How its requests are verified. Default `standard-webhooks`.
    #[serde(default)]
    pub verification: Verification,
    /// Any of them may have signed: `whsec_...` for `standard-webhooks`, any text of 16 characters or more for
    /// `header-hmac`. This or `signing_secrets_file` is required.
    #[serde(with = "units::list", default)]
    pub signing_secrets: Vec<Secret>,
    /// The same, kept in a file, one a line.
    #[serde(default)]
    pub signing_secrets_file: Option<PathBuf>,
    /// `header-hmac`: the header with the HMAC-SHA256 of the raw body. Default `X-Webhook-Signature`.
    #[serde(default = "default_signature_header")]
    pub signature_header: String,
    /// `header-hmac`: how it is written. Default `hex`.
    #[serde(default)]
    pub signature_encoding: SignatureEncoding,
    /// `header-hmac`: what stands before it, such as `sha256=`. Default: nothing.
    #[serde(default)]
    pub signature_prefix: String,
    /// `header-hmac`: the header with the message's id, by which a repeated one is told. It is not signed. Default: none;
    /// then the same body within five minutes is the same message.
    #[serde(default)]
    pub id_header: Option<String>,
    /// The tenant of all its users. Default: `default`, unless there is a `tenant_pointer`.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Where the body names the tenant: a JSON pointer (RFC 6901) such as `/data/organizationId`. A delete that names none is
    /// of the tenant that has the user. Default: none.
    #[serde(default)]
    pub tenant_pointer: Option<String>,
    /// Origin of its changes. A target registered with this origin does not get them back. Default: the source's name.
    #[serde(default)]
    pub origin: Option<String>,
    /// `backend-sync`: the target whose external ids (identity links) the bodies name. Default: none; then the bodies name
    /// our own ids.
    #[serde(default)]
    pub link_target: Option<String>,
    /// With `link_target`: which of the target's ids, such as `frontendUserId`. Default: any.
    #[serde(default)]
    pub link_system: Option<String>,
    /// Requests taken in a span of time, then 429 with `Retry-After`. Default: no limit.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
}

/// The bodies a source sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InboundKind {
    /// Clerk's `user.created`, `user.updated`, `user.deleted` (seed 004).
    Clerk,
    /// `{event: "user.updated" | "user.deleted", data: {frontendUserId, reason?, ...}}` (seed 000).
    BackendSync,
}

/// How a request proves where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verification {
    /// Standard Webhooks, under `webhook-*` names; under `svix-*` names for `clerk`.
    #[default]
    StandardWebhooks,
    /// HMAC-SHA256 of the raw body in a header of its own.
    HeaderHmac,
}

/// How a signature is written in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureEncoding {
    /// 64 hexadecimal digits.
    #[default]
    Hex,
    /// 44 characters of standard base64.
    Base64,
}

impl IngressSource {
    /// The path it posts to.
    pub fn path(&self) -> &str {
        match (&self.path, self.kind) {
            (Some(path), _) => path,
            (None, InboundKind::Clerk) => "/api/webhooks/clerk",
            (None, InboundKind::BackendSync) => "/api/webhooks/backend-sync",
        }
    }

    /// Origin of its changes.
    pub fn origin(&self) -> &str {
        self.origin.as_deref().unwrap_or(&self.name)
    }

    /// Where the secrets come from that verify it.
    pub fn signing_secrets(&self) -> Option<SecretList> {
        SecretList::from_settings(&self.signing_secrets, self.signing_secrets_file.as_ref())
    }
}

fn default_signature_header() -> String {
    "X-Webhook-Signature".to_owned()
}

impl Check<'_> {
    pub(crate) fn ingress_source(&mut self, source: &IngressSource) {
        let key = |name: &str| format!("ingress.sources.{}.{name}", source.name);
        let path = source.path();
        let plain = path.starts_with('/')
            && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
        self.require(plain, &key("path"), "must begin with `/` and hold letters, digits and `/-_.~` only");
        let ours = ["/v1/", "/api/users", "/api/sessions", "/openapi.json"];
        let free = !ours.iter().any(|prefix| path.starts_with(prefix));
        self.require(free, &key("path"), "is the ingress' own; take one under /api/webhooks/");
        let inline = !source.signing_secrets.is_empty();
        self.one_source(inline, &source.signing_secrets_file, &key("signing_secrets"));
        self.require(
            inline || source.signing_secrets_file.is_some(),
            &key("signing_secrets"),
            "is required, or `signing_secrets_file`: an unsigned webhook is refused",
        );
        match source.verification {
            Verification::StandardWebhooks => {
                self.signing_secrets(&source.signing_secrets, &key("signing_secrets"));
            }
            Verification::HeaderHmac => {
                let long = source.signing_secrets.iter().all(|secret| secret.expose().len() >= 16);
                self.require(long, &key("signing_secrets"), "each must have 16 characters or more");
            }
        }
        let named = |header: &str| {
            !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        self.require(named(&source.signature_header), &key("signature_header"), "is no header's name");
        let id_header = source.id_header.as_deref().is_none_or(named);
        self.require(id_header, &key("id_header"), "is no header's name");
        let both = source.tenant.is_some() && source.tenant_pointer.is_some();
        self.require(!both, &key("tenant_pointer"), "give either this or `tenant`");
        let pointer = source.tenant_pointer.as_deref().is_none_or(|pointer| pointer.starts_with('/'));
        self.require(pointer, &key("tenant_pointer"), "must be a JSON pointer, such as /data/organizationId");
        let lone_system = source.link_system.is_some() && source.link_target.is_none();
        self.require(!lone_system, &key("link_system"), "needs `link_target`");
        if let Some(limit) = &source.rate_limit {
            self.rate_limit(limit, &key("rate_limit"));
        }
    }
}
