//! The configuration of every role: one file, `postbound.toml`, and the environment over it.
//!
//! [`Config::load`] reads the file, lets `POSTBOUND_*` variables override it, fills in `${VAR}`, checks every
//! value and reports *all* that is wrong at once, each with file, line, key and a way to mend it. The command
//! line feeds it; every role takes its own section from it.
//!
//! This crate knows no database, no broker and no HTTP, and reads no global state: the environment is passed
//! in, so that tests run side by side. The only files it opens are the configuration itself and the files
//! secrets are kept in ([`SecretSource`]).
//!
//! # The way of one value
//!
//! ```text
//! text ──parse──> tree (each node knows its line) ──override──> POSTBOUND_TARGETS__CRM__TIMEOUT=5s
//!      ──interpolate──> ${VAR} ──decode──> one struct per section ──validate──> Config | ConfigErrors
//! ```

mod adapter;
mod breaker;
mod broker;
mod config;
mod database;
mod decode;
mod decode_target;
mod dispositions;
mod environment;
mod errors;
mod ingress;
mod ingress_directory;
mod ingress_source;
mod ingress_status;
mod ingress_token;
mod interpolate;
mod receiver;
mod relay;
mod retry;
mod secret;
mod secret_file;
mod target;
mod target_hash;
mod telemetry;
mod topology;
mod tree;
mod units;
mod validate;
mod validate_target;
mod worker;

pub use adapter::{Adapter, AdapterKind, BackendSync, CrmBatch, NoticeKind, Webhook, WorkflowTrigger};
pub use breaker::Breaker;
pub use broker::Broker;
pub use config::{Config, DEFAULT_FILE};
pub use database::Database;
pub use dispositions::{Answer, Disposition, Dispositions};
pub use environment::process_environment;
pub use errors::{ConfigError, ConfigErrors};
pub use ingress::{Ingress, IngressEvents};
pub use ingress_directory::IngressDirectory;
pub use ingress_source::{InboundKind, IngressSource, SignatureEncoding, Verification};
pub use ingress_status::IngressStatus;
pub use ingress_token::{IngressScope, IngressToken};
pub use receiver::{Receiver, ReceiverMode};
pub use relay::Relay;
pub use retry::Retry;
pub use secret::Secret;
pub use secret_file::{SecretError, SecretList, SecretSource};
pub use target::{Action, RateLimit, Target};
pub use telemetry::{LogFormat, Telemetry};
pub use topology::Topology;
pub use worker::Worker;
