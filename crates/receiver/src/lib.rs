//! The reference receivers: the backend (contract S2, `POST /internal/users/sync`, and the registration workflow of
//! contract S0, `POST /workflows/trigger`) and the CRM (contract S3, `POST /api/internal/sync/users`), built as the teams
//! that own those systems would build them.
//!
//! They serve two readers. Other teams take them as a model of a receiver that makes at-least-once delivery
//! effectively once: [`Mode::Guarded`] checks the key and the signature, remembers answers by `Idempotency-Key`, and
//! never lets an older version of a user overwrite a newer one. Tests take them as the oracle: every user of every
//! authenticated request leaves a row in `request_log`, written in the transaction of the change.
//! [`Mode::Guardless`] behaves like the sample code of the two documents instead, to show what that costs.
//!
//! The way of a request: `server` (rate limit, key, body, signature) → `faults` (only where enabled) → `backend`,
//! `workflow` or `crm` (what the contract demands of the body), or their guard-less twins in `samples` → `storage`, one call of one
//! function in Postgres, which holds the guard itself (`migrations/`).
//!
//! Of Postbound's crates it knows `postbound-http` alone, which any team could have written: it stands for a foreign
//! one and reads the wire only. The guarded receivers tell what they take at `GET /openapi.json`.

mod auth;
mod backend;
mod config;
mod connection;
mod crm;
mod describe;
mod faults;
mod intake;
mod mail;
mod notify;
mod problem;
mod ratelimit;
mod samples;
mod server;
mod shape;
mod signature;
mod storage;
mod workflow;

pub use config::{Contract, Mode, RateLimit, ReceiverConfig, ReceiverError, Smtp};
pub use faults::{Fault, FaultAnswer};
pub use notify::NotifyConfig;
pub use server::{Receiver, router, serve};
pub use storage::{migrate, prune_idempotency_keys};
