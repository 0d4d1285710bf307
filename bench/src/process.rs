//! Child processes of a measurement: Postbound's roles, and the bare loop's.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use postbound_testbed::ChildProcess;

use crate::usage::{Role, memory_peak_bytes};

/// A process that is measured; dropped, it is killed.
pub(crate) struct Process {
    /// What the report calls its role.
    pub(crate) name: &'static str,
    child: ChildProcess,
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
        let child = ChildProcess::start(program, args, name, folder.join(format!("{log}.log")))?;
        Ok(Self { name, child, metrics: None })
    }

    /// Runs a command that ends by itself and gives what it said.
    pub(crate) async fn run(program: &Path, args: &[&str], folder: &Path, log: &str) -> Result<String> {
        ChildProcess::run(program, args, "command", folder.join(format!("{log}.log"))).await
    }

    /// For [`crate::usage`].
    pub(crate) fn role(&self) -> Role {
        Role { name: self.name.to_owned(), pid: self.pid(), with_children: false }
    }

    fn pid(&self) -> i32 {
        self.child.pid().unwrap_or(0)
    }

    /// Most memory it has had, in bytes.
    pub(crate) fn memory_peak_bytes(&self) -> Option<u64> {
        memory_peak_bytes(self.pid())
    }

    /// Waits until its log bears a line with `sign`, and gives that line.
    pub(crate) async fn logged(&mut self, sign: &str) -> Result<String> {
        self.child.logged(sign).await
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
            None => *self.metrics.insert(self.child.address("serving /healthz").await?),
        };
        let text = http.get(format!("http://{address}/metrics")).send().await?.text().await?;
        let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        let matching = |line: &&str| labels.iter().all(|label| line.contains(label));
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        Ok(text.lines().filter(of_name).filter(matching).filter_map(value).sum())
    }

    /// Asks it to drain and end, and waits for that.
    pub(crate) async fn stop(self) -> Result<()> {
        self.child.stop().await
    }
}
