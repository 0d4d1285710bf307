//! The way in works through PgBouncer in transaction mode.

use super::{app_database, assert_emitted, program::Program};
use nix::unistd::Uid;
use postbound_client::{Change, unprepared};
use postbound_testbed::packages;
use postbound_tests::{Role, TestDatabase, eventually, log_entries};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use std::{
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt as _},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// PgBouncer refuses to run as root; this is nobody, as on every Debian.
const NOBODY: u32 = 65_534;

/// A pooler of the test's own, with fewer server connections than it has clients.
struct PgBouncer {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl PgBouncer {
    async fn start(database: &TestDatabase) -> Self {
        tokio::task::spawn_blocking(|| packages::ensure(&["pgbouncer"])).await.unwrap().unwrap();
        let folder = TempDir::new().unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let (config, users) = (folder.path().join("pgbouncer.ini"), folder.path().join("users.txt"));
        let (login, password) = (Role::Producer.login(), Role::Producer.password());
        std::fs::write(&users, format!("\"{login}\" \"{password}\"\n")).unwrap();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n\
             [pgbouncer]\npool_mode = transaction\ndefault_pool_size = 2\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\nignore_startup_parameters = extra_float_digits\n",
            database.postgres().port(),
            users.display()
        );
        std::fs::write(&config, settings).unwrap();
        let mut command = Command::new(packages::program("pgbouncer").unwrap());
        command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if Uid::effective().is_root() {
            for path in [folder.path(), &config, &users] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            command.uid(NOBODY).gid(NOBODY);
        }
        let bouncer = Self { process: command.spawn().unwrap(), port, _folder: folder };
        let url = bouncer.url(database);
        eventually("PgBouncer answers", Duration::from_secs(20), async || {
            PgConnection::connect(&url).await.ok()
        })
        .await;
        bouncer
    }

    fn url(&self, database: &TestDatabase) -> String {
        let (login, password) = (Role::Producer.login(), Role::Producer.password());
        format!("postgres://{login}:{password}@127.0.0.1:{}/{}?sslmode=disable", self.port, database.name())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[tokio::test]
async fn the_examples_run_through_pgbouncer_in_transaction_mode() {
    let database = app_database().await;
    let bouncer = PgBouncer::start(&database).await;
    let url = bouncer.url(&database);
    let programs = [
        ("psql", Program::psql().await),
        ("node", Program::node().await),
        ("python", Program::python().await),
        ("go", Program::go().await),
    ];
    for version in 1..=3 {
        let runs = programs.iter().map(async |(user, program)| {
            let printed = program.run(&url, user, "Ada").await.unwrap();
            (*user, printed)
        });
        for (user, printed) in futures_util::future::join_all(runs).await {
            assert_emitted(&database, &printed, (user, "Ada"), version).await;
        }
    }
}

#[tokio::test]
async fn many_clients_on_few_server_connections_keep_their_transactions_apart() {
    const CLIENTS: usize = 10;
    const ROUNDS: usize = 20;
    let database = TestDatabase::new().await;
    let bouncer = PgBouncer::start(&database).await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let url = bouncer.url(&database);
            tokio::spawn(async move {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                let own = format!("own-{client}");
                for round in 0..ROUNDS {
                    let mut tx = connection.begin().await.unwrap();
                    let version = unprepared::lock_user(&mut tx, "t", "hot").await.unwrap();
                    let hot = Change::updated("t", "hot").data(&json!({"n": version + 1})).unwrap();
                    assert_eq!(unprepared::emit(&mut tx, &hot).await.unwrap().version, version + 1);
                    let both = [Change::updated("t", &own), Change::updated("t", &own)];
                    let emitted = unprepared::emit_many(&mut tx, &both).await.unwrap();
                    assert_eq!(emitted[1].version, 2 * i64::try_from(round).unwrap() + 2);
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let log = log_entries(database.superuser()).await;
    assert_eq!(log.len(), 3 * CLIENTS * ROUNDS);
    assert!(
        log.iter()
            .filter(|entry| entry.user_id == "hot")
            .all(|entry| entry.data == json!({"n": entry.version}))
    );
}
