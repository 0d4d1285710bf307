//! What a whole run shares: the servers, the receiver, the options.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use postbound_testbed::Endpoints;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::installation::path_text;
use crate::process::Process;
use crate::receiver::handle::Receiver;
use crate::report::Bound;
use crate::statements;
use crate::usage::{Role, Usage};

/// What a run is to do.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The program under test.
    pub(crate) postbound: PathBuf,
    /// An earlier build of it, which then takes the bare loop's place.
    pub(crate) before: Option<PathBuf>,
    /// Pairs per measurement.
    pub(crate) repeats: u32,
    /// Worker processes.
    pub(crate) workers: usize,
    /// How large everything is.
    pub(crate) size: Size,
    /// Minutes the sibling is dead.
    pub(crate) sibling_minutes: f64,
    /// Whether workers log every delivery.
    pub(crate) log_deliveries: bool,
    /// Whether to say where Postgres' time goes.
    pub(crate) statements: bool,
}

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// As the figures in the docs.
    Full,
    /// A tenth: whether something has changed for the worse.
    Quick,
    /// A thousandth: whether the bench works.
    Smoke,
}

impl Size {
    /// So many of what a full run has.
    pub(crate) fn of(self, full: u32) -> u32 {
        match self {
            Self::Full => full,
            Self::Quick => (full / 10).max(1),
            Self::Smoke => (full / 200).max(1),
        }
    }

    /// So long, of what a full run takes.
    pub(crate) fn time(self, full: Duration) -> Duration {
        match self {
            Self::Full => full,
            Self::Quick => full / 4,
            Self::Smoke => full / 20,
        }
    }
}

/// Servers, receiver and options of a run.
pub(crate) struct Site {
    /// The servers.
    pub(crate) endpoints: Endpoints,
    /// The receiver, the same for all.
    pub(crate) receiver: Receiver,
    /// What to do.
    pub(crate) options: Options,
    /// Logs and configurations.
    pub(crate) folder: PathBuf,
    /// For metrics.
    pub(crate) http: reqwest::Client,
    run: String,
    names: u32,
    templates: HashMap<PathBuf, String>,
    /// Changes a second of a live stream, once measured.
    pub(crate) live_rate: Option<f64>,
}

impl Site {
    /// Starts the receiver.
    pub(crate) async fn open(endpoints: Endpoints, options: Options, folder: PathBuf) -> Result<Self> {
        let receiver = Receiver::start(&folder).await?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .timeout(Duration::from_secs(10))
            .build()
            .context("no HTTP client")?;
        let run = Uuid::new_v4().simple().to_string()[..8].to_owned();
        Ok(Self {
            endpoints,
            receiver,
            options,
            folder,
            http,
            run,
            names: 0,
            templates: HashMap::new(),
            live_rate: None,
        })
    }

    /// A name for a database, a virtual host and a folder.
    pub(crate) fn new_name(&mut self) -> String {
        self.names += 1;
        format!("bench_{}_{}", self.run, self.names)
    }

    /// A database to copy, migrated by the program as it is now; made when first asked for.
    pub(crate) async fn template(&mut self) -> Result<String> {
        let program = self.options.postbound.clone();
        if let Some(template) = self.templates.get(&program) {
            return Ok(template.clone());
        }
        let name = format!("bench_{}_template_{}", self.run, self.templates.len());
        let url = self.endpoints.postgres.create_database(&name).await?;
        let config = self.folder.join("migrate.toml");
        let toml = format!("[database]\nurl = \"{url}\"\n[broker]\nurl = \"amqp://127.0.0.1/none\"\n");
        std::fs::write(&config, toml)?;
        let args = ["migrate", "--config", path_text(&config)];
        Process::run(&program, &args, &self.folder, "migrate").await?;
        if self.options.statements {
            statements::prepare(&url).await?;
        }
        self.templates.insert(program, name.clone());
        Ok(name)
    }

    /// Measures the other side of a pair: `bare`, or `same` with the earlier program where one was given.
    pub(crate) async fn opponent<T>(
        &mut self,
        same: impl AsyncFnOnce(&mut Self) -> Result<T>,
        bare: impl AsyncFnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let Some(before) = self.options.before.clone() else { return bare(self).await };
        let now = std::mem::replace(&mut self.options.postbound, before);
        let measured = same(self).await;
        self.options.postbound = now;
        measured
    }

    /// What the other side of a pair is called.
    pub(crate) fn opponent_name(&self, bare: &str) -> String {
        if self.options.before.is_some() { "before".to_owned() } else { bare.to_owned() }
    }

    /// A goal of the issue's, which speaks of the bare loop only.
    pub(crate) fn goal(&self, bound: Bound) -> Option<Bound> {
        Some(bound).filter(|_| self.options.before.is_none())
    }

    /// The servers and the receiver, and this program as the clients.
    pub(crate) fn roles(&self) -> Vec<Role> {
        let role = |name: &str, pid, with_children| Role { name: name.to_owned(), pid, with_children };
        let Endpoints { postgres, rabbitmq, .. } = &self.endpoints;
        vec![
            role("postgres", postgres.pid().unwrap_or_default(), true),
            role("rabbitmq", rabbitmq.pid().unwrap_or_default(), false),
            role("receiver", self.receiver.pid(), false),
            role("clients", std::process::id().cast_signed(), false),
        ]
    }

    /// CPU used so far by the servers, the receiver, this program and these.
    pub(crate) fn usage<'a>(&self, more: impl IntoIterator<Item = &'a Process>) -> Usage {
        let mut roles = self.roles();
        roles.extend(more.into_iter().map(Process::role));
        Usage::of(&roles)
    }

    /// Has PostgreSQL write down what it owes, so that no measurement pays for the one before; and forget
    /// the statements so far.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let mut connection = PgConnection::connect(&self.endpoints.postgres.superuser_url()).await?;
        sqlx::raw_sql("checkpoint").execute(&mut connection).await?;
        if self.options.statements {
            statements::forget(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }

    /// Drops what is shared.
    pub(crate) async fn close(self) -> Result<()> {
        for template in self.templates.values() {
            self.endpoints.postgres.drop_database(template).await?;
        }
        Ok(())
    }
}
