//! The way in over HTTP: webhooks of other systems and `POST /v1/events`, beside what front ends ask for.
//!
//! `postbound ingress` runs it. Whatever comes in is verified over its raw bytes, then written in one transaction:
//! what was seen (to tell a repetition), the directory's row, and the change in the outbox, by
//! [`postbound_client::emit`]. A request is answered 2xx only after that commit, so a sender that repeats what was not
//! answered loses nothing. From the outbox on everything is the relay's and the workers' affair: this crate knows no
//! RabbitMQ and sends nothing to targets.
//!
//! Each part is a module with a `router` whose operations its `describe` tells, merged in `server`; they share
//! [`Ingress`], bearer tokens (`auth`) and refusals (`problem`). `GET /openapi.json` is made of what the routes declare.

mod auth;
mod directory;
mod events;
mod openapi;
mod problem;
mod rate_limit;
mod server;
mod state;
mod status;
mod upkeep;
mod webhooks;

pub use postbound_config::Ingress as IngressSettings;
pub use server::{router, serve};
pub use state::{Ingress, IngressError};
