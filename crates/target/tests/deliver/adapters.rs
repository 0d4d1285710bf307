//! The adapters as the conformance suite knows them. A new adapter adds its description to [`ADAPTERS`], and every promise
//! of `conformance` is asked of it.

use crate::server::{answer, late};
use crate::states::{backend, crm, settings, signed, template, updated, webhook, workflow};
use axum::response::Response;
use postbound_target::{AdapterSettings, Delivery, TargetSettings};
use serde_json::{Value, json};

/// One adapter, its contract as far as the shared promises touch it.
pub(crate) struct Adapter {
    pub(crate) name: &'static str,
    /// Its settings, as a target would have them.
    pub(crate) own: fn() -> AdapterSettings,
    /// Users one request carries at most.
    pub(crate) users_max: usize,
    /// What makes a 2xx a success.
    pub(crate) success: Success,
    /// The header of the API key.
    pub(crate) api_key: &'static str,
    /// `Content-Type` of its requests.
    pub(crate) content_type: &'static str,
    /// Whether a resend tells in its body that it is none of the event before, too.
    pub(crate) resends_in_body: bool,
    /// The body of a 200 that takes every user of this request.
    pub(crate) good: fn(&str) -> String,
    /// An answer that fails this user, and says so with these words.
    pub(crate) refusal: fn(&str, &str) -> Reply,
    /// An answer that a newer version of this user is held, which it may tell.
    pub(crate) stale: fn(&str, Option<i64>) -> Reply,
}

/// What makes a 2xx a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Success {
    /// The status: whatever the body holds.
    Status,
    /// The status too; ids are taken from the body as far as it comes.
    StatusWithIds,
    /// The results in the body, which must therefore be whole.
    Results,
}

/// Status and JSON body of an answer.
pub(crate) struct Reply(u16, String);

pub(crate) static ADAPTERS: &[Adapter] = &[BACKEND_SYNC, CRM_BATCH, WEBHOOK, TEMPLATE, WORKFLOW_TRIGGER];

/// Seed 002.
const BACKEND_SYNC: Adapter = Adapter {
    name: "backend-sync",
    own: backend,
    users_max: 1,
    success: Success::Status,
    api_key: "x-internal-api-key",
    content_type: "application/json",
    resends_in_body: false,
    good: |_| String::new(),
    refusal: |_, words| Reply(422, json!({ "success": false, "error": words }).to_string()),
    stale: |_, held| {
        let problem = match held {
            Some(held) => json!({ "type": "/problems/stale-version", "heldVersion": held }),
            None => json!({ "type": "/problems/stale-version" }),
        };
        Reply(409, problem.to_string())
    },
};

/// Any endpoint, as a CloudEvent.
const WEBHOOK: Adapter = Adapter {
    name: "webhook",
    own: webhook,
    api_key: "x-api-key",
    content_type: "application/cloudevents+json",
    resends_in_body: true,
    ..BACKEND_SYNC
};

/// Any endpoint, by a template, with an id in its answer.
const TEMPLATE: Adapter = Adapter {
    name: "webhook by template",
    own: template,
    success: Success::StatusWithIds,
    api_key: "x-api-key",
    ..BACKEND_SYNC
};

/// Seeds 000 and 001.
const WORKFLOW_TRIGGER: Adapter =
    Adapter { name: "workflow-trigger", own: workflow, success: Success::StatusWithIds, ..BACKEND_SYNC };

/// Seed 003.
const CRM_BATCH: Adapter = Adapter {
    name: "crm-batch",
    own: crm,
    users_max: 100,
    success: Success::Results,
    api_key: "x-internal-api-key",
    content_type: "application/json",
    resends_in_body: false,
    good: |request| {
        let request: Value = serde_json::from_str(request).unwrap();
        let result = |user: &Value| json!({ "userId": user["id"], "status": "updated" });
        let results: Vec<Value> = request["users"].as_array().unwrap().iter().map(result).collect();
        json!({ "success": true, "results": results }).to_string()
    },
    refusal: |user, words| {
        let result = json!({ "userId": user, "status": "failed", "error": words, "retryable": false });
        Reply(200, json!({ "results": [result] }).to_string())
    },
    stale: |user, held| {
        let mut result = json!({ "userId": user, "status": "failed", "code": "stale_version" });
        if let Some(held) = held {
            result["heldVersion"] = held.into();
        }
        Reply(200, json!({ "results": [result] }).to_string())
    },
};

impl Adapter {
    /// Settings without credentials.
    pub(crate) fn settings(&self, url: &str) -> TargetSettings {
        settings(url, (self.own)())
    }

    /// Settings with every kind of credential.
    pub(crate) fn signed(&self, url: &str) -> TargetSettings {
        signed(url, (self.own)())
    }

    /// What one request can carry: a user, and several if the adapter takes several.
    pub(crate) fn crowds(&self) -> impl Iterator<Item = Vec<Delivery>> {
        let alone = vec![updated("a", 7)];
        let several = || vec![updated("a", 7), updated("b", 8)];
        [Some(alone), (self.users_max > 1).then(several)].into_iter().flatten()
    }
}

impl Reply {
    pub(crate) fn response(&self) -> Response {
        answer(self.0, &[("content-type", "application/json")], self.1.clone())
    }

    /// The same, with a body that keeps the client waiting.
    pub(crate) fn late_response(&self) -> Response {
        late(self.0, self.1.clone())
    }
}
