use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Secret;
use crate::adapter::{Adapter, Webhook, WorkflowTrigger};
use crate::dispositions::Dispositions;
use crate::target::{Action, Target};

impl Target {
    /// Hex sha256 over what decides *which* requests are sent, where to and with what content: a worker whose
    /// hash differs from the registered one is not ready.
    ///
    /// So what an answer means belongs to it, and whether a lost request makes for another one. Secrets, limits,
    /// timeouts and pacing (`retry` and `breaker` among them) stay out, so that they change, and differ between
    /// workers, without `topology apply`.
    pub fn hash(&self) -> String {
        let json = serde_json::to_vec(&Hashed::of(self)).expect("plain settings serialise");
        Sha256::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The settings [`Target::hash`] is of, by name, for people: without the values of headers, and of the URL
    /// without password and query.
    pub fn registered_settings(&self) -> BTreeMap<String, String> {
        let Value::Object(mut hashed) = serde_json::to_value(Hashed::of(self)).unwrap_or_default() else {
            return BTreeMap::new();
        };
        hashed.remove("name");
        if let Some(Value::Object(content)) = hashed.remove("content") {
            hashed.extend(content);
        }
        if let Some(Value::String(url)) = hashed.get_mut("url") {
            *url = Secret::new(url.as_str()).redacted_url();
        }
        // Told at their defaults too.
        hashed.insert("guards_versions".to_owned(), self.guards_versions.into());
        hashed.entry("dispositions").or_insert_with(|| Value::Object(serde_json::Map::new()));
        let told = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        hashed.into_iter().map(|(name, value)| (name, told(value))).collect()
    }
}

#[derive(Serialize)]
struct Hashed<'a> {
    name: &'a str,
    url: Option<String>,
    actions: &'a BTreeSet<Action>,
    coalesce: bool,
    origin: &'a str,
    headers: Vec<&'a str>,
    content: Content<'a>,
    // Left out at their defaults: targets registered before these keys came keep their hash.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    tenants: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    guards_versions: bool,
    #[serde(skip_serializing_if = "Dispositions::is_empty")]
    dispositions: &'a Dispositions,
}

impl<'a> Hashed<'a> {
    fn of(target: &'a Target) -> Self {
        Self {
            name: &target.name,
            url: target.endpoint().map(String::from),
            actions: &target.actions,
            tenants: &target.tenants,
            coalesce: target.coalesce,
            origin: &target.origin,
            headers: target.headers.keys().map(String::as_str).collect(),
            content: Content::of(&target.adapter),
            guards_versions: target.guards_versions,
            dispositions: &target.dispositions,
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "adapter", rename_all = "kebab-case")]
enum Content<'a> {
    BackendSync { send_tenant_header: bool },
    CrmBatch { sync_source: &'a str, synced_by: &'a str, application_code: &'a str, send_versions: bool },
    Webhook(&'a Webhook),
    WorkflowTrigger(&'a WorkflowTrigger),
}

impl<'a> Content<'a> {
    fn of(adapter: &'a Adapter) -> Self {
        match adapter {
            Adapter::BackendSync(settings) => {
                Self::BackendSync { send_tenant_header: settings.send_tenant_header }
            }
            Adapter::CrmBatch(settings) => Self::CrmBatch {
                sync_source: &settings.sync_source,
                synced_by: &settings.synced_by,
                application_code: &settings.application_code,
                send_versions: settings.send_versions,
            },
            Adapter::Webhook(settings) => Self::Webhook(settings),
            Adapter::WorkflowTrigger(settings) => Self::WorkflowTrigger(settings),
        }
    }
}
