use crate::eventually;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    sync::OnceCell,
};

/// How long a process may take for what it does at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running `postbound`, killed with the value.
pub struct Process {
    child: Child,
    log: PathBuf,
    http: reqwest::Client,
    telemetry_address: OnceCell<String>,
}

/// What `/readyz` says.
#[derive(Debug)]
pub struct Readiness {
    /// The HTTP status: 200 or 503.
    pub status: u16,
    /// The report.
    pub report: Value,
}

impl Readiness {
    /// State of a component; "" where there is no such component.
    #[must_use]
    pub fn state(&self, component: &str) -> &str {
        self.report["components"][component]["state"].as_str().unwrap_or_default()
    }

    /// Why a component is in its state; "" where it does not say.
    #[must_use]
    pub fn reason(&self, component: &str) -> &str {
        self.report["components"][component]["reason"].as_str().unwrap_or_default()
    }
}

impl Process {
    pub(crate) fn spawn(mut command: Command, log: &Path, http: &reqwest::Client) -> Self {
        let file = std::fs::File::create(log).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned(), http: http.clone(), telemetry_address: OnceCell::new() }
    }

    /// Its process id, as its label in `status` has it.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("the process has ended")).unwrap()
    }

    /// What it has logged so far.
    ///
    /// # Panics
    /// When the log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Panics
    /// When it had ended before.
    pub async fn kill_9(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "it ended by itself:\n{}", self.log());
        self.child.kill().await.unwrap();
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end; its log:\n{}", self.log())).unwrap()
    }

    /// What `/readyz` says now.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn readyz(&self) -> Readiness {
        let answer = self.get("readyz").await;
        Readiness { status: answer.status().as_u16(), report: answer.json().await.unwrap() }
    }

    /// Waits until what `/readyz` says is as wanted.
    ///
    /// # Panics
    /// When it is not within half a minute.
    pub async fn until_ready(&self, what: &str, wanted: impl Fn(&Readiness) -> bool) -> Readiness {
        eventually(what, PATIENCE, async || Some(self.readyz().await).filter(&wanted)).await
    }

    /// Sum of a metric over the series whose labels hold all of `labels`, such as `target="crm"`.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.get("metrics").await.text().await.unwrap();
        let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        let matching = |line: &&str| labels.iter().all(|label| line.contains(label));
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        text.lines().filter(of_name).filter(matching).filter_map(value).sum()
    }

    /// Where it tells of itself.
    ///
    /// # Panics
    /// When it does not say where.
    pub async fn telemetry_url(&self) -> String {
        format!("http://{}", self.telemetry_address.get_or_init(|| self.address("serving /healthz")).await)
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        let url = self.telemetry_url().await;
        self.http.get(format!("{url}/{path}")).send().await.unwrap()
    }

    /// The address in the line with `sign`, once that is logged: what listens on any free port says there which it is.
    ///
    /// # Panics
    /// When it is not logged.
    pub async fn address(&self, sign: &str) -> String {
        eventually("it says where it listens", PATIENCE, async || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(sign))?;
            serde_json::from_str::<Value>(line).ok()?["address"].as_str().map(str::to_owned)
        })
        .await
    }
}
