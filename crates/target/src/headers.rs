//! What every request bears beside its body (decision 16 of the design: key, version, signature).

use crate::disposition::Fault;
use crate::settings::{AdapterSettings, TargetError, TargetSettings};
use crate::signature::{SigningKey, sign};
use crate::webhook::message_id;
use crate::{Delivery, TenantInfo};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

const API_KEY: HeaderName = HeaderName::from_static("x-internal-api-key");
const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");
const SYNC_SOURCE: HeaderName = HeaderName::from_static("x-sync-source");
const TENANT: HeaderName = HeaderName::from_static("postbound-tenant");
const EVENT_ID: HeaderName = HeaderName::from_static("postbound-event-id");
const USER_VERSION: HeaderName = HeaderName::from_static("postbound-user-version");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The secrets of one attempt, as they are now.
#[derive(Default)]
pub(crate) struct Credentials {
    api_key: Option<Arc<str>>,
    bearer_token: Option<Arc<str>>,
    basic_password: Option<Arc<str>>,
    signing_secrets: Vec<Arc<str>>,
}

/// Why a request cannot be sent, with words for the operator.
pub(crate) type Unsendable = (Fault, String);

impl Credentials {
    pub(crate) fn current(settings: &TargetSettings) -> Result<Self, Unsendable> {
        let unavailable = |reason| (Fault::SecretUnavailable, reason);
        let present = |secret: &Arc<str>| !secret.is_empty();
        Ok(Self {
            api_key: settings.api_key.current().map_err(unavailable)?.filter(present),
            bearer_token: settings.bearer_token.current().map_err(unavailable)?.filter(present),
            basic_password: settings.basic_password.current().map_err(unavailable)?.filter(present),
            signing_secrets: settings.signing_secrets.current().map_err(unavailable)?,
        })
    }

    /// Every secret, to be masked wherever it may be echoed.
    pub(crate) fn exposed(&self) -> impl Iterator<Item = &str> {
        let single = [&self.api_key, &self.bearer_token, &self.basic_password];
        single.into_iter().flatten().chain(&self.signing_secrets).map(|secret| &**secret)
    }
}

