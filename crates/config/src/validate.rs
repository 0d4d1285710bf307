//! What the single value cannot show: ranges, forms and what must fit together.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::errors::{ConfigError, Errors, Place};
use crate::tree::Node;
use crate::{Config, RateLimit, Receiver, Secret, Target, Worker};

/// Messages the broker takes at most (RabbitMQ 4.x).
const BROKER_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Length of a Standard Webhooks key.
const SIGNING_KEY_BYTES: RangeInclusive<usize> = 24..=64;

/// The two URLs every role needs; a receiver with a database of its own and nothing else can do without.
pub(crate) fn require_urls(root: &Node, errors: &mut Errors) {
    let lone_receiver = root.at(["receiver", "database_url"]).is_some()
        && ["database", "broker", "targets"].iter().all(|section| root.at([*section]).is_none());
    if lone_receiver {
        return;
    }
    for (section, example) in
        [("database", "postgres://user:password@host/db"), ("broker", "amqp://user:password@host/vhost")]
    {
        let key = format!("{section}.url");
        if root.at([section, "url"]).is_none() && !errors.mention(&key) {
            let place = root.place([section]);
            let mend = format!("set it, or POSTBOUND_{}__URL, to {example}", section.to_uppercase());
            errors.push(ConfigError { place, key, problem: "is required".to_owned(), mend: Some(mend) });
        }
    }
}

/// Checks every section; a key that is in error already is not mentioned again.
pub(crate) fn validate(config: &Config, root: &Node, errors: &mut Errors) {
    let mut check = Check { root, errors };
    check.connections(config);
    check.relay(config);
    check.worker(config);
    check.topology(config);
    check.receiver(&config.receiver);
    check.ingress(&config.ingress);
    for target in config.targets.values() {
        check.target(target);
    }
    if let Some(slowest) = config.targets.values().max_by_key(|target| target.timeout) {
        check.lease(slowest, &config.worker);
    }
}

pub(crate) struct Check<'a> {
    root: &'a Node,
    errors: &'a mut Errors,
}

