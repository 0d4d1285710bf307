//! Deliveries over real HTTP, to a server that answers as told.

mod adapters;
mod backend_sync;
mod conformance;
mod crm_answer;
mod crm_batch;
mod redaction;
mod server;
mod signature;
mod states;
mod webhook;
mod workflow;
