use crate::{
    Oracle, Process, Role, TestDatabase, TestTarget, Vhost, eventually,
    options::{Options, variables},
};
use postbound_receiver::Contract;
use postbound_store::{Store, TargetCounts};
use postbound_testbed::{Endpoints, RabbitMq};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::Output,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    process::Command,
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Installations at once: each is a handful of processes and some fifty connections.
static ROOM: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(6)));

/// Time for everything to arrive. A bound for tests that fail, no claim.
const PATIENCE: Duration = Duration::from_secs(180);

/// A whole Postbound of one test's own: database, virtual host, configuration, both targets. Its processes are started
/// by the test. All of it goes with the value.
pub struct Installation {
    /// The target `backend` (one user per request).
    pub backend: TestTarget,
    /// The target `crm` (many users per request).
    pub crm: TestTarget,
    /// Its part of RabbitMQ.
    pub vhost: Vhost,
    /// Its database.
    pub database: TestDatabase,
    /// A client for everything that speaks HTTP.
    pub http: reqwest::Client,
    /// Where the receivers keep what they took, if not in its database.
    receivers: Option<TestDatabase>,
    options: Options,
    folder: TempDir,
    processes: AtomicUsize,
    _room: OwnedSemaphorePermit,
}

/// A dead letter in the archive.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Letter {
    /// Its id.
    pub letter_id: i64,
    /// The user; "" where nobody can tell.
    pub user_id: String,
    /// Version of the state; 0 where nobody can tell.
    pub version: i64,
    /// Why it died.
    pub reason: String,
    /// Class of the failure.
    pub class: String,
    /// HTTP status of the last answer.
    pub status: Option<i32>,
    /// Attempts that failed.
    pub attempts: i32,
    /// Whether somebody has to do something about it.
    pub is_open: bool,
}

impl Installation {
    /// Sets it up, topology included.
    ///
    /// # Panics
    /// When the servers are not there, or the topology cannot be applied.
    pub async fn start(options: Options) -> Self {
        let installation = Self::configure(options).await;
        installation.apply_topology().await;
        installation
    }

    /// Sets it up but for the topology.
    ///
    /// # Panics
    /// When the servers are not there.
    pub async fn configure(options: Options) -> Self {
        let rabbitmq = Endpoints::from_env().unwrap().rabbitmq;
        Self::set_up(options, TestDatabase::new().await, rabbitmq, None).await
    }

    /// Sets it up on servers of the test's own, which it may break; topology included. The receivers' database is on the
    /// server all tests share: what becomes of the other one is none of their business.
    ///
    /// # Panics
    /// When the servers are not there, or the topology cannot be applied.
    pub async fn start_on(endpoints: &Endpoints, options: Options) -> Self {
        let (database, receivers) = tokio::join!(TestDatabase::on(&endpoints.postgres), TestDatabase::new());
        let installation = Self::set_up(options, database, endpoints.rabbitmq.clone(), Some(receivers)).await;
        installation.apply_topology().await;
        installation
    }

    async fn set_up(
        options: Options,
        database: TestDatabase,
        rabbitmq: RabbitMq,
        receivers: Option<TestDatabase>,
    ) -> Self {
        let room = Arc::clone(&ROOM).acquire_owned().await.unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let vhost = Vhost::new(rabbitmq).await;
        let url = receivers.as_ref().unwrap_or(&database).superuser_url();
        let backend = TestTarget::start(url.clone(), Contract::S2, options.mode, &http).await;
        let crm = TestTarget::start(url, Contract::S3, options.mode, &http).await;
        let folder = tempfile::tempdir().unwrap();
        let toml = options.toml(&database, vhost.url(), [backend.address(), crm.address()]);
        std::fs::write(folder.path().join("postbound.toml"), toml).unwrap();
        let processes = AtomicUsize::new(0);
        Self { backend, crm, vhost, database, http, receivers, options, folder, processes, _room: room }
    }

    /// The database of the receivers.
    #[must_use]
    pub fn receivers(&self) -> &TestDatabase {
        self.receivers.as_ref().unwrap_or(&self.database)
    }

    /// How it was set up.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// A file or folder of its own.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Ends all workers' leases, so that nobody waits for a dead one's to run out.
    ///
    /// # Panics
    /// When Postgres cannot be asked.
    pub async fn end_leases(&self) {
        sqlx::query("update postbound.worker set expires_at = now()")
            .execute(self.database.superuser())
            .await
            .unwrap();
    }

    /// Starts a relay.
    #[must_use]
    pub fn relay(&self) -> Process {
        self.spawn(Role::Relay, &["relay"], &[])
    }

    /// Starts a worker of these targets; of all where none is named.
    #[must_use]
    pub fn worker(&self, targets: &[&str]) -> Process {
        let args: Vec<_> =
            std::iter::once("worker").chain(targets.iter().flat_map(|target| ["--target", target])).collect();
        self.spawn(Role::Worker, &args, &[])
    }

