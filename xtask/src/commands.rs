//! Child processes that end with us.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    // What cargo tells us of our own package makes ring's build script believe it has moved: it, and all that stands on
    // it, would be built anew.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// The workspace's root.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace().join(target)
}

/// Waits for Ctrl-C, SIGTERM or a closed terminal.
pub(crate) async fn asked_to_stop() -> Result<Signal> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => Signal::SIGINT,
        _ = terminate.recv() => Signal::SIGTERM,
        _ = hangup.recv() => Signal::SIGHUP,
    })
}

/// Runs a command to its end. If we are asked to stop, it and all it started are asked first, then made to.
///
/// # Errors
/// If it cannot be started, or was stopped with us.
pub(crate) async fn run(mut command: Command) -> Result<ExitStatus> {
    const PATIENCE: Duration = Duration::from_secs(10);
    // In a group of its own the whole tree can be signalled, and the terminal's Ctrl-C reaches us alone.
    let mut child =
        command.process_group(0).spawn().with_context(|| format!("cannot start {:?}", command.as_std()))?;
    let group = Pid::from_raw(child.id().context("the command has just been started")?.cast_signed());
    let signal = tokio::select! {
        status = child.wait() => return Ok(status?),
        signal = asked_to_stop() => signal?,
    };
    // It may have ended just now. Not the signal we got: shells start background jobs deaf to SIGINT.
    let _ = killpg(group, Signal::SIGTERM);
    let _ = tokio::time::timeout(PATIENCE, child.wait()).await;
    let _ = killpg(group, Signal::SIGKILL);
    child.wait().await?;
    bail!("stopped by {signal}")
}
