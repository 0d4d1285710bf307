use crate::TestDatabase;
use postbound_receiver::Mode;
use std::{fmt::Write as _, net::SocketAddr};

/// The key both receivers ask for.
pub const API_KEY: &str = "key-of-the-tests-4f1d";

/// How an installation is set up; what is not said here is the product's default, but for times that are short.
#[derive(Debug, Clone)]
pub struct Options {
    /// Partitions per target.
    pub partitions: u16,
    /// Whether targets get the newest state instead of every event.
    pub coalesce: bool,
    /// How careful the receivers are.
    pub mode: Mode,
    /// More settings, by dotted key; they win.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    /// Guarded receivers and folding targets.
    fn default() -> Self {
        Self { partitions: 4, coalesce: true, mode: Mode::Guarded, settings: Vec::new() }
    }
}

impl Options {
    /// Every event is delivered.
    #[must_use]
    pub fn every_event() -> Self {
        Self { coalesce: false, ..Self::default() }
    }

    /// Receivers as the documents' samples have them, without version guard and strict about unknown fields.
    #[must_use]
    pub fn guardless(self) -> Self {
        Self { mode: Mode::Guardless, ..self }.with("targets.crm.send_versions", "false")
    }

    /// One more setting: a dotted key and its value.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// So many partitions per target.
    #[must_use]
    pub fn partitions(self, partitions: u16) -> Self {
        Self { partitions, ..self }
    }

    /// `postbound.toml`. What differs between processes (the login role) comes from their environment.
    pub(crate) fn toml(&self, database: &TestDatabase, broker_url: &str, targets: [SocketAddr; 2]) -> String {
        let Self { partitions, coalesce, .. } = self;
        let [backend, crm] = targets;
        let mut toml = String::new();
        let _ = write!(
            toml,
            r#"[database]
url = "{database_url}"
pool_max = 6

[broker]
url = "{broker_url}"

[relay]
lease = "2s"

[worker]
heartbeat = "500ms"
drain_deadline = "20s"

[topology]
partitions = {partitions}

[telemetry]
listen = "127.0.0.1:0"
log_format = "json"

[targets.backend]
adapter = "backend-sync"
url = "http://{backend}/internal/users/sync"
api_key = "{API_KEY}"
coalesce = {coalesce}

[targets.crm]
adapter = "crm-batch"
url = "http://{crm}"
api_key = "{API_KEY}"
coalesce = {coalesce}
"#,
            database_url = database.viewer_url(),
        );
        toml
    }
}

/// The variables that override settings.
pub(crate) fn variables(settings: &[(String, String)]) -> impl Iterator<Item = (String, &str)> {
    settings.iter().map(|(key, value)| {
        let levels: Vec<_> = key.split('.').map(|level| level.replace('-', "_").to_uppercase()).collect();
        (format!("POSTBOUND_{}", levels.join("__")), value.as_str())
    })
}
