//! The configuration of each process: like any operator's, but with times so short that minutes hold many faults.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use crate::target::{Guards, TARGETS, Target};

/// How long after a crash another relay may take over.
pub(crate) const RELAY_LEASE: Duration = Duration::from_secs(2);
/// How long after a crash other workers may take over; by more than 2 s longer than a request may take.
pub(crate) const WORKER_LEASE: Duration = Duration::from_secs(5);
/// How long a request may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after a success that overtook a request of unknown outcome the newest state is sent once more.
pub(crate) const DOUBT_AFTER: Duration = Duration::from_secs(15);

/// What all processes have in common.
pub(crate) struct Settings {
    /// Where the links to the receivers are, in the order of [`TARGETS`].
    pub(crate) targets: Vec<SocketAddr>,
    /// What the receivers ask for.
    pub(crate) api_key: String,
    /// How careful they are.
    pub(crate) guards: Guards,
    /// Partitions per target.
    pub(crate) partitions: u16,
}

impl Settings {
    /// The `postbound.toml` of one process of Postbound.
    pub(crate) fn of_process(&self, name: &str, database_url: &str, broker_url: &str) -> String {
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        let (relay_lease, worker_lease) = (ms(RELAY_LEASE), ms(WORKER_LEASE));
        let partitions = self.partitions;
        let mut text = format!(
            "[database]\nurl = \"{database_url}\"\npool_max = 8\nconnect_timeout = \"3s\"\n\n\
             [broker]\nurl = \"{broker_url}\"\nheartbeat = \"4s\"\nconnect_timeout = \"3s\"\n\n\
             [relay]\nlease = \"{relay_lease}\"\nconfirm_timeout = \"4s\"\nmessage_events_max = 25\njob_lost_after = \"10s\"\n\n\
             [worker]\nlease = \"{worker_lease}\"\nheartbeat = \"1s\"\ndrain_deadline = \"5s\"\n\n\
             [topology]\npartitions = {partitions}\nqueue_messages_max = 500\n\n\
             [telemetry]\nlisten = \"127.0.0.1:0\"\nlog = \"info\"\n"
        );
        for (target, address) in TARGETS.iter().zip(&self.targets) {
            text.push_str(&self.of_target(target, *address, name));
        }
        text
    }

    fn of_target(&self, target: &Target, address: SocketAddr, process: &str) -> String {
        let Target { name, adapter, path, coalesces, .. } = target;
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        let (timeout, doubt_after) = (ms(REQUEST_TIMEOUT), ms(DOUBT_AFTER));
        let (api_key, guards) = (&self.api_key, self.guards == Guards::Versions);
        let mut text = format!(
            "\n[targets.{name}]\nadapter = \"{adapter}\"\nurl = \"http://{address}{path}\"\napi_key = \"{api_key}\"\n\
             headers = {{ \"{header}\" = \"{process}\" }}\ncoalesce = {coalesces}\nconcurrency = 16\nprefetch_messages = 4\ntimeout = \"{timeout}\"\n\
             connect_timeout = \"1s\"\ndoubt_after = \"{doubt_after}\"\nguards_versions = {guards}\n\
             retry.attempts = 2\nretry.delays = [\"300ms\"]\nretry.schedule = [\"1s\", \"2s\", \"3s\"]\n\
             breaker.window = \"5s\"\nbreaker.pause_min = \"500ms\"\nbreaker.pause_max = \"3s\"\n\
             breaker.fold_after = \"4s\"\n",
            header = crate::wire::WORKER_HEADER,
        );
        if target.is_batched() && !guards {
            // The documents' sample refuses fields it does not know.
            text.push_str("send_versions = false\n");
        }
        text
    }

    /// The configuration of a receiver.
    pub(crate) fn of_receiver(&self, target: &Target, database_url: &str) -> String {
        let mut text = format!(
            "[telemetry]\nlisten = \"\"\nlog = \"info\"\n\n[receiver]\ndatabase_url = \"{database_url}\"\n\
             listen = \"127.0.0.1:0\"\nschema = \"{}\"\nfaults = true\n",
            target.name
        );
        let _ = writeln!(text, "api_key = \"{}\"", self.api_key);
        let mode = match self.guards {
            Guards::Versions => "guarded",
            Guards::Nothing => "guardless",
        };
        let _ = writeln!(text, "mode = \"{mode}\"");
        text
    }
}
