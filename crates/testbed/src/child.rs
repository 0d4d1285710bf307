//! A process of a run, with its log, from start to end.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::processes::MARK;

/// A process that logs into a file; dropped, it is killed.
#[derive(Debug)]
pub struct ChildProcess {
    /// What messages call it.
    pub name: &'static str,
    child: Child,
    log: PathBuf,
    /// Where in the log it begins.
    log_offset: u64,
}

impl ChildProcess {
    /// Starts `program` in the folder of `log`, to which it appends what it says on stdout and stderr. The folder marks it
    /// ([`MARK`]).
    ///
    /// # Errors
    /// When the log cannot be opened, or the program cannot be started.
    pub fn start(program: &Path, args: &[&str], name: &'static str, log: PathBuf) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("cannot open {}", log.display()))?;
        let log_offset = output.metadata()?.len();
        let folder = log.parent().unwrap_or(Path::new("/"));
        let child = Command::new(program)
            .args(args)
            // The caller's POSTBOUND_* would override the run's configuration.
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
        Ok(Self { name, child, log, log_offset })
    }

    /// Runs a command that ends by itself, and gives what it said.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes longer than two minutes.
    pub async fn run(program: &Path, args: &[&str], name: &'static str, log: PathBuf) -> Result<String> {
        const PATIENCE: Duration = Duration::from_secs(120);
        let mut process = Self::start(program, args, name, log)?;
        let status = tokio::time::timeout(PATIENCE, process.child.wait())
            .await
            .map_err(|_| anyhow!("{name} does not end; its log ends:\n{}", process.log_tail()))??;
        ensure!(status.success(), process.failure(status));
        process.said()
    }

    /// Its id; None: it has ended.
    pub fn pid(&self) -> Option<i32> {
        self.child.id().map(u32::cast_signed)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot ask for {}", self.name))
    }

    /// What to say of its end.
    pub fn failure(&self, status: ExitStatus) -> anyhow::Error {
        anyhow!("{} has ended ({status}); its log ends:\n{}", self.name, self.log_tail())
    }

    /// Waits until it has logged a line with `sign`, and gives that line.
    ///
    /// # Errors
    /// When it ends before, or does not log one within a minute.
    pub async fn logged(&mut self, sign: &str) -> Result<String> {
        self.until_logged(sign, |line| Some(line.to_owned())).await
    }

    /// Waits until it has logged a line with `sign`, and gives the `address=` in that line.
    ///
    /// # Errors
    /// As [`ChildProcess::logged`].
    pub async fn address(&mut self, sign: &str) -> Result<SocketAddr> {
        let address = |line: &str| line.split_once("address=")?.1.split_whitespace().next()?.parse().ok();
        self.until_logged(sign, address).await
    }

    async fn until_logged<T>(&mut self, sign: &str, read: impl Fn(&str) -> Option<T>) -> Result<T> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said()?;
            // The last line may still be being written.
            let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if let Some(found) = whole.lines().find(|line| line.contains(sign)).and_then(&read) {
                return Ok(found);
            }
            if let Some(status) = self.ended()? {
                return Err(self.failure(status));
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not log {sign:?}; its log ends:\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks it to drain and end, and waits for that.
    ///
    /// # Errors
    /// When it does not end within 40 s (it is killed then), or ends with an error.
    pub async fn stop(mut self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(40);
        if self.ended()?.is_none()
            && let Some(pid) = self.pid()
        {
            // Not waited for yet, so the id is still this process's.
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        }
        let Ok(status) = tokio::time::timeout(PATIENCE, self.child.wait()).await else {
            self.child.kill().await?;
            bail!("{} did not end when asked to; its log ends:\n{}", self.name, self.log_tail());
        };
        let status = status?;
        ensure!(status.success(), self.failure(status));
        Ok(())
    }

    fn said(&self) -> Result<String> {
        let log = std::fs::read(&self.log);
        let log = log.with_context(|| format!("cannot read {}", self.log.display()))?;
        let from = usize::try_from(self.log_offset).unwrap_or(0).min(log.len());
        Ok(String::from_utf8_lossy(&log[from..]).into_owned())
    }

    fn log_tail(&self) -> String {
        const LINES: usize = 20;
        let text = self.said().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
