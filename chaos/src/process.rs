//! One `postbound` process: started, killed, frozen, thawed, started again; its log goes on over its lives.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postbound_testbed::MARK;
use tokio::process::{Child, Command};

use crate::clock::{MomentUs, now_us};

/// A process of ours, perhaps not running; dropped, it is killed.
pub(crate) struct Process {
    /// As the plan and the reports call it.
    pub(crate) name: String,
    program: PathBuf,
    args: Vec<String>,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Option<Child>,
    /// Where its present life begins in the log.
    log_offset: u64,
    /// All ids it has had, with the moment from which it had each.
    pids: Vec<(MomentUs, i32)>,
    /// Times in which it stood still.
    freezes: Vec<(MomentUs, MomentUs)>,
    frozen_at: Option<MomentUs>,
    /// Ends of its own making, which nobody asked for.
    surprises: Vec<String>,
}

impl Process {
    /// A process that is yet to be started: `program` with `args`, logging into `<name>.log` in `folder`.
    pub(crate) fn new(name: impl Into<String>, program: &Path, args: &[&str], folder: &Path) -> Self {
        let name = name.into();
        Self {
            log: folder.join(format!("{name}.log")),
            name,
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            environment: Vec::new(),
            child: None,
            log_offset: 0,
            pids: Vec::new(),
            freezes: Vec::new(),
            frozen_at: None,
            surprises: Vec::new(),
        }
    }

    /// The same with more in its environment.
    pub(crate) fn with_environment(self, environment: Vec<(&'static str, String)>) -> Self {
        Self { environment, ..self }
    }

    /// Starts it, unless it runs.
    pub(crate) fn start(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let output = log.with_context(|| format!("cannot open {}", self.log.display()))?;
        self.log_offset = output.metadata()?.len();
        let folder = self.log.parent().unwrap_or(Path::new("/"));
        let child = Command::new(&self.program)
            .args(&self.args)
            // The caller's POSTBOUND_* would override the configuration.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .env(MARK, folder)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // The terminal's Ctrl-C reaches us alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        if let Some(pid) = child.id() {
            self.pids.push((now_us(), pid.cast_signed()));
        }
        self.child = Some(child);
        Ok(())
    }

    /// Runs a command that ends by itself, and gives what it said.
    pub(crate) async fn run_to_end(mut self) -> Result<String> {
        const PATIENCE: Duration = Duration::from_secs(60);
        self.start()?;
        let mut child = self.child.take().context("it has just been started")?;
        let status = tokio::time::timeout(PATIENCE, child.wait())
            .await
            .map_err(|_| anyhow!("{} does not end; its log ends:\n{}", self.name, self.log_tail()))??;
        ensure!(status.success(), "{} failed ({status}); its log ends:\n{}", self.name, self.log_tail());
        self.log()
    }

    /// Whether it was started and has not been seen to end.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The process id it has, if it runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(Child::id).map(u32::cast_signed)
    }

    /// Whether it ever had this id.
    pub(crate) fn had_pid(&self, pid: i32) -> bool {
        self.pids.iter().any(|(_, had)| *had == pid)
    }

    /// Times in which it stood still, the present one included.
    pub(crate) fn freezes(&self) -> Vec<(MomentUs, MomentUs)> {
        let now = self.frozen_at.map(|from| (from, now_us()));
        self.freezes.iter().copied().chain(now).collect()
    }

    /// Ends of its own making, and how it ended.
    pub(crate) fn surprises(&self) -> &[String] {
        &self.surprises
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn kill_9(&mut self) -> Result<()> {
        self.note_thaw();
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGSTOP: it stands still and keeps what it has.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.frozen_at.get_or_insert(now_us());
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub(crate) fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)?;
        self.note_thaw();
        Ok(())
    }

    /// SIGTERM, and waits for the end; past `patience`, SIGKILL.
    pub(crate) async fn terminate(&mut self, patience: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if tokio::time::timeout(patience, child.wait()).await.is_err() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Takes note if it has ended by itself, and how.
    pub(crate) fn look(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            self.child = None;
            self.note_thaw();
            self.surprises.push(self.end(status));
        }
        Ok(())
    }

    /// Waits until its present life has logged a line with `sign`, and gives the address in that line.
    pub(crate) async fn address(&mut self, sign: &str) -> Result<SocketAddr> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = self.logged_address(sign)? {
                return Ok(address);
            }
            self.look()?;
            let up = self.is_running() && Instant::now() < deadline;
            ensure!(up, "{} does not come up; its log ends:\n{}", self.name, self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        const LINES: usize = 20;
        let text = self.log().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn log(&self) -> Result<String> {
        let bytes =
            std::fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let from = usize::try_from(self.log_offset).unwrap_or(0).min(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[from..]).into_owned())
    }

    fn logged_address(&self, sign: &str) -> Result<Option<SocketAddr>> {
        let log = self.log()?;
        let line = log.lines().find(|line| line.contains(sign));
        let address = line.and_then(|line| line.split_once("address=")?.1.split_whitespace().next());
        // A line still being written has no address, or not a whole one.
        Ok(address.and_then(|address| address.parse().ok()))
    }

    fn end(&self, status: ExitStatus) -> String {
        let last = self.log_tail();
        format!("{} ended by itself ({status}): {}", self.name, last.lines().last().unwrap_or_default())
    }

    fn note_thaw(&mut self) {
        if let Some(from) = self.frozen_at.take() {
            self.freezes.push((from, now_us()));
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        // Not waited for yet, so the id is still this process's.
        let Some(pid) = self.pid() else { return Ok(()) };
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => bail!("cannot signal {}: {error}", self.name),
        }
    }
}
