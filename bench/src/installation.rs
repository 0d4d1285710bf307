//! One whole Postbound of one measurement: a database, a virtual host, a configuration, and its processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::arrivals::now_us;
use crate::process::Process;
use crate::site::Site;

/// Partitions per target, and queues of the bare loop.
pub(crate) const PARTITIONS: u16 = 16;

/// A target of a measurement; the receiver has a door for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One user a request (S2).
    Backend,
    /// Another of the same kind.
    Second,
    /// Up to 100 users a request (S3).
    Crm,
}

impl Target {
    /// Its name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Second => "second",
            Self::Crm => "crm",
        }
    }

    /// The receiver's door for it.
    pub(crate) fn door(self) -> usize {
        match self {
            Self::Backend => 0,
            Self::Second => 1,
            Self::Crm => 2,
        }
    }

    fn toml(self, site: &Site) -> String {
        let address = site.receiver.address(self.door());
        let name = self.name();
        let kind = match self {
            Self::Backend | Self::Second => {
                format!("adapter = \"backend-sync\"\nurl = \"http://{address}/internal/users/sync\"")
            }
            Self::Crm => format!("adapter = \"crm-batch\"\nurl = \"http://{address}\""),
        };
        format!("\n[targets.{name}]\n{kind}\napi_key = \"{API_KEY}\"\n")
    }
}

/// What both senders put into `X-Internal-API-Key`.
pub(crate) const API_KEY: &str = "key-of-the-bench-7c02";

/// A set-up Postbound. Its processes are started by the measurement; all of it goes with [`Installation::remove`].
pub(crate) struct Installation {
    /// Connections as the database's owner.
    pub(crate) pool: PgPool,
    /// The database, as its owner.
    pub(crate) database_url: String,
    /// The active relay, once started.
    pub(crate) relay: Option<Process>,
    /// The workers.
    pub(crate) workers: Vec<Process>,
    targets: Vec<Target>,
    name: String,
    program: PathBuf,
    config: PathBuf,
    folder: PathBuf,
    http: reqwest::Client,
}

impl Installation {
    /// Sets one up: nothing runs yet.
    pub(crate) async fn set_up(site: &mut Site, targets: &[Target]) -> Result<Self> {
        let name = site.new_name();
        let folder = site.folder.join(&name);
        std::fs::create_dir(&folder)?;
        let template = site.template().await?;
        let (database_url, broker_url) = tokio::try_join!(
            site.endpoints.postgres.create_database_from_template(&name, &template),
            site.endpoints.rabbitmq.create_vhost(&name)
        )?;
        let config = folder.join("postbound.toml");
        let log = if site.options.log_deliveries { "info" } else { "info,postbound::synced=off" };
        let targets_toml: String = targets.iter().map(|target| target.toml(site)).collect();
        let toml = format!(
            "[database]\nurl = \"{database_url}\"\n\n[broker]\nurl = \"{broker_url}\"\n\n\
             [topology]\npartitions = {PARTITIONS}\n\n\
             [telemetry]\nlisten = \"127.0.0.1:0\"\nlog = \"{log}\"\n{targets_toml}"
        );
        std::fs::write(&config, toml)?;
        let installation = Self {
            pool: PgPoolOptions::new().max_connections(2).connect(&database_url).await?,
            database_url,
            relay: None,
            workers: Vec::new(),
            targets: targets.to_vec(),
            name,
            program: site.options.postbound.clone(),
            config,
            folder,
            http: site.http.clone(),
        };
        installation.run("topology-apply", &["topology", "apply"]).await?;
        Ok(installation)
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, log: &str, args: &[&str]) -> Result<String> {
        Process::run(&self.program, &self.with_config(args), &self.folder, log).await
    }

    /// Starts the relay and waits until it is the active one.
    pub(crate) async fn start_relay(&mut self) -> Result<()> {
        let mut relay = self.start("relay", "relay")?;
        wait_for_metric(&mut relay, &self.http, "postbound_relay_leader", 1.0).await?;
        self.relay = Some(relay);
        Ok(())
    }

