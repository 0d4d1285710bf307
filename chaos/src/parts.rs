//! How a stage is built: receivers, links, configurations, schema, processes, in that order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use postbound_testbed::{Options, Postgres, Services};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use crate::faketime::Faketime;
use crate::plan::{APP_LINK, EXTRA_WORKER, RELAYS, SERVERS, WORKERS, http_link};
use crate::process::Process;
use crate::proxy::Link;
use crate::settings::Settings;
use crate::stage::{DATABASE, LISTENING};
use crate::target::{Guards, TARGETS, Target};
use crate::wire::Observer;

/// Partitions per target: more than workers, so that each owns several.
const PARTITIONS: u16 = 6;

/// A stage that is being built.
pub(crate) struct Parts {
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) receivers_postgres: Postgres,
    pub(crate) settings: Settings,
    pub(crate) links: BTreeMap<String, Link>,
    pub(crate) processes: BTreeMap<String, Process>,
    pub(crate) observers: BTreeMap<&'static str, Arc<Observer>>,
    pub(crate) app_password: String,
    pub(crate) faketime: Faketime,
}

impl Parts {
    /// Starts what a stage is made of, on servers that run.
    pub(crate) async fn build(services: &Services, program: &Path, guards: Guards) -> Result<Self> {
        let run = services.endpoints_file().parent().context("the endpoints' file has a folder")?;
        let folder = run.join(DATABASE);
        std::fs::create_dir(&folder)?;
        // Whoever builds meanwhile must not change what a later restart starts.
        let copy = folder.join("postbound");
        std::fs::copy(program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
        let receivers = services
            .another_postgres("receivers-postgres", &Options { fsync: false, ..Options::default() })
            .await?;
        let (database_url, receivers_url, broker_url) = tokio::try_join!(
            services.postgres.create_database(DATABASE),
            receivers.create_database(DATABASE),
            services.rabbitmq.create_vhost(DATABASE)
        )?;
        let faketime = Faketime::ensure(&folder).await?;
        let mut parts = Self::new(copy, folder, receivers, faketime);
        parts.settings.guards = guards;
        parts.start_receivers(&receivers_url).await?;
        parts.link_processes(services, &database_url, &broker_url).await?;
        parts.install(services, &database_url, &broker_url).await?;
        parts.start_processes().await?;
        Ok(parts)
    }

    fn new(program: PathBuf, folder: PathBuf, receivers_postgres: Postgres, faketime: Faketime) -> Self {
        let secret = || Uuid::new_v4().simple().to_string();
        Self {
            program,
            folder,
            receivers_postgres,
            settings: Settings {
                targets: Vec::new(),
                api_key: secret(),
                guards: Guards::Versions,
                partitions: PARTITIONS,
            },
            links: BTreeMap::new(),
            processes: BTreeMap::new(),
            observers: BTreeMap::new(),
            app_password: secret(),
            faketime,
        }
    }

    async fn start_receivers(&mut self, database_url: &str) -> Result<()> {
        for target in &TARGETS {
            let Target { name, adapter, .. } = target;
            let config = self.write(&target.receiver(), &self.settings.of_receiver(target, database_url))?;
            let args = ["receiver", "--only", adapter, "--config", &config];
            let mut process = Process::new(target.receiver(), &self.program, &args, &self.folder);
            process.start()?;
            let address = process.address(LISTENING).await?;
            let observer = Arc::<Observer>::default();
            let link = Link::open(http_link(name), address, Some(Arc::clone(&observer))).await?;
            self.settings.targets.push(link.address());
            self.observers.insert(name, observer);
            self.links.insert(link.name.clone(), link);
            self.processes.insert(target.receiver(), process);
        }
        Ok(())
    }

    /// Gives every process links and a configuration of its own.
    async fn link_processes(
        &mut self,
        services: &Services,
        database_url: &str,
        broker_url: &str,
    ) -> Result<()> {
        let ports = [services.postgres.port(), services.rabbitmq.amqp_port()];
        let relays = RELAYS.iter().map(|name| (*name, "relay"));
        let workers = WORKERS.iter().chain([&EXTRA_WORKER]).map(|name| (*name, "worker"));
        for (name, role) in relays.chain(workers) {
            let mut own_ports = Vec::new();
            for (server, port) in SERVERS.iter().zip(ports) {
                let link =
                    Link::open(format!("{name}/{server}"), ([127, 0, 0, 1], port).into(), None).await?;
                own_ports.push(link.address().port());
                self.links.insert(link.name.clone(), link);
            }
            let database_url = at_port(database_url, ports[0], own_ports[0]);
            let broker_url = at_port(broker_url, ports[1], own_ports[1]);
            let text = self.settings.of_process(name, &database_url, &broker_url);
            let config = self.write(name, &text)?;
            let process = Process::new(name, &self.program, &[role, "--config", &config], &self.folder);
            let process = process.with_environment(self.faketime.environment(name)?);
            self.processes.insert(name.to_owned(), process);
        }
        let link = Link::open(APP_LINK, ([127, 0, 0, 1], ports[0]).into(), None).await?;
        self.links.insert(link.name.clone(), link);
        Ok(())
    }

    /// Schema, topology, and the application's own tables.
    async fn install(&self, services: &Services, database_url: &str, broker_url: &str) -> Result<()> {
        let config =
            self.write("operator", &self.settings.of_process("operator", database_url, broker_url))?;
        for (name, args) in [("migrate", &["migrate"][..]), ("topology", &["topology", "apply"])] {
            let args = [args, &["--config", &config]].concat();
            Process::new(name, &self.program, &args, &self.folder).run_to_end().await?;
        }
        services.rabbitmq.settle_queues().await?;
        let mut owner = PgConnection::connect(database_url).await?;
        sqlx::raw_sql(include_str!("app.sql")).execute(&mut owner).await?;
        // We drew the password ourselves: letters and digits.
        let statement = format!("alter role chaos_app password '{}'", self.app_password);
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut owner).await?;
        Ok(owner.close().await?)
    }

    async fn start_processes(&mut self) -> Result<()> {
        for (name, process) in &mut self.processes {
            if name != EXTRA_WORKER {
                process.start()?;
            }
        }
        for name in RELAYS.iter().chain(&WORKERS) {
            if let Some(process) = self.processes.get_mut(*name) {
                process.address("serving /healthz").await?;
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.join(format!("{name}.toml"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

fn at_port(url: &str, from: u16, to: u16) -> String {
    url.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}"))
}