    /// Starts a process with settings of its own.
    #[must_use]
    pub fn spawn(&self, role: Role, args: &[&str], settings: &[(&str, &str)]) -> Process {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let mut command = self.command(role, args);
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        command.envs(variables(&settings));
        let log = self.path(&format!("{number}-{}.log", args[0]));
        Process::spawn(command, &log, &self.http)
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started, or does not end.
    pub async fn run(&self, role: Role, args: &[&str]) -> Output {
        self.run_with(role, args, &[]).await
    }

    /// Runs a command with settings of its own to its end.
    ///
    /// # Panics
    /// When it cannot be started, or does not end.
    pub async fn run_with(&self, role: Role, args: &[&str], settings: &[(&str, &str)]) -> Output {
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut command = self.command(role, args);
        let running = command.envs(variables(&settings)).kill_on_drop(true).output();
        tokio::time::timeout(PATIENCE, running).await.expect("it does not end").unwrap()
    }

    /// Registers the targets and declares the queues; gives what it says.
    ///
    /// # Panics
    /// When it fails.
    pub async fn apply_topology(&self) -> String {
        let output = self.run(Role::Operator, &["topology", "apply"]).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Dead letters of a target that are in the archive, by age.
    ///
    /// # Panics
    /// When Postgres cannot be asked.
    pub async fn letters(&self, target: &str) -> Vec<Letter> {
        sqlx::query_as(
            "select d.letter_id, coalesce(d.user_id, '') as user_id, coalesce(d.version, 0) as version, d.reason, d.class,
                    d.status, d.attempts, o.letter_id is not null as is_open
             from postbound.dead_letter as d left join postbound.open_dead_letter as o using (letter_id)
             where d.target = $1 order by d.letter_id",
        )
        .bind(target)
        .fetch_all(self.database.superuser())
        .await
        .unwrap()
    }

    /// What `postbound status --json` answers.
    ///
    /// # Panics
    /// When it fails.
    pub async fn status(&self) -> Value {
        let output = self.run(Role::Viewer, &["status", "--json"]).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The store, as an operator has it.
    #[must_use]
    pub fn store(&self) -> Store {
        self.database.store(Role::Operator)
    }

    /// What the receivers saw.
    #[must_use]
    pub fn oracle(&self) -> Oracle<'_> {
        Oracle::new(self.database.superuser(), self.options.mode)
    }

    /// Waits until nothing is on its way to these targets, nor to `user_state`. Dead letters are not waited for.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until_settled(&self, targets: &[&str]) {
        let store = self.store();
        let of_targets = |counts: &&TargetCounts| targets.contains(&counts.target.as_str());
        eventually(&format!("{targets:?} are up to date"), PATIENCE, async || {
            let counts = store.target_counts().await.unwrap();
            let on_its_way: i64 = counts.iter().filter(of_targets).map(|counts| counts.pending).sum();
            let lags = store.stream_lags().await.unwrap();
            let projected = lags.iter().all(|lag| lag.stream != "user_state" || lag.rows == 0);
            (on_its_way == 0 && projected).then_some(())
        })
        .await;
    }

    /// Waits until no target's past partitions hold anything any more.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until_drained(&self) {
        let store = self.store();
        eventually("the generation before is drained", PATIENCE, async || {
            store.draining_targets().await.unwrap().is_empty().then_some(())
        })
        .await;
    }

    /// Waits until both targets have everything, and holds what they saw against all that was promised.
    ///
    /// # Panics
    /// When that takes too long, or a promise is broken.
    pub async fn assert_converged(&self) {
        self.until_settled(&["backend", "crm"]).await;
        self.oracle().assert_sound().await;
        self.assert_converged_though_late().await;
    }

    /// The same where a sender may have been frozen with a request in its hands: what arrives late is refused.
    ///
    /// # Panics
    /// When that takes too long, or a promise is broken.
    pub async fn assert_converged_though_late(&self) {
        self.until_settled(&["backend", "crm"]).await;
        let oracle = self.oracle();
        oracle.assert_sound_though_late().await;
        for contract in ["s2", "s3"] {
            oracle.assert_equal_to_source(contract).await;
        }
        oracle.assert_user_state_is_newest().await;
        if !self.options.coalesce {
            for contract in ["s2", "s3"] {
                oracle.assert_no_gap(contract).await;
            }
        }
    }

    /// Everything its processes have logged so far.
    ///
    /// # Panics
    /// When a log cannot be read.
    #[must_use]
    pub fn logs(&self) -> Vec<(String, String)> {
        let files = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
    }

    /// No process had anything to warn of but the machine's slowness.
    ///
    /// # Panics
    /// When one had.
    pub fn assert_no_complaints(&self) {
        for (file, log) in self.logs() {
            let is_slowness = |line: &str| {
                line.contains(r#""level":"WARN""#) && line.contains("no answer from Postgres within")
            };
            let is_complaint = |line: &&str| !line.contains(r#""level":"INFO""#) && !is_slowness(line);
            let complaint = log.lines().find(is_complaint);
            assert_eq!(complaint, None, "in {file}");
        }
    }

    fn command(&self, role: Role, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("POSTBOUND_DATABASE__URL", self.database.url(role))
            .envs(variables(&self.options.settings));
        command
    }
}

impl Drop for Installation {
    #[expect(
        clippy::print_stderr,
        reason = "a test that fails has to say what its processes had to complain of"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (file, log) in self.logs() {
                let complaints = log.lines().filter(|line| !line.contains(r#""level":"INFO""#));
                let complaints: Vec<_> = complaints.collect();
                let newest = complaints.len().saturating_sub(40);
                eprintln!("{file}:\n{}", complaints[newest..].join("\n"));
            }
        }
    }
}

/// The program under test, as `cargo xtask test` built it.
fn binary() -> PathBuf {
    let built = || concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/postbound").into();
    std::env::var_os("POSTBOUND_BIN").map_or_else(built, PathBuf::from)
}
