//! The demo's `postbound.toml`.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

/// What the configuration is made of.
pub(crate) struct Settings<'a> {
    pub(crate) database_url: &'a str,
    pub(crate) broker_url: &'a str,
    pub(crate) api_key: &'a str,
}

impl Settings<'_> {
    /// Writes the configuration: without targets for the receivers, whose addresses those need; with them for all else.
    pub(crate) fn write(&self, path: &Path, targets: Option<[SocketAddr; 2]>) -> Result<()> {
        let Self { database_url, broker_url, api_key } = self;
        let mut text = format!(
            "# The configuration of a demo, gone when it ends.\n\n\
             [database]\nurl = \"{database_url}\"\n\n\
             [broker]\nurl = \"{broker_url}\"\n\n\
             [worker]\ndrain_deadline = \"10s\"\n\n\
             [telemetry]\nlisten = \"127.0.0.1:0\"\n\n\
             [receiver]\nlisten = \"127.0.0.1:0\"\napi_key = \"{api_key}\"\n"
        );
        if let Some([backend, crm]) = targets {
            let targets = format!(
                "\n[targets.backend]\nadapter = \"backend-sync\"\n\
                 url = \"http://{backend}/internal/users/sync\"\napi_key = \"{api_key}\"\n\n\
                 [targets.crm]\nadapter = \"crm-batch\"\nurl = \"http://{crm}\"\napi_key = \"{api_key}\"\n"
            );
            text.push_str(&targets);
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
