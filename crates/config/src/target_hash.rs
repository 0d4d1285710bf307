use std::collections::BTreeSet;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::adapter::Adapter;
use crate::target::{Action, Target};

impl Target {
    /// Hex sha256 over what decides *which* requests are sent, where to and with what content: a worker whose
    /// hash differs from the registered one is not ready.
    ///
    /// Secrets, limits, timeouts and pacing stay out, so that they change, and differ between workers, without
    /// `topology apply`.
    pub fn hash(&self) -> String {
        let hashed = Hashed {
            name: &self.name,
            url: self.endpoint().map(String::from),
            actions: &self.actions,
            coalesce: self.coalesce,
            origin: &self.origin,
            headers: self.headers.keys().map(String::as_str).collect(),
            content: Content::of(&self.adapter),
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
