//! One `postbound` process with its log file, from start to exit.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postbound_testbed::MARK;
use tokio::process::{Child, Command};

/// A process of ours; dropped, it is killed.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program`, logging into `<name>.log` in `folder`.
    pub(crate) fn start(program: &Path, args: &[&str], name: &'static str, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = Command::new(program)
            .args(args)
            // The caller's POSTBOUND_* would override the demo's configuration.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .env(MARK, folder)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // The terminal's Ctrl-C reaches us alone: we end the others in their order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name, log, child })
    }

    /// Runs a command that ends by itself and gives what it said.
    pub(crate) async fn run(
        program: &Path,
        args: &[&str],
        name: &'static str,
        folder: &Path,
    ) -> Result<String> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let mut process = Self::start(program, args, name, folder)?;
        let status = tokio::time::timeout(PATIENCE, process.child.wait())
            .await
            .map_err(|_| anyhow!("{name} does not end; its log ends:\n{}", process.log_tail()))??;
        ensure!(status.success(), process.failure(status));
        std::fs::read_to_string(&process.log).with_context(|| format!("cannot read the log of {name}"))
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot ask for {}", self.name))
    }

    /// What to say of its end.
    pub(crate) fn failure(&self, status: ExitStatus) -> anyhow::Error {
        anyhow!("{} has ended ({status}); its log ends:\n{}", self.name, self.log_tail())
    }

    /// Waits until its log bears a line with `sign` and gives the address in that line.
    pub(crate) async fn address(&mut self, sign: &str) -> Result<SocketAddr> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = self.logged_address(sign)? {
                return Ok(address);
            }
            if let Some(status) = self.ended()? {
                return Err(self.failure(status));
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not come up; its log ends:\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn logged_address(&self, sign: &str) -> Result<Option<SocketAddr>> {
        let log = std::fs::read_to_string(&self.log)?;
        let line = log.lines().find(|line| line.contains(sign));
        let address = line.and_then(|line| line.split_once("address=")?.1.split_whitespace().next());
        // A line still being written has no address, or not a whole one.
        Ok(address.and_then(|address| address.parse().ok()))
    }

    /// Asks it to drain and end, and waits for that.
    pub(crate) async fn stop(mut self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(20);
        if self.ended()?.is_none()
            && let Some(pid) = self.child.id()
        {
            // Not waited for yet, so the id is still this process's.
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?;
        }
        let Ok(status) = tokio::time::timeout(PATIENCE, self.child.wait()).await else {
            self.child.kill().await?;
            bail!("{} did not end when asked to; its log ends:\n{}", self.name, self.log_tail());
        };
        let status = status?;
        ensure!(status.success(), self.failure(status));
        Ok(())
    }

    fn log_tail(&self) -> String {
        const LINES: usize = 20;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
