//! Everything that runs in a demo: the servers, and Postbound's processes in front of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use postbound_testbed::{ChildProcess, Services, packages};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::app;
use super::flows::Systems;
use super::settings::Settings;
use crate::commands::target;

const NAME: &str = "demo";

/// Owns all that runs. Take it down with [`Stage::clear`]; dropped, it kills what is left.
pub(crate) struct Stage {
    /// Postbound's processes, those that are to end first in front.
    pub(crate) processes: Vec<ChildProcess>,
    services: Services,
    folder: PathBuf,
    site: Option<Site>,
}

/// Where things are, for those who use but do not own them.
#[derive(Clone)]
pub(crate) struct Site {
    /// The database, as the application that changes users: it may write to the outbox and read none of it.
    pub(crate) app_url: String,
    /// The database, as its owner.
    database_url: String,
    program: PathBuf,
    config: PathBuf,
    folder: PathBuf,
    metrics: Vec<(&'static str, SocketAddr)>,
    /// Where services of ours would ask.
    pub(crate) systems: Systems,
}

impl Stage {
    /// An empty stage: servers only.
    pub(crate) fn new(services: Services) -> Result<Self> {
        let run = services.endpoints_file().parent().context("the endpoints' file has a folder")?;
        let folder = run.join(NAME);
        std::fs::create_dir(&folder)?;
        Ok(Self { processes: Vec::new(), services, folder, site: None })
    }

    /// Sets up the database and the queues and starts every process of Postbound.
    pub(crate) async fn set(&mut self, program: &Path) -> Result<Site> {
        let folder = self.folder.clone();
        let config = folder.join("postbound.toml");
        let (database_url, broker_url) = tokio::try_join!(
            self.services.postgres.create_database(NAME),
            self.services.rabbitmq.create_vhost(NAME)
        )?;
        let api_key = Uuid::new_v4().simple().to_string();
        let settings = Settings { database_url: &database_url, broker_url: &broker_url, api_key: &api_key };
        settings.write(&config, None, None)?;
        let start = |name, args: &[&str]| {
            let config = config.to_string_lossy();
            ChildProcess::start(program, &with_config(args, &config), name, log_of(&folder, name))
        };
        let run =
            async |name, args: &[&str]| run(program, &config.to_string_lossy(), &folder, name, args).await;
        run("migrate", &["migrate"]).await?;
        // Each chooses its port, so the ingress comes before the receivers, which tell it of changes, and those before the
        // workers.
        let mut ingress = start("ingress", &["ingress"])?;
        let ingress_address = ingress.address("ingress listening").await?;
        settings.write(&config, Some(ingress_address), None)?;
        let mut backend = start("receiver-backend", &["receiver", "--only", "backend-sync"])?;
        let mut crm = start("receiver-crm", &["receiver", "--only", "crm-batch"])?;
        let listening = "reference receiver listening";
        let (backend_address, crm_address) =
            tokio::try_join!(backend.address(listening), crm.address(listening))?;
        settings.write(&config, Some(ingress_address), Some([backend_address, crm_address]))?;
        let password = Uuid::new_v4().simple().to_string();
        tokio::try_join!(
            run("topology-apply", &["topology", "apply"]),
            app::create(&database_url, &password)
        )?;
        for (name, args) in [("relay", "relay"), ("worker-1", "worker"), ("worker-2", "worker")] {
            self.processes.push(start(name, &[args])?);
        }
        self.processes.extend([ingress, backend, crm]);
        let site = Site {
            app_url: self.services.postgres.url_as(app::ROLE, &password, NAME),
            database_url,
            program: program.to_owned(),
            metrics: self.metrics().await?,
            config,
            folder,
            systems: Systems { ingress: ingress_address, backend: backend_address, key: api_key.clone() },
        };
        Ok(self.site.insert(site).clone())
    }

    async fn metrics(&mut self) -> Result<Vec<(&'static str, SocketAddr)>> {
        let mut metrics = Vec::new();
        let serving = self.processes.iter_mut().filter(|process| !process.name.starts_with("receiver"));
        for process in serving {
            metrics.push((process.name, process.address("serving /healthz").await?));
        }
        Ok(metrics)
    }