    /// Starts workers and waits until they have every partition.
    pub(crate) async fn start_workers(&mut self, count: usize) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(60);
        for number in 0..count {
            let worker = self.start("worker", &format!("worker-{number}"))?;
            self.workers.push(worker);
        }
        let wanted = f64::from(PARTITIONS) * self.targets.len() as f64;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut owned = 0.0;
            for worker in &mut self.workers {
                owned += worker.metric(&self.http, "postbound_partitions_owned", &[]).await?;
            }
            if owned >= wanted {
                break;
            }
            ensure!(Instant::now() < deadline, "the workers have {owned} of {wanted} partitions");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // They own all; the last consumers are still being attached, which no metric tells.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }

    /// Sum of a metric over the workers.
    pub(crate) async fn worker_metric(&mut self, name: &str, labels: &[&str]) -> Result<f64> {
        let mut sum = 0.0;
        for worker in &mut self.workers {
            sum += worker.metric(&self.http, name, labels).await?;
        }
        Ok(sum)
    }

    /// Waits until the relay has had so many events confirmed, over all targets; gives how many it has.
    pub(crate) async fn wait_for_published(&mut self, events: f64, within: Duration) -> Result<f64> {
        let deadline = Instant::now() + within;
        let relay = self.relay.as_mut().context("no relay runs")?;
        loop {
            let published = relay.metric(&self.http, "postbound_relay_published_total", &[]).await?;
            if published >= events {
                return Ok(published);
            }
            ensure!(Instant::now() < deadline, "the relay has published {published} of {events} events");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the ledger holds the newest version of so many users at each target; gives the time at which it was
    /// asked and had all. Ask when the receiver has all: it reads the whole ledger.
    pub(crate) async fn wait_for_settled(&self, users: u32, within: Duration) -> Result<u64> {
        let deadline = Instant::now() + within;
        let wanted = i64::from(users) * i64::try_from(self.targets.len())?;
        loop {
            let asked_us = now_us();
            let settled: i64 = sqlx::query_scalar(
                "-- bench_settled
                select count(*) from postbound.delivery_ledger as l
                join postbound.user_head as h using (tenant_id, user_id)
                where l.delivered_version = h.version",
            )
            .fetch_one(&self.pool)
            .await?;
            if settled >= wanted {
                return Ok(asked_us);
            }
            ensure!(Instant::now() < deadline, "{settled} of {wanted} deliveries are settled");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How many users' newest states are dead letters, and how many letters there are.
    pub(crate) async fn dead_letters(&self) -> Result<i64> {
        let letters = sqlx::query_scalar(
            "-- bench_dead
            select (select count(*) from postbound.delivery_ledger where dead_version > 0)
                 + (select count(*) from postbound.dead_letter)",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(letters)
    }

    /// Stops the relay.
    pub(crate) async fn stop_relay(&mut self) -> Result<()> {
        match self.relay.take() {
            Some(relay) => relay.stop().await,
            None => Ok(()),
        }
    }

    /// Drains and ends its processes and drops all it has on the servers.
    pub(crate) async fn remove(mut self, site: &Site) -> Result<()> {
        self.stop_relay().await?;
        for worker in std::mem::take(&mut self.workers) {
            worker.stop().await?;
        }
        self.pool.close().await;
        site.endpoints.rabbitmq.delete_vhost(&self.name).await?;
        site.endpoints.postgres.drop_database(&self.name).await
    }

    fn start(&self, role: &'static str, log: &str) -> Result<Process> {
        Process::start(&self.program, &self.with_config(&[role]), role, &self.folder, log)
    }

    fn with_config<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--config", path_text(&self.config)]].concat()
    }
}

/// Our own folders have names of plain ASCII.
pub(crate) fn path_text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

async fn wait_for_metric(
    process: &mut Process,
    http: &reqwest::Client,
    name: &str,
    wanted: f64,
) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = process.metric(http, name, &[]).await?;
        if value >= wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{name} is {value} after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
