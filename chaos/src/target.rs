//! The targets of a run.

use serde::Serialize;

/// How careful the receivers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Guards {
    /// They check versions and idempotency keys.
    Versions,
    /// They behave like the documents' samples: the last writer wins.
    Nothing,
}

/// A target and the receiver behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Its name, also that of the receiver's schema.
    pub(crate) name: &'static str,
    /// The adapter in the configuration, and the contract the receiver is to serve.
    pub(crate) adapter: &'static str,
    /// What comes after the address in its URL.
    pub(crate) path: &'static str,
    /// Whether a newer state may take the place of one still waiting; else it gets every event.
    pub(crate) coalesces: bool,
}

/// All targets: one user per request; many users per request; every event in order.
pub(crate) const TARGETS: [Target; 3] = [
    Target { name: "backend", adapter: "backend-sync", path: BACKEND_PATH, coalesces: true },
    Target { name: "crm", adapter: "crm-batch", path: "", coalesces: true },
    Target { name: "events", adapter: "backend-sync", path: BACKEND_PATH, coalesces: false },
];

const BACKEND_PATH: &str = "/internal/users/sync";

impl Target {
    /// Whether a request may bear several users.
    pub(crate) fn is_batched(&self) -> bool {
        self.adapter == "crm-batch"
    }

    /// The name of the receiver's process.
    pub(crate) fn receiver(&self) -> String {
        format!("receiver-{}", self.name)
    }
}
