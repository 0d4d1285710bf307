//! The sample receivers of `examples/receivers`, running.

use crate::ingress::typescript::dependencies;
use postbound_testbed::packages;
use postbound_tests::{TestDatabase, eventually};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// Far above what any of it takes, a download included.
const PATIENCE: Duration = Duration::from_secs(180);
const LISTENS: &str = "listening on ";

/// A sample with its tables in a database of the test's; killed with the value.
pub(super) struct Sample {
    _process: Child,
    port: u16,
    _folder: TempDir,
}

impl Sample {
    /// The Express sample: crm-batch and webhook.
    pub(super) async fn express(database: &TestDatabase, key: &str, secret: &str) -> Self {
        if packages::program("node").is_none() || packages::program("npm").is_none() {
            ensure(&["nodejs", "npm"]).await;
        }
        let (source, folder) = (samples().join("express"), TempDir::new().unwrap());
        for file in ["package.json", "server.js", "users.js"] {
            std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
        let modules = dependencies(&source, "express").await;
        std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
        let mut node = Command::new("node");
        node.arg(folder.path().join("server.js"))
            .env("INTERNAL_API_KEY", key)
            .env("WEBHOOK_SECRETS", secret)
            .env("PORT", "0");
        Self::start(node, folder, database, include_str!("../../../../examples/receivers/express/schema.sql"))
            .await
    }

    /// The Go sample: backend-sync. Fiber itself is not to be had without a module proxy, so it is built with a stand-in
    /// that has the same signatures.
    pub(super) async fn go(database: &TestDatabase, key: &str) -> Self {
        ensure(&["golang-go", "golang-github-lib-pq-dev"]).await;
        let folder = TempDir::new().unwrap();
        let (program, main) = (folder.path().join("receiver"), folder.path().join("src/receiver"));
        let fiber = folder.path().join("src/github.com/gofiber/fiber/v2");
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets/fiber");
        for (from, to) in [(samples().join("go-fiber"), &main), (stand_in, &fiber)] {
            std::fs::create_dir_all(to).unwrap();
            for entry in std::fs::read_dir(from).unwrap() {
                let file = entry.unwrap().path();
                if file.extension().is_some_and(|extension| extension == "go") {
                    std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
                }
            }
        }
        let mut build = Command::new("/usr/bin/go");
        build
            .args(["build", "-o"])
            .args([&program, Path::new(".")])
            .current_dir(&main)
            .env("GOPATH", format!("{}:/usr/share/gocode", folder.path().display()))
            .envs([("GO111MODULE", "off"), ("GOFLAGS", ""), ("CGO_ENABLED", "0")])
            .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache"));
        let built =
            timeout(PATIENCE, build.kill_on_drop(true).output()).await.expect("it does not end").unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut receiver = Command::new(program);
        receiver.env("INTERNAL_API_KEY", key).env("ADDRESS", "127.0.0.1:0");
        Self::start(
            receiver,
            folder,
            database,
            include_str!("../../../../examples/receivers/go-fiber/schema.sql"),
        )
        .await
    }

    async fn start(
        mut command: Command,
        folder: TempDir,
        database: &TestDatabase,
        schema: &'static str,
    ) -> Self {
        sqlx::raw_sql(schema).execute(database.superuser()).await.unwrap();
        let log = folder.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        command
            .env("DATABASE_URL", database.superuser_url())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .kill_on_drop(true);
        let process = command.spawn().unwrap();
        let port = eventually("the sample listens", PATIENCE, async || {
            let said = std::fs::read_to_string(&log).unwrap();
            let line = said.lines().find_map(|line| Some(line.split_once(LISTENS)?.1))?;
            line.rsplit(':').next()?.trim().parse().ok()
        });
        Self { _process: process, port: port.await, _folder: folder }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/receivers")
}

/// Installs missing packages; that blocks for as long as it takes.
async fn ensure(names: &'static [&'static str]) {
    tokio::task::spawn_blocking(|| packages::ensure(names)).await.unwrap().unwrap();
}
