use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::decode::{self, keys_of};
use crate::decode_target::decode_targets;
use crate::errors::{ConfigError, ConfigErrors, Errors, Place};
use crate::ingress::decode_ingress;
use crate::interpolate::interpolate;
use crate::tree::{Node, Value};
use crate::{Broker, Database, Ingress, Receiver, Relay, Target, Telemetry, Topology, Worker};
use crate::{environment, secret_file, validate};

/// The file read when none is named, if it is there.
pub const DEFAULT_FILE: &str = "postbound.toml";

/// The variable that names the file.
const FILE_VARIABLE: &str = "POSTBOUND_CONFIG";

/// The sections of the file.
pub(crate) const SECTIONS: [&str; 9] =
    ["broker", "database", "ingress", "receiver", "relay", "targets", "telemetry", "topology", "worker"];

/// The configuration of an installation, checked. Serialises with every secret as `***`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Config {
    /// Postgres.
    pub database: Database,
    /// RabbitMQ.
    pub broker: Broker,
    /// The relay.
    pub relay: Relay,
    /// The workers.
    pub worker: Worker,
    /// The queues.
    pub topology: Topology,
    /// Logs, metrics and health.
    pub telemetry: Telemetry,
    /// The reference receivers.
    pub receiver: Receiver,
    /// The process that takes changes in over HTTP.
    pub ingress: Ingress,
    /// The targets by name, those without a URL included.
    pub targets: BTreeMap<String, Target>,
}

impl Config {
    /// Reads, overrides, fills in, decodes and checks.
    ///
    /// The file is `path`, or what `POSTBOUND_CONFIG` names, or [`DEFAULT_FILE`] in the working directory if it
    /// is there, or none: the environment alone can hold everything. Pass
    /// [`process_environment`](crate::process_environment) outside of tests.
    ///
    /// # Errors
    /// All that is wrong, not only the first thing.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let named = path
            .map(Path::to_owned)
            .or_else(|| environment.get(FILE_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from));
        let file = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let name: Arc<str> = file.display().to_string().into();
        match fs::read_to_string(&file) {
            Ok(text) => Self::parse(Some((&name, &text)), &environment),
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
                Self::parse(None, &environment).map_err(|errors| errors.without_file(&file))
            }
            Err(error) => {
                let mut errors = Errors::default();
                errors.push(ConfigError {
                    place: Place::File { name, line: 0 },
                    key: String::new(),
                    problem: format!("cannot read the configuration: {error}"),
                    mend: match path {
                        Some(_) => None,
                        None => Some(format!("{FILE_VARIABLE} names this file")),
                    },
                });
                errors.finish(Self::default())
            }
        }
    }

    fn parse(
        file: Option<(&Arc<str>, &str)>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = Errors::default();
        let root = match file {
            Some((name, text)) => Node::parse(text, name, &mut errors),
            None => Some(Node::table(Place::Nowhere)),
        };
        let Some(mut root) = root else { return errors.finish(Self::default()) };
        environment::override_from(&mut root, environment, &mut errors);
        interpolate(&mut root, environment, &mut errors);
        refuse_unknown_sections(&root, &mut errors);
        validate::require_urls(&root, &mut errors);
        let config = Self::decode(&root, &mut errors);
        validate::validate(&config, &root, &mut errors);
        errors.finish(config)
    }

    fn decode(root: &Node, errors: &mut Errors) -> Self {
        Self {
            database: section(root, "database", errors),
            broker: section(root, "broker", errors),
            relay: section(root, "relay", errors),
            worker: section(root, "worker", errors),
            topology: section(root, "topology", errors),
            telemetry: section(root, "telemetry", errors),
            receiver: section(root, "receiver", errors),
            ingress: decode_ingress(root, errors),
            targets: decode_targets(root, errors),
        }
    }

    /// The targets that have a URL.
    pub fn enabled_targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.values().filter(|target| target.is_enabled())
    }

    /// What is allowed but worth saying at start, such as a target without URL.
    pub fn warnings(&self) -> Vec<String> {
        self.targets
            .values()
            .filter(|target| !target.is_enabled())
            .map(|target| format!("target `{}` has no URL: it is skipped", target.name))
            .collect()
    }

    /// Hash of a target's settings, see [`Target::hash`].
    pub fn target_hash(&self, target: &Target) -> String {
        target.hash()
    }

    /// Opens every secret's file named here; returns key and reason of those that cannot be used.
    pub fn check_secret_files(&self) -> Vec<(String, secret_file::SecretError)> {
        let mut files = vec![
            ("database.password_file".to_owned(), &self.database.password_file),
            ("broker.password_file".to_owned(), &self.broker.password_file),
            ("receiver.api_key_file".to_owned(), &self.receiver.api_key_file),
            ("receiver.backend_api_key_file".to_owned(), &self.receiver.backend_api_key_file),
            ("receiver.signing_secrets_file".to_owned(), &self.receiver.signing_secrets_file),
        ];
        for (name, token) in &self.ingress.tokens {
            files.push((format!("ingress.tokens.{name}.token_file"), &token.token_file));
        }
        let secret_key = &self.ingress.directory.clerk_secret_key_file;
        files.push(("ingress.directory.clerk_secret_key_file".to_owned(), secret_key));
        for (name, source) in &self.ingress.sources {
            files
                .push((format!("ingress.sources.{name}.signing_secrets_file"), &source.signing_secrets_file));
        }
        for (name, target) in &self.targets {
            files.push((format!("targets.{name}.api_key_file"), &target.api_key_file));
            files.push((format!("targets.{name}.bearer_token_file"), &target.bearer_token_file));
            files.push((format!("targets.{name}.basic_password_file"), &target.basic_password_file));
            files.push((format!("targets.{name}.signing_secrets_file"), &target.signing_secrets_file));
        }
        files
            .into_iter()
            .filter_map(|(key, path)| Some((key, secret_file::check_file(path.as_deref()?).err()?)))
            .collect()
    }
}

/// The keys of a section, for suggestions.
pub(crate) fn section_keys(section: &str) -> &'static [&'static str] {
    match section {
        "broker" => keys_of::<Broker>(),
        "database" => keys_of::<Database>(),
        "ingress" => keys_of::<Ingress>(),
        "receiver" => keys_of::<Receiver>(),
        "relay" => keys_of::<Relay>(),
        "telemetry" => keys_of::<Telemetry>(),
        "topology" => keys_of::<Topology>(),
        "worker" => keys_of::<Worker>(),
        _ => &[],
    }
}

fn refuse_unknown_sections(root: &Node, errors: &mut Errors) {
    let Value::Table(entries) = &root.value else { return };
    for (key, node) in entries.iter().filter(|(key, _)| !SECTIONS.contains(&key.as_str())) {
        let (_, mend) = decode::unknown_key(key, SECTIONS.to_vec());
        errors.push(ConfigError {
            place: node.place.clone(),
            key: key.clone(),
            problem: "unknown section".to_owned(),
            mend,
        });
    }
}

fn section<T>(root: &Node, name: &str, errors: &mut Errors) -> T
where
    T: Default + for<'de> Deserialize<'de>,
{
    decode::section(root.at([name]), name, &[], errors)
}