/// The headers that are the same for every request.
pub(crate) fn fixed(settings: &TargetSettings) -> Result<HeaderMap, TargetError> {
    let refused =
        |header: &str| TargetError::Header { target: settings.name.clone(), header: header.to_owned() };
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let parsed = HeaderName::try_from(name.as_str()).map_err(|_| refused(name))?;
        headers.insert(parsed, sensitive(value).ok_or_else(|| refused(name))?);
    }
    let mut content_type = HeaderValue::from_static("application/json");
    if let AdapterSettings::Webhook { content_type: own, api_key_header, headers: templates, .. } =
        &settings.adapter
    {
        content_type = HeaderValue::try_from(own.as_str()).map_err(|_| refused("Content-Type"))?;
        for name in templates.iter().map(|(name, _)| name).chain([api_key_header]) {
            HeaderName::try_from(name.as_str()).map_err(|_| refused(name))?;
        }
    }
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, application/problem+json, */*;q=0.5"));
    if let AdapterSettings::CrmBatch { sync_source, .. } = &settings.adapter {
        let value = HeaderValue::try_from(sync_source.as_str()).map_err(|_| refused("X-Sync-Source"))?;
        headers.insert(SYNC_SOURCE, value);
    }
    Ok(headers)
}

/// A request about to be sent.
pub(crate) struct Attempt<'a> {
    pub(crate) adapter: &'a AdapterSettings,
    pub(crate) basic_user: Option<&'a str>,
    /// Values of the adapter's header templates, in their order.
    pub(crate) templated: &'a [String],
    pub(crate) tenant: &'a TenantInfo,
    /// The one user of the request, if it carries only one.
    pub(crate) single: Option<&'a Delivery>,
    /// The idempotency key, unquoted.
    pub(crate) key: &'a str,
    pub(crate) body: &'a [u8],
    /// Unix seconds.
    pub(crate) now: i64,
}

impl Attempt<'_> {
    /// The headers of this request, on top of the fixed ones.
    pub(crate) fn headers(
        &self,
        fixed: &HeaderMap,
        credentials: &Credentials,
    ) -> Result<HeaderMap, Unsendable> {
        let mut headers = fixed.clone();
        headers.insert(IDEMPOTENCY_KEY, text(&format!("\"{}\"", self.key))?);
        match self.adapter {
            AdapterSettings::BackendSync { send_tenant_header: true } => {
                headers.insert(TENANT, text(&self.tenant.id)?);
            }
            AdapterSettings::BackendSync { send_tenant_header: false } => {}
            AdapterSettings::CrmBatch { .. } => {
                headers.insert(TENANT_ID, text(&self.tenant.id)?);
            }
            AdapterSettings::Webhook { headers: templates, .. } => {
                headers.insert(TENANT, text(&self.tenant.id)?);
                for ((name, _), value) in templates.iter().zip(self.templated) {
                    headers.insert(header_name(name)?, text(value)?);
                }
            }
            AdapterSettings::WorkflowTrigger(_) => {
                headers.insert(TENANT, text(&self.tenant.id)?);
            }
        }
        if let Some(delivery) = self.single {
            headers.insert(EVENT_ID, text(delivery.event_id.as_hyphenated().encode_lower(&mut [0; 36]))?);
            headers.insert(USER_VERSION, HeaderValue::from(delivery.version));
            // Not worth failing a delivery for.
            if let Some(trace) = delivery.traceparent.as_deref().and_then(|trace| text(trace).ok()) {
                headers.insert(TRACEPARENT, trace);
            }
        }
        if let Some(key) = &credentials.api_key {
            let name = match self.adapter {
                AdapterSettings::Webhook { api_key_header, .. } => header_name(api_key_header)?,
                _ => API_KEY,
            };
            headers.insert(name, secret(key)?);
        }
        if let Some(token) = &credentials.bearer_token {
            headers.insert(AUTHORIZATION, secret(&format!("Bearer {token}"))?);
        }
        if let (Some(user), Some(password)) = (self.basic_user, &credentials.basic_password) {
            let pair = STANDARD.encode(format!("{user}:{password}"));
            headers.insert(AUTHORIZATION, secret(&format!("Basic {pair}"))?);
        }
        self.add_signature(&mut headers, &credentials.signing_secrets)?;
        Ok(headers)
    }

    fn add_signature(&self, headers: &mut HeaderMap, secrets: &[Arc<str>]) -> Result<(), Unsendable> {
        if secrets.is_empty() {
            return Ok(());
        }
        let keys: Vec<SigningKey> = secrets
            .iter()
            .map(|secret| SigningKey::parse(secret))
            .collect::<Result<_, _>>()
            .map_err(|error| (Fault::SecretUnavailable, error.to_string()))?;
        let id = match self.single {
            Some(delivery) => message_id(delivery),
            None => self.key.to_owned(),
        };
        headers.insert(WEBHOOK_ID, text(&id)?);
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(self.now));
        headers.insert(WEBHOOK_SIGNATURE, secret(&sign(&keys, &id, self.now, self.body))?);
        Ok(())
    }
}

/// A name that was checked when the target was made.
fn header_name(name: &str) -> Result<HeaderName, Unsendable> {
    HeaderName::try_from(name).map_err(|_| (Fault::RequestInvalid, format!("{name:?} is no header's name")))
}

/// A header of our own making or of the states'. Text beyond ASCII goes out as UTF-8 bytes.
fn text(value: &str) -> Result<HeaderValue, Unsendable> {
    HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| (Fault::RequestInvalid, "an id holds characters a header cannot carry".to_owned()))
}

fn secret(value: &str) -> Result<HeaderValue, Unsendable> {
    let reason = || (Fault::SecretUnavailable, "a secret holds characters a header cannot carry".to_owned());
    sensitive(value).ok_or_else(reason)
}

/// A value that HTTP/2 never indexes and `Debug` never shows.
fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
