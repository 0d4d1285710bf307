//! `cargo xtask check`: what has to hold besides the tests.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use postbound_testbed::packages;
use tokio::process::Command;

use crate::commands::{self, cargo, target};
use crate::deploy;

/// What is to be checked.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// These alone: fmt, clippy, doc, deny, prometheus, grafana, kubernetes, systemd [default: all]
    names: Vec<String>,
}

impl Arguments {
    /// Whether a check is asked for.
    pub(crate) fn ask_for(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|asked| asked == name)
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let deny = if arguments.ask_for("deny") { cargo_deny().await? } else { PathBuf::new() };
    let mut failed = Vec::new();
    for (name, command) in [
        ("fmt", with(cargo(), &["fmt", "--all", "--check"])),
        ("clippy", with(cargo(), &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        ("doc", doc()),
        ("deny", policy(&deny)),
    ] {
        if !arguments.ask_for(name) {
            continue;
        }
        eprintln!("check: {name}");
        if !commands::run(command).await?.success() {
            failed.push(name);
        }
    }
    failed.extend(deploy::check(&arguments).await);
    if failed.is_empty() {
        eprintln!("check: all good");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("check: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn doc() -> Command {
    let mut doc = with(cargo(), &["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    doc
}

/// Advisories are left out: they need a database from the network, and a new one must not fail an old commit.
fn policy(deny: &Path) -> Command {
    let mut command = Command::new(deny);
    command.current_dir(commands::workspace());
    with(command, &["--log-level", "error", "check", "bans", "licenses", "sources"])
}

fn with(mut command: Command, args: &[&str]) -> Command {
    command.args(args);
    command
}

/// Finds cargo-deny in `PATH` or among our own tools, where it is installed if it is missing.
async fn cargo_deny() -> Result<PathBuf> {
    let tools = target().join("tools");
    let own = tools.join("bin/cargo-deny");
    if let Some(found) = packages::program("cargo-deny").or_else(|| own.is_file().then(|| own.clone())) {
        return Ok(found);
    }
    eprintln!("check: installing cargo-deny, once");
    let mut install = cargo();
    install.args(["install", "cargo-deny", "--locked", "--debug", "--root"]).arg(&tools);
    // It is run once, for a second: what counts is how soon it is built.
    install.env("CARGO_PROFILE_DEV_DEBUG", "0");
    ensure!(commands::run(install).await?.success(), "cannot install cargo-deny");
    Ok(own)
}
