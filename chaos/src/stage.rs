//! Everything that runs: servers, links, Postbound's processes, receivers.
//!
//! The receivers have a PostgreSQL of their own. They stand for other teams' systems, which go on when the source's
//! database dies: only so is there ever a request that was executed and whose outcome Postbound could not write down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use postbound_testbed::{Options, Postgres, RabbitMq, Services};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::Mutex;

use crate::faketime::Faketime;
use crate::fault::Order;
use crate::parts::Parts;
use crate::plan::{APP_LINK, http_link};
use crate::process::Process;
use crate::proxy::Link;
use crate::target::{Guards, TARGETS};
use crate::wire::Observer;

/// The name of databases, virtual host and folder.
pub(crate) const DATABASE: &str = "chaos";
/// In the log of a receiver that takes requests.
pub(crate) const LISTENING: &str = "reference receiver listening";
/// Owns all that runs. Take it down with [`Stage::clear`].
pub(crate) struct Stage {
    /// The source's PostgreSQL.
    pub(crate) postgres: Postgres,
    /// RabbitMQ.
    pub(crate) rabbitmq: RabbitMq,
    /// The links, by name.
    pub(crate) links: BTreeMap<String, Link>,
    /// The processes, by name.
    pub(crate) processes: BTreeMap<String, Arc<Mutex<Process>>>,
    /// What each target's link saw, by target.
    pub(crate) observers: BTreeMap<&'static str, Arc<Observer>>,
    /// How careful the receivers are.
    pub(crate) guards: Guards,
    /// For everything that speaks HTTP.
    pub(crate) http: reqwest::Client,
    /// The clocks of relays and workers.
    pub(crate) faketime: Faketime,
    receivers_postgres: Postgres,
    app_password: String,
    program: PathBuf,
    folder: PathBuf,
    services: Services,
}

impl Stage {
    /// Starts the servers, sets Postbound up and starts all of it. On failure nothing is left.
    pub(crate) async fn set(program: &Path, guards: Guards) -> Result<Self> {
        let options = Options {
            // What the checker orders events by.
            postgres_settings: vec![("track_commit_timestamp".to_owned(), "on".to_owned())],
            ..Options::default()
        };
        let services = Services::start(options).await?;
        match Parts::build(&services, program, guards).await {
            Ok(parts) => Ok(Self::of(parts, services, guards)),
            Err(error) => {
                services.stop().await;
                Err(error)
            }
        }
    }

    fn of(parts: Parts, services: Services, guards: Guards) -> Self {
        let processes = parts.processes.into_iter();
        Self {
            postgres: services.postgres.clone(),
            rabbitmq: services.rabbitmq.clone(),
            links: parts.links,
            processes: processes.map(|(name, process)| (name, Arc::new(Mutex::new(process)))).collect(),
            observers: parts.observers,
            guards,
            http: http_client(),
            faketime: parts.faketime,
            receivers_postgres: parts.receivers_postgres,
            app_password: parts.app_password,
            program: parts.program,
            folder: parts.folder,
            services,
        }
    }

    /// The process of that name.
    pub(crate) fn process(&self, name: &str) -> Result<&Arc<Mutex<Process>>> {
        self.processes.get(name).with_context(|| format!("there is no process {name}"))
    }

    /// The link of that name.
    pub(crate) fn link(&self, name: &str) -> Result<&Link> {
        self.links.get(name).with_context(|| format!("there is no link {name}"))
    }

    /// Starts a process, and leads its link to it if it is a receiver.
    pub(crate) async fn start(&self, name: &str) -> Result<()> {
        let mut process = self.process(name)?.lock().await;
        process.start()?;
        if let Some(target) = TARGETS.iter().find(|target| target.receiver() == name) {
            let address = process.address(LISTENING).await?;
            self.link(&http_link(target.name))?.lead_to(address);
        }
        Ok(())
    }

    /// Where a receiver takes requests and orders to misbehave, past its link.
    pub(crate) async fn receiver_address(&self, target: &str) -> Result<std::net::SocketAddr> {
        self.process(&format!("receiver-{target}"))?.lock().await.address(LISTENING).await
    }

    /// Gives an operator's order. It may be refused, as long as Postgres is away for one: that is no concern of the order.
    pub(crate) async fn order(&self, order: &Order) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let config = self.folder.join("operator.toml").to_string_lossy().into_owned();
        let args = [order.args(), vec!["--config", &config]].concat();
        let mut process = Process::new("operator", &self.program, &args, &self.folder);
        process.start()?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while process.is_running() && tokio::time::Instant::now() < deadline {
            process.look()?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        process.kill_9().await
    }

    /// How the application connects, by its link.
    pub(crate) fn app_options(&self) -> Result<PgConnectOptions> {
        let port = self.link(APP_LINK)?.address().port();
        Ok(PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username("chaos_app")
            .password(&self.app_password)
            .database(DATABASE)
            .application_name("chaos-app")
            .ssl_mode(sqlx::postgres::PgSslMode::Disable)
            // So that a long transaction does not hold up every client.
            .options([("lock_timeout", "2000")]))
    }

    /// Connections to the source's database past all links, as its owner.
    pub(crate) fn source(&self) -> Result<PgPool> {
        Ok(PgPoolOptions::new()
            .max_connections(3)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy(&self.postgres.url_for(DATABASE))?)
    }

    /// Connections to the receivers' database, as its owner.
    pub(crate) fn receivers(&self) -> Result<PgPool> {
        Ok(PgPoolOptions::new()
            .max_connections(3)
            .connect_lazy(&self.receivers_postgres.url_for(DATABASE))?)
    }

    /// The virtual host of the run.
    pub(crate) fn vhost(&self) -> &'static str {
        DATABASE
    }

    /// Copies the logs, and what the checker read, to where they outlive the run.
    pub(crate) fn keep_logs(&self, kept: &Path) -> Result<()> {
        if kept.exists() {
            std::fs::remove_dir_all(kept)?;
        }
        std::fs::create_dir_all(kept)?;
        let logs = std::fs::read_dir(&self.folder)?.flatten().map(|entry| entry.path());
        let servers = [self.postgres.log(), self.rabbitmq.log()].map(Path::to_owned);
        for log in logs.chain(servers).filter(|path| path.extension().is_some_and(|end| end == "log")) {
            if let Some(name) = log.file_name()
                && log.is_file()
            {
                std::fs::copy(&log, kept.join(name))?;
            }
        }
        Ok(())
    }

    /// Ends every process, those that send before those that receive, then the servers.
    pub(crate) async fn clear(self) {
        const PATIENCE: Duration = Duration::from_secs(3);
        for receives in [false, true] {
            let mut ends = tokio::task::JoinSet::new();
            for (name, process) in &self.processes {
                if name.starts_with("receiver") == receives {
                    let process = Arc::clone(process);
                    ends.spawn(async move {
                        let mut process = process.lock().await;
                        // It is killed with the value in any case.
                        let _ = process.thaw();
                        let _ = process.terminate(PATIENCE).await;
                    });
                }
            }
            ends.join_all().await;
        }
        drop((self.links, self.processes));
        self.services.stop().await;
    }
}

fn http_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
    client.unwrap_or_else(|error| unreachable!("nothing is asked of the client that it lacks: {error}"))
}
