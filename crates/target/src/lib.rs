//! One delivery attempt: user states in, a request to the target, one outcome per state out.
//!
//! Fed by `worker`, which decides what is sent when and in which order, and which settles the outcomes. An adapter
//! turns states into a request ([`AdapterSettings`] names them) and an answer into outcomes; headers, keys, signatures,
//! limits and dispositions are shared by all of them. This crate knows neither Postgres nor RabbitMQ, keeps no state
//! about users, never retries and never waits. A request's bytes are a pure function of the states and the tenant, so
//! a retry repeats them; the clock only enters `webhook-timestamp` and a `Retry-After` given as a date.
//!
//! The way of one attempt: `target` asks the adapter (`backend_sync`, `crm_batch`, `webhook` with `template`, `workflow`)
//! for the body, `idempotency` and `headers` wrap it, `client` sends it where `address` lets it, `disposition` says what
//! the answer means, unless `overrides` says otherwise for this target, `crm_answer` reads per-user results, `workflow`
//! and `external_id` read ids, and `redaction` makes of the target's own words what may be logged.

mod address;
mod backend_sync;
mod canonical_user;
mod client;
mod crm_answer;
mod crm_batch;
mod delivery;
mod disposition;
mod external_id;
mod headers;
mod idempotency;
mod notice;
mod outcome;
mod overrides;
mod problem;
#[cfg(test)]
mod properties;
mod redaction;
mod retry_after;
mod settings;
pub mod signature;
mod target;
mod template;
mod webhook;
mod workflow;

pub use address::AddressPolicy;
pub use delivery::{Delivery, TenantInfo};
pub use notice::Notice;
pub use outcome::{ExternalLink, Failure, FailureClass, Outcome};
pub use overrides::Override;
pub use settings::{
    AdapterSettings, Clock, SecretFn, SecretsFn, TargetError, TargetSettings, TlsFiles, WebhookBody,
    WorkflowSettings,
};
pub use target::Target;
pub use template::{BodyTemplate, TemplateError, TextTemplate};