    /// What to try now, ready to paste.
    pub(crate) fn invitation(&self) -> String {
        self.site.as_ref().map(|site| site.invitation(&self.services)).unwrap_or_default()
    }

    /// Copies the logs to where they outlive the run.
    pub(crate) fn keep_logs(&self) -> Result<()> {
        let kept = target().join("demo-logs");
        if kept.exists() {
            std::fs::remove_dir_all(&kept)?;
        }
        std::fs::create_dir_all(&kept)?;
        let logs = std::fs::read_dir(&self.folder)?.flatten().map(|entry| entry.path());
        let servers = [self.services.postgres.log(), self.services.rabbitmq.log()].map(Path::to_owned);
        for log in logs.chain(servers).filter(|path| path.extension().is_some_and(|end| end == "log")) {
            if let Some(name) = log.file_name()
                && log.is_file()
            {
                std::fs::copy(&log, kept.join(name))?;
            }
        }
        eprintln!("demo: the logs are kept in {}", kept.display());
        Ok(())
    }

    /// Drains and ends every process, those that send before those that receive, then the servers.
    pub(crate) async fn clear(self) -> Result<()> {
        let (receivers, senders): (Vec<_>, Vec<_>) =
            self.processes.into_iter().partition(|process| process.name.starts_with("receiver"));
        let mut outcome = Ok(());
        for group in [senders, receivers] {
            let mut stops = tokio::task::JoinSet::new();
            for process in group {
                stops.spawn(process.stop());
            }
            for stopped in stops.join_all().await {
                outcome = outcome.and(stopped);
            }
        }
        self.services.stop().await;
        outcome
    }
}

impl Site {
    /// Connections as the database's owner, to look at everything.
    pub(crate) async fn pool(&self) -> Result<PgPool> {
        Ok(PgPoolOptions::new().max_connections(2).connect(&self.database_url).await?)
    }

    /// What `postbound status` says.
    pub(crate) async fn status(&self) -> Result<String> {
        run(&self.program, &self.config.to_string_lossy(), &self.folder, "status", &["status"]).await
    }

    fn invitation(&self, services: &Services) -> String {
        let psql = match packages::program("psql") {
            Some(_) => "psql".to_owned(),
            None => services.postgres.bin_folder().join("psql").display().to_string(),
        };
        let Self { app_url, database_url, program, config, folder, .. } = self;
        let metrics: Vec<String> = self
            .metrics
            .iter()
            .map(|(name, address)| format!("  http://{address}/metrics  {name}"))
            .collect();
        format!(
            "Postbound runs until Ctrl-C. Change a user, as often as you like:\n\n  \
             {psql} '{app_url}' -c \"insert into postbound.outbox (tenant_id, user_id, action, data) values ('acme', 'ada', \
             'created', json_build_object('email', 'ada@example.com', 'displayName', 'Ada Lovelace')) returning event_id, \
             version\"\n\n\
             Watch it arrive:\n\n  \
             {psql} '{database_url}' -c \"select tenant_id, user_id, email, display_name, version, updated_at from \
             receiver.backend_users where user_id = 'ada'\"\n  \
             {psql} '{database_url}' -c \"select received_at, contract, outcome, version, content from receiver.request_log \
             where user_id = 'ada' order by id\"\n  \
             {} status --config {}\n\n\
             Logs and metrics:\n\n  {}/*.log\n{}",
            program.display(),
            config.display(),
            folder.display(),
            metrics.join("\n")
        )
    }
}

/// Waits for a process to end that should not; gives what to say of it.
pub(crate) async fn play_until_one_ends(processes: &mut [ChildProcess]) -> anyhow::Error {
    const GLANCE: Duration = Duration::from_millis(100);
    loop {
        for process in &mut *processes {
            match process.ended() {
                Ok(None) => {}
                Ok(Some(status)) => return process.failure(status),
                Err(error) => return error,
            }
        }
        tokio::time::sleep(GLANCE).await;
    }
}

fn with_config<'a>(args: &[&'a str], config: &'a str) -> Vec<&'a str> {
    [args, &["--config", config]].concat()
}

async fn run(
    program: &Path,
    config: &str,
    folder: &Path,
    name: &'static str,
    args: &[&str],
) -> Result<String> {
    ChildProcess::run(program, &with_config(args, config), name, log_of(folder, name)).await
}

fn log_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}
