//! Both servers of one run, and their owner.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::launch::Account;
use crate::packages::Packages;
use crate::run_dir::RunDir;
use crate::{Authority, Endpoints, Postgres, RabbitMq, postgres_server, rabbitmq_server};

/// How the servers are to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether PostgreSQL waits for the disk at a commit. On by default: durability is what the tests are about.
    pub fsync: bool,
    /// More PostgreSQL settings, by name; they win over those of the testbed.
    pub postgres_settings: Vec<(String, String)>,
    /// How long each server may take to answer.
    pub ready_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { fsync: true, postgres_settings: Vec::new(), ready_within: Duration::from_secs(120) }
    }
}

/// Owns a PostgreSQL and a RabbitMQ: dropped, it ends them and removes their data.
///
/// A process that may be ended by a signal has to catch it and drop this. What an owner leaves behind that was killed
/// is removed at the next start in the same checkout.
#[derive(Debug)]
pub struct Services {
    /// The PostgreSQL server.
    pub postgres: Postgres,
    /// The RabbitMQ server.
    pub rabbitmq: RabbitMq,
    authority: Authority,
    endpoints_file: PathBuf,
    run: RunDir,
}

impl Services {
    /// Installs what is missing, starts both servers and waits until they answer.
    ///
    /// # Errors
    /// If a package cannot be installed or a server does not come up: then with the end of its log.
    pub async fn start(options: Options) -> Result<Self> {
        let (packages, run) = tokio::task::spawn_blocking(|| {
            let packages = Packages::ensure()?;
            let run = RunDir::create(Account::instead_of_root("postgres")?)?;
            anyhow::Ok((packages, run))
        })
        .await??;
        let authority = Authority::new(run.name())?;
        let (postgres, rabbitmq) = tokio::try_join!(
            async {
                postgres_server::start(&packages, &run, "postgres", &authority, &options)
                    .await
                    .context("cannot start PostgreSQL")
            },
            async {
                rabbitmq_server::start(&packages, &run, &authority, &options)
                    .await
                    .context("cannot start RabbitMQ")
            },
        )?;
        let endpoints_file = run.path().join("endpoints.json");
        let services = Self { postgres, rabbitmq, authority, endpoints_file, run };
        services.endpoints().write(&services.endpoints_file)?;
        Ok(services)
    }

    /// Starts one more PostgreSQL, with its data in the folder `name` of the run's. It ends with these services.
    ///
    /// # Errors
    /// If the name is taken, or the server does not come up: then with the end of its log.
    pub async fn another_postgres(&self, name: &str, options: &Options) -> Result<Postgres> {
        let packages = tokio::task::spawn_blocking(Packages::ensure).await??;
        postgres_server::start(&packages, &self.run, name, &self.authority, options)
            .await
            .with_context(|| format!("cannot start PostgreSQL {name}"))
    }

    /// What other processes need to use the servers.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        Endpoints {
            postgres: self.postgres.clone(),
            rabbitmq: self.rabbitmq.clone(),
            authority: self.authority.clone(),
        }
    }

    /// The file that holds [`Self::endpoints`], for [`crate::ENDPOINTS_VARIABLE`].
    #[must_use]
    pub fn endpoints_file(&self) -> &Path {
        &self.endpoints_file
    }

    /// Ends the servers and removes their data, as dropping does, without blocking the caller's runtime.
    pub async fn stop(self) {
        // A panic in a drop has been reported already.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}
