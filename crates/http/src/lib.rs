//! What every HTTP server here does alike: bound its connections, read a request with care, refuse by problem details
//! (RFC 9457), and describe its routes as OpenAPI 3.1 where it declares them.
//!
//! It knows no contract and no table: the ingress, the reference receivers and every role's telemetry build on it.

mod api;
mod body;
mod idempotency;
mod operation;
mod problem;
mod server;

pub use api::{ApiInfo, ApiRouter};
pub use body::{read_body, read_object, require_json, single};
pub use idempotency::{KEY_PATTERN, parse_key};
pub use operation::{Operation, schema_of};
pub use problem::{Problem, set_retry_after};
pub use server::{ConnectionLimits, serve};
