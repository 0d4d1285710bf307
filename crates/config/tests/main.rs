//! The way from a file and an environment to a checked configuration, or to errors that say how to mend it.

mod adapters;
mod ingress;
mod keys;
mod secrets;
mod sources;
mod targets;
mod values;

use postbound_config::{Config, ConfigErrors};

const BASE: &str = "
[database]
url = 'postgres://app:hunter2@db/app'
[broker]
url = 'amqp://app:hunter2@mq/%2f'
";

/// Loads `text` from a file, under an environment of `NAME=value` entries.
fn load(text: &str, environment: &[&str]) -> Result<Config, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("postbound.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), variables(environment))
}

fn variables(environment: &[&str]) -> Vec<(String, String)> {
    let pair = |entry: &&str| entry.split_once('=').map(|(name, value)| (name.into(), value.into()));
    environment.iter().filter_map(pair).collect()
}

fn good(text: &str, environment: &[&str]) -> Config {
    load(&format!("{BASE}{text}"), environment).unwrap_or_else(|errors| panic!("{errors}"))
}

/// What loading says, with the temporary folder taken out. `text` starts at line 6.
fn refusal(text: &str, environment: &[&str]) -> String {
    refusal_of_whole(&format!("{BASE}{text}"), environment)
}

fn refusal_of_whole(text: &str, environment: &[&str]) -> String {
    let errors = load(text, environment).expect_err("this must be refused");
    let said = errors.to_string();
    assert!(!said.contains("hunter2"), "a secret was printed: {said}");
    said.lines()
        .map(|line| match (line.starts_with('/'), line.find("postbound.toml")) {
            (true, Some(start)) => &line[start..],
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn check(text: &str, environment: &[&str], expected: &str) {
    assert_eq!(refusal(text, environment), expected, "\n--- for:\n{text}\n{environment:?}");
}
