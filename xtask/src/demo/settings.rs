//! The demo's `postbound.toml`.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

use super::flows::TENANT;

/// Signs what the demo's backend tells; a secret of nobody's.
const SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What the configuration is made of.
pub(crate) struct Settings<'a> {
    pub(crate) database_url: &'a str,
    pub(crate) broker_url: &'a str,
    pub(crate) api_key: &'a str,
}

impl Settings<'_> {
    /// Writes the configuration: first what the ingress needs, then, with its address, the receivers, then, with theirs,
    /// everybody else.
    pub(crate) fn write(
        &self,
        path: &Path,
        ingress: Option<SocketAddr>,
        targets: Option<[SocketAddr; 2]>,
    ) -> Result<()> {
        let Self { database_url, broker_url, api_key } = self;
        let mut text = format!(
            "# The configuration of a demo, gone when it ends.\n\n\
             [database]\nurl = \"{database_url}\"\n\n\
             [broker]\nurl = \"{broker_url}\"\n\n\
             [worker]\ndrain_deadline = \"10s\"\n\n\
             [telemetry]\nlisten = \"127.0.0.1:0\"\n\n\
             [ingress]\nlisten = \"127.0.0.1:0\"\ndirectory.tenant = \"{TENANT}\"\n\n\
             [ingress.tokens.demo]\ntoken = \"{api_key}\"\nscopes = [\"directory\", \"status\"]\n\n\
             [ingress.sources.backend]\nkind = \"backend-sync\"\nsigning_secrets = [\"{SIGNING_SECRET}\"]\n\
             link_target = \"workflow\"\nlink_system = \"frontendUserId\"\n\n\
             [receiver]\nlisten = \"127.0.0.1:0\"\napi_key = \"{api_key}\"\nbackend_api_key = \"{api_key}\"\n\
             faults = true\n"
        );
        if let Some(ingress) = ingress {
            let notify = format!(
                "notify_url = \"http://{ingress}/api/webhooks/backend-sync\"\nnotify_secret = \"{SIGNING_SECRET}\"\n"
            );
            text.push_str(&notify);
        }
        if let Some([backend, crm]) = targets {
            let targets = format!(
                "\n[targets.backend]\nadapter = \"backend-sync\"\n\
                 url = \"http://{backend}/internal/users/sync\"\napi_key = \"{api_key}\"\n\n\
                 [targets.crm]\nadapter = \"crm-batch\"\nurl = \"http://{crm}\"\napi_key = \"{api_key}\"\n\n\
                 [targets.workflow]\nadapter = \"workflow-trigger\"\nurl = \"http://{backend}\"\n\
                 api_key = \"{api_key}\"\ntenants = [\"{TENANT}\"]\n"
            );
            text.push_str(&targets);
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
