//! What every role tells about itself: logs, metrics, and whether it makes progress.
//!
//! The roles feed it: [`names`] are the metrics they record, a [`Component`] is what each of their loops
//! reports to. Operators, Prometheus and orchestrators read it: lines on stderr, and `/metrics`, `/healthz`,
//! `/readyz` and `/openapi.json` from [`serve`].
//!
//! It knows nothing of relays, workers or targets: names and labels are all it has of them.

mod health;
mod logging;
mod metrics;
pub mod names;
mod server;

pub use health::{Component, ComponentReport, Health, HealthReport, State};
pub use logging::{LogFormat, LoggingError, init_logging};
pub use metrics::{Metrics, MetricsError};
pub use server::{router, serve};
