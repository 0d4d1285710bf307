//! Child processes of a measurement: Postbound's roles, and the bare loop's.

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

use crate::usage::{Role, memory_peak_bytes};

/// A process that logs into a file; dropped, it is killed.
pub(crate) struct Process {
    /// What the report calls its role.
    pub(crate) name: &'static str,
    child: Child,
    log: PathBuf,
    metrics: Option<SocketAddr>,
}

impl Process {
    /// Starts `program`; its log, `<log>.log`, holds what it says on stdout and stderr.
    pub(crate) fn start(
        program: &Path,
        args: &[&str],
        name: &'static str,
        folder: &Path,
        log: &str,
    ) -> Result<Self> {
        let log = folder.join(format!("{log}.log"));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = Command::new(program)
            .args(args)
            // The caller's POSTBOUND_* would override the bench's configuration.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env(MARK, folder)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name, child, log, metrics: None })
    }

    /// Runs a command that ends by itself and gives what it said.
    pub(crate) async fn run(program: &Path, args: &[&str], folder: &Path, log: &str) -> Result<String> {
        const PATIENCE: Duration = Duration::from_secs(120);
        let mut process = Self::start(program, args, "command", folder, log)?;
        let status = tokio::time::timeout(PATIENCE, process.child.wait())
            .await
            .map_err(|_| anyhow!("{log} does not end; its log ends:\n{}", process.log_tail()))??;
        ensure!(status.success(), process.failure(status));
        process.said()
    }

    /// For [`crate::usage`].
    pub(crate) fn role(&self) -> Role {
        Role { name: self.name.to_owned(), pid: self.pid(), with_children: false }
    }

    fn pid(&self) -> i32 {
        self.child.id().map_or(0, u32::cast_signed)
    }

    /// Most memory it has had, in bytes.
    pub(crate) fn memory_peak_bytes(&self) -> Option<u64> {
        memory_peak_bytes(self.pid())
    }

    /// Waits until its log bears a line with `sign`, and gives that line.
    pub(crate) async fn logged(&mut self, sign: &str) -> Result<String> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said()?;
            // The last line may still be being written.
            let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if let Some(line) = whole.lines().find(|line| line.contains(sign)) {
                return Ok(line.to_owned());
            }
            self.ensure_runs()?;
            ensure!(
                Instant::now() < deadline,
                "{} does not say {sign:?}; its log ends:\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Fails if it has ended.
    pub(crate) fn ensure_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(self.failure(status)),
            None => Ok(()),
        }
    }

    /// Sum of a metric over the series whose labels hold all of `labels`, such as `target="crm"`.
    pub(crate) async fn metric(
        &mut self,
        http: &reqwest::Client,
        name: &str,
        labels: &[&str],
    ) -> Result<f64> {
        let address = match self.metrics {
            Some(address) => address,
            None => {
                let line = self.logged("serving /healthz").await?;
                let address =
                    line.split_once("address=").and_then(|(_, rest)| rest.split_whitespace().next());
                let address = address.context("no address in the log")?.parse()?;
                *self.metrics.insert(address)
            }
        };
        let text = http.get(format!("http://{address}/metrics")).send().await?.text().await?;
        let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        let matching = |line: &&str| labels.iter().all(|label| line.contains(label));
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        Ok(text.lines().filter(of_name).filter(matching).filter_map(value).sum())
    }

    /// Asks it to drain and end, and waits for that.
    pub(crate) async fn stop(mut self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(40);
        self.ensure_runs()?;
        // Not waited for yet, so the id is still this process's.
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM)?;
        let Ok(status) = tokio::time::timeout(PATIENCE, self.child.wait()).await else {
            self.child.kill().await?;
            bail!("{} did not end when asked to; its log ends:\n{}", self.name, self.log_tail());
        };
        let status = status?;
        ensure!(status.success(), self.failure(status));
        Ok(())
    }

    fn said(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))
    }

    fn failure(&self, status: ExitStatus) -> anyhow::Error {
        anyhow!("{} has ended ({status}); its log ends:\n{}", self.name, self.log_tail())
    }

    fn log_tail(&self) -> String {
        const LINES: usize = 15;
        let text = self.said().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