impl Check<'_> {
    pub(crate) fn require(&mut self, holds: bool, key: &str, problem: impl Into<String>) {
        self.require_or_mend(holds, key, problem, None);
    }

    pub(crate) fn require_or_mend(
        &mut self,
        holds: bool,
        key: &str,
        problem: impl Into<String>,
        mend: Option<String>,
    ) {
        if !holds && !self.errors.mention(key) {
            let place: Place = self.root.place(key.split('.'));
            self.errors.push(ConfigError { place, key: key.to_owned(), problem: problem.into(), mend });
        }
    }

    pub(crate) fn at_least_one<N: Into<u64> + Copy>(&mut self, number: N, key: &str) {
        self.require(number.into() >= 1, key, "must be 1 or more");
    }

    pub(crate) fn some_count(&mut self, number: usize, key: &str) {
        self.require(number >= 1, key, "must be 1 or more");
    }

    pub(crate) fn some_time(&mut self, time: Duration, key: &str) {
        self.require(!time.is_zero(), key, "must be longer than 0");
    }

    fn connections(&mut self, config: &Config) {
        let (database, broker) = (&config.database, &config.broker);
        self.url(
            &database.url,
            "database.url",
            &["postgres", "postgresql"],
            "postgres://user:password@host/db",
        );
        self.url(&broker.url, "broker.url", &["amqp", "amqps"], "amqp://user:password@host/vhost");
        self.at_least_one(database.pool_max, "database.pool_max");
        self.some_time(database.connect_timeout, "database.connect_timeout");
        self.some_time(broker.connect_timeout, "broker.connect_timeout");
        self.require(
            (1..=u64::from(u16::MAX)).contains(&broker.heartbeat.as_secs()),
            "broker.heartbeat",
            "must be whole seconds, 1 s or more",
        );
        let both = broker.client_cert_file.is_some() == broker.client_key_file.is_some();
        let missing = if broker.client_key_file.is_some() { "client_cert_file" } else { "client_key_file" };
        self.require(both, &format!("broker.{missing}"), "certificate and key of the client go together");
    }

    /// An empty URL was either reported as missing or is not needed.
    fn url(&mut self, url: &Secret, key: &str, schemes: &[&str], example: &str) {
        if url.is_empty() {
            let given = self.root.at(key.split('.')).is_some();
            self.require_or_mend(!given, key, "is empty", Some(format!("set it to {example}")));
            return;
        }
        let known = url.expose().split_once("://").is_some_and(|(scheme, _)| schemes.contains(&scheme));
        self.require(known, key, format!("must start with {}; expected {example}", starts(schemes)));
    }

    fn relay(&mut self, config: &Config) {
        let relay = &config.relay;
        self.some_time(relay.poll_min, "relay.poll_min");
        self.require(
            relay.poll_max >= relay.poll_min,
            "relay.poll_max",
            format!("must not be shorter than poll_min ({})", span(relay.poll_min)),
        );
        self.at_least_one(relay.page_rows, "relay.page_rows");
        self.some_count(relay.message_events_max, "relay.message_events_max");
        self.require(
            (1024..=BROKER_MESSAGE_BYTES_MAX).contains(&relay.message_bytes_max),
            "relay.message_bytes_max",
            "must be between 1KiB and 16MiB, the most a broker takes",
        );
        self.require(
            relay.page_bytes_max >= relay.message_bytes_max,
            "relay.page_bytes_max",
            format!("must not be less than message_bytes_max ({} bytes)", relay.message_bytes_max),
        );
        self.some_time(relay.confirm_timeout, "relay.confirm_timeout");
        self.require(relay.lease >= Duration::from_secs(1), "relay.lease", "must be 1s or more");
        self.at_least_one(relay.partitions_ahead_days, "relay.partitions_ahead_days");
        self.at_least_one(relay.retention_days, "relay.retention_days");
        self.at_least_one(relay.dedup_window_days, "relay.dedup_window_days");
        self.some_time(relay.reconcile_after, "relay.reconcile_after");
        self.at_least_one(relay.job_items_unsettled_max, "relay.job_items_unsettled_max");
        self.some_time(relay.job_lost_after, "relay.job_lost_after");
    }

    fn worker(&mut self, config: &Config) {
        let worker = &config.worker;
        self.some_time(worker.heartbeat, "worker.heartbeat");
        self.require(
            worker.heartbeat.saturating_mul(3) <= worker.lease,
            "worker.heartbeat",
            format!("must be at most a third of worker.lease ({})", span(worker.lease)),
        );
        self.some_time(worker.drain_deadline, "worker.drain_deadline");
        self.some_count(worker.ledger_batch_max, "worker.ledger_batch_max");
    }

    fn topology(&mut self, config: &Config) {
        let topology = &config.topology;
        self.require(
            (1..=256).contains(&topology.partitions),
            "topology.partitions",
            "must be between 1 and 256",
        );
        self.at_least_one(topology.queue_messages_max, "topology.queue_messages_max");
        self.require(
            topology.queue_bytes_max >= config.relay.message_bytes_max as u64,
            "topology.queue_bytes_max",
            format!(
                "must hold one message of relay.message_bytes_max ({} bytes)",
                config.relay.message_bytes_max
            ),
        );
        self.require(
            topology.delivery_limit >= 1000,
            "topology.delivery_limit",
            "must be 1000 or more: each lost connection counts one for every message in prefetch",
        );
    }

    fn receiver(&mut self, receiver: &Receiver) {
        let example = "postgres://user:password@host/db";
        if let Some(url) = &receiver.database_url {
            self.url(url, "receiver.database_url", &["postgres", "postgresql"], example);
        }
        let schema = &receiver.schema;
        let plain = schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && schema.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && schema.len() <= 63;
        self.require(plain, "receiver.schema", "must be a plain name: a-z, 0-9 and `_`, not first a digit");
        self.one_source(receiver.api_key.is_some(), &receiver.api_key_file, "receiver.api_key");
        let key = receiver.backend_api_key.is_some();
        self.one_source(key, &receiver.backend_api_key_file, "receiver.backend_api_key");
        self.one_source(
            !receiver.signing_secrets.is_empty(),
            &receiver.signing_secrets_file,
            "receiver.signing_secrets",
        );
        self.signing_secrets(&receiver.signing_secrets, "receiver.signing_secrets");
        let both = receiver.notify_url.is_some() == receiver.notify_secret.is_some();
        self.require(both, "receiver.notify_secret", "goes together with `notify_url`");
        self.signing_secrets(receiver.notify_secret.as_slice(), "receiver.notify_secret");
        if let Some(limit) = &receiver.rate_limit {
            self.rate_limit(limit, "receiver.rate_limit");
        }
    }

    fn lease(&mut self, target: &Target, worker: &Worker) {
        let key = format!("targets.{}.timeout", target.name);
        let needed = target.timeout.saturating_add(Worker::LEASE_MARGIN);
        self.require_or_mend(
            worker.lease > needed,
            "worker.lease",
            format!(
                "{} is too short for {key} ({}): it must exceed it by more than 2s, \
                 for a request must end before the partition can change hands",
                span(worker.lease),
                span(target.timeout)
            ),
            Some(format!("raise worker.lease above {}, or lower {key}", span(needed))),
        );
    }

    pub(crate) fn rate_limit(&mut self, limit: &RateLimit, key: &str) {
        self.at_least_one(limit.requests, &format!("{key}.requests"));
        self.some_time(limit.per, &format!("{key}.per"));
    }

    /// Standard Webhooks secrets, as those who sign and verify take them.
    pub(crate) fn signing_secrets(&mut self, secrets: &[Secret], key: &str) {
        self.require_or_mend(
            secrets.iter().all(is_signing_secret),
            key,
            "each must be whsec_ followed by the base64 of 24 to 64 bytes",
            Some("make one with: echo whsec_$(openssl rand -base64 32)".to_owned()),
        );
    }

    pub(crate) fn one_source(&mut self, inline: bool, file: &Option<PathBuf>, key: &str) {
        let both = inline && file.is_some();
        self.require(!both, &format!("{key}_file"), format!("give either this or `{}`", last(key)));
    }
}

fn is_signing_secret(secret: &Secret) -> bool {
    let encoded = secret.expose().strip_prefix("whsec_");
    let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
    decoded.is_some_and(|key| SIGNING_KEY_BYTES.contains(&key.len()))
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn starts(schemes: &[&str]) -> String {
    schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(" or ")
}

pub(crate) fn span(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}
