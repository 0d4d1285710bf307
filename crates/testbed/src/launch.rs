//! How one server process is started, and started again by whoever holds its endpoints.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::unistd::{Pid, Uid, User};
use serde::{Deserialize, Serialize};

use crate::processes;

/// The account a server runs as.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// The account to switch to for a server that refuses to run as root; none if we are not root.
    pub(crate) fn instead_of_root(name: &str) -> Result<Option<Self>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let user = User::from_name(name)?.with_context(|| format!("there is no user {name}"))?;
        Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }
}

/// Everything it takes to start a server process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// All the environment there is: what the caller has set must not leak into a server.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) account: Option<Account>,
    /// The server's own folder: its mark, home and working folder.
    pub(crate) folder: PathBuf,
    /// Where its output is appended.
    pub(crate) log: PathBuf,
}

impl Launch {
    /// The command, in a process group of its own, so that Ctrl-C in a terminal leaves the end of the server to us.
    pub(crate) fn command(&self) -> Result<Command> {
        let log = self.open_log()?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.folder)
            .env(processes::MARK, &self.folder)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        Ok(command)
    }

    /// Starts the process and leaves it running: [`processes`] ends it and takes its exit status.
    pub(crate) fn spawn(&self) -> Result<Pid> {
        let child =
            self.command()?.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(Pid::from_raw(child.id().cast_signed()))
    }

    /// The last lines of the log, for errors.
    pub(crate) fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    fn open_log(&self) -> Result<File> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        log.with_context(|| format!("cannot open {}", self.log.display()))
    }
}

/// The last lines of a log file, or why there are none.
pub(crate) fn log_tail(log: &Path) -> String {
    const LINES: usize = 30;
    match std::fs::read(log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LINES)..].join("\n")
        }
        Err(error) => format!("(no {}: {error})", log.display()),
    }
}

/// Whether a log says that a port was taken between its choice and its use.
pub(crate) fn tells_of_lost_port(log: &str) -> bool {
    let postgres = ["could not bind", "could not create any TCP/IP sockets"];
    let rabbitmq = ["could_not_start_listener", "register/listen error", "epmd error", "eaddrinuse"];
    postgres.iter().chain(&rabbitmq).any(|sign| log.contains(sign))
}
