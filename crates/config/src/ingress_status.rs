use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;
use crate::validate::Check;

/// `[ingress.status]`: sync status and identity links (`/v1/users`, `/v1/links`), for tokens with the scope `status`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngressStatus {
    /// Origins whose pages may ask from a browser (CORS), such as `https://app.example.com`; `*`: all. Default: none.
    #[serde(with = "units::list")]
    pub cors_origins: Vec<String>,
    /// A user is tried again by request only so long after the last failure; earlier ones are answered 429. Default 5 s.
    #[serde(with = "units::duration")]
    pub retry_pause: Duration,
}

impl Default for IngressStatus {
    fn default() -> Self {
        Self { cors_origins: Vec::new(), retry_pause: Duration::from_secs(5) }
    }
}

impl Check<'_> {
    pub(crate) fn ingress_status(&mut self, status: &IngressStatus) {
        let is_origin = |origin: &String| {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            origin == "*"
                || rest.is_some_and(|host| {
                    !host.is_empty()
                        && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@".contains(&byte))
                })
        };
        self.require(
            status.cors_origins.iter().all(is_origin),
            "ingress.status.cors_origins",
            "each must be an origin such as https://app.example.com, without a path, or *",
        );
    }
}
