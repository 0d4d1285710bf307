//! A running PostgreSQL: its URLs, databases and crashes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use crate::launch::Launch;
use crate::processes;

/// A private PostgreSQL server on loopback.
///
/// Every role needs its password (scram-sha-256); the superuser is `postgres`. The server speaks TLS where it is asked to:
/// the URLs given here do not ask. Members of the role [`Self::CERTIFIED`], once there is one, need TLS and a client
/// certificate in their name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Postgres {
    pub(crate) port: u16,
    pub(crate) password: String,
    pub(crate) socket_folder: PathBuf,
    pub(crate) data_folder: PathBuf,
    pub(crate) bin_folder: PathBuf,
    pub(crate) ready_within: Duration,
    pub(crate) launch: Launch,
}

impl Postgres {
    /// The group role whose members need a client certificate.
    pub const CERTIFIED: &str = "testbed_certified";

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The folder of the Unix socket.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        &self.socket_folder
    }

    /// The folder of this version's programs, such as `psql` and `pgbench`.
    #[must_use]
    pub fn bin_folder(&self) -> &Path {
        &self.bin_folder
    }

    /// The server's log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// A database's URL, as superuser.
    #[must_use]
    pub fn url_for(&self, database: &str) -> String {
        self.url_as("postgres", &self.password, database)
    }

    /// A database's URL for another role, without TLS; none of the parts may need escaping.
    #[must_use]
    pub fn url_as(&self, role: &str, password: &str, database: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The URL of the maintenance database `postgres`, as superuser.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        self.url_for("postgres")
    }

    /// Creates an empty database and returns its URL.
    ///
    /// # Errors
    /// If it exists or the server does not answer.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        self.create_database_from_template(name, "template0").await
    }

    /// Creates a copy of the database `template`, to which nobody may be connected, and returns its URL.
    ///
    /// # Errors
    /// If it exists, the template stays in use for some seconds, or the server does not answer.
    pub async fn create_database_from_template(&self, name: &str, template: &str) -> Result<String> {
        const OBJECT_IN_USE: &str = "55006";
        let statement = format!("create database {} template {}", quoted(name), quoted(template));
        let give_up = Instant::now() + Duration::from_secs(5);
        // A session that has just closed the template may still be on its way out.
        loop {
            match self.execute(&statement).await {
                Ok(()) => return Ok(self.url_for(name)),
                Err(sqlx::Error::Database(error))
                    if error.code().as_deref() == Some(OBJECT_IN_USE) && Instant::now() < give_up =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error).with_context(|| format!("cannot create database {name}")),
            }
        }
    }

    /// Drops a database and whatever sessions it has, if it exists.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        let statement = format!("drop database if exists {} with (force)", quoted(name));
        self.execute(&statement).await.with_context(|| format!("cannot drop database {name}"))
    }

    /// The postmaster's process id, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        let file = std::fs::read_to_string(self.pid_file()).ok()?;
        let pid = Pid::from_raw(file.lines().next()?.trim().parse().ok()?);
        processes::of(&self.launch.folder).iter().any(|member| member.pid == pid).then(|| pid.as_raw())
    }

    /// Kills every process of the server with SIGKILL, and returns when they are gone.
    ///
    /// # Errors
    /// If they do not end.
    pub fn kill_9(&self) -> Result<()> {
        processes::kill_all(&self.launch.folder)
    }

    /// Stops every process of the server where it stands: connections stay open and nothing answers.
    pub fn freeze(&self) {
        processes::freeze(&self.launch.folder, true);
    }

    /// Undoes [`Self::freeze`].
    pub fn thaw(&self) {
        processes::freeze(&self.launch.folder, false);
    }

    /// Starts the server again on the same port and data after [`Self::kill_9`], and waits until it answers.
    ///
    /// # Errors
    /// If it still runs, or does not come up: then with the end of its log.
    pub async fn start_again(&self) -> Result<()> {
        ensure!(processes::of(&self.launch.folder).is_empty(), "PostgreSQL still runs");
        // A killed postmaster is a zombie until its parent looks, and for PostgreSQL a zombie's lock files still count.
        for file in [self.pid_file(), self.socket_folder.join(format!(".s.PGSQL.{}.lock", self.port))] {
            if let Err(error) = std::fs::remove_file(&file) {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                ensure!(missing, "cannot remove {}: {error}", file.display());
            }
        }
        self.start().await
    }

    /// Starts the server and waits until it answers.
    pub(crate) async fn start(&self) -> Result<()> {
        let pid = self.launch.spawn()?;
        let deadline = Instant::now() + self.ready_within;
        loop {
            // Whoever else took the port may accept and never answer.
            let error = match tokio::time::timeout(Duration::from_secs(2), self.connect()).await {
                Ok(Ok(connection)) => {
                    connection.close().await?;
                    return Ok(());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if !processes::is_alive(pid) {
                bail!("PostgreSQL ended while starting; its log ends:\n{}", self.launch.log_tail());
            }
            if Instant::now() >= deadline {
                bail!("PostgreSQL is not ready in time ({error}); its log ends:\n{}", self.launch.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn execute(&self, statement: &str) -> sqlx::Result<()> {
        let mut connection = self.connect().await?;
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await
    }

    async fn connect(&self) -> sqlx::Result<sqlx::PgConnection> {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username("postgres")
            .password(&self.password)
            .database("postgres")
            .ssl_mode(sqlx::postgres::PgSslMode::Disable)
            .connect()
            .await
    }

    fn pid_file(&self) -> PathBuf {
        self.data_folder.join("postmaster.pid")
    }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
