use std::collections::BTreeSet;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::adapter::Adapter;
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
        let hashed = Hashed {
            name: &self.name,
            url: self.endpoint().map(String::from),
            actions: &self.actions,
            coalesce: self.coalesce,
            origin: &self.origin,
            headers: self.headers.keys().map(String::as_str).collect(),
            content: Content::of(&self.adapter),
            guards_versions: self.guards_versions,
            dispositions: &self.dispositions,
        };
        let json = serde_json::to_vec(&hashed).expect("plain settings serialise");
        Sha256::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect()
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
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    guards_versions: bool,
    #[serde(skip_serializing_if = "Dispositions::is_empty")]
    dispositions: &'a Dispositions,
}

#[derive(Serialize)]
#[serde(tag = "adapter", rename_all = "kebab-case")]
enum Content<'a> {
    BackendSync { send_tenant_header: bool },
    CrmBatch { sync_source: &'a str, synced_by: &'a str, application_code: &'a str, send_versions: bool },
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
        }
    }
}
