//! Where, when and of what a run was.

use std::fmt;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::site::Site;

/// The machine and the versions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Start of the run, RFC 3339.
    pub(crate) date: String,
    /// Cores this process may use.
    pub(crate) cores: usize,
    /// The processor's name.
    pub(crate) cpu: String,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// PostgreSQL's version.
    pub(crate) postgres: String,
    /// RabbitMQ's version.
    pub(crate) rabbitmq: String,
    /// The compiler's version.
    pub(crate) rustc: String,
    /// The commit that was built; `+` when files had changed since.
    pub(crate) commit: String,
    /// Other load of the machine when the run began: processes that wanted to run, on average of a minute.
    pub(crate) load_before: f64,
}

impl Machine {
    /// Looks around.
    pub(crate) async fn look(site: &Site) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let mut connection = PgConnection::connect(&site.endpoints.postgres.superuser_url()).await?;
        let postgres: String = sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
        connection.close().await?;
        let rabbitmq = site.endpoints.rabbitmq.rabbitmqctl(&["version"]).await?;
        Ok(Self {
            date: OffsetDateTime::now_utc().format(&Rfc3339)?,
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_mib: memory_kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            postgres,
            rabbitmq: rabbitmq.trim().to_owned(),
            rustc: said("rustc", &["--version"]).unwrap_or_default(),
            commit: commit().unwrap_or_default(),
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, cores, cpu, memory_mib, kernel, postgres, rabbitmq, rustc, commit, load_before } =
            self;
        write!(
            f,
            "{date}, commit {commit}, {cores} cores of {cpu}, {memory_mib} MiB, Linux {kernel}, PostgreSQL {postgres}, \
             RabbitMQ {rabbitmq}, {rustc}; load before: {load_before}"
        )
    }
}

fn commit() -> Result<String> {
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"])?;
    let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Ok(if changed { commit + "+" } else { commit })
}

/// What a program says, run in the workspace.
fn said(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
