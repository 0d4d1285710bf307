use postbound_testbed::{Endpoints, packages};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

/// Far above what any of them takes, a download included.
const PATIENCE: Duration = Duration::from_secs(180);

/// An example made ready to run.
pub(super) struct Program {
    command: Vec<OsString>,
    /// What stands between the command and the user's id and name.
    by_variables: bool,
    /// Where it was built or installed; goes with the program.
    _folder: Option<TempDir>,
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Installs missing packages; that blocks for as long as it takes.
async fn ensure(names: &'static [&'static str]) {
    tokio::task::spawn_blocking(|| packages::ensure(names)).await.unwrap().unwrap();
}

/// Runs a command to its end; gives its output, or what it said when it failed.
async fn output(mut command: Command) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it does not end").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(format!("{command:?}: {}: {said}", output.status)),
    }
}

impl Program {
    fn new(command: impl IntoIterator<Item = OsString>) -> Self {
        Self { command: command.into_iter().collect(), by_variables: false, _folder: None }
    }

    pub(super) async fn psql() -> Self {
        let psql = Endpoints::from_env().unwrap().postgres.bin_folder().join("psql");
        let script = examples().join("psql/emit.sql");
        let flags = ["--no-psqlrc", "--quiet", "--file"].map(OsString::from);
        let mut program = Self::new([psql.into()].into_iter().chain(flags).chain([script.into()]));
        program.by_variables = true;
        program
    }

    pub(super) async fn rust() -> Self {
        Self::new([env!("CARGO_BIN_EXE_example-emit").into()])
    }

    pub(super) async fn node() -> Self {
        if packages::program("node").is_none() || packages::program("npm").is_none() {
            ensure(&["nodejs", "npm"]).await;
        }
        let folder = TempDir::new().unwrap();
        for file in ["package.json", "package-lock.json", "emit.js"] {
            std::fs::copy(examples().join("node").join(file), folder.path().join(file)).unwrap();
        }
        let mut install = Command::new("npm");
        install.args(["ci", "--no-audit", "--no-fund"]).current_dir(folder.path());
        output(install).await.unwrap();
        let script = folder.path().join("emit.js");
        Self { _folder: Some(folder), ..Self::new(["node".into(), script.into()]) }
    }

    pub(super) async fn python() -> Self {
        ensure(&["python3", "python3-psycopg"]).await;
        // Debian's own: another python3 in PATH does not see Debian's packages.
        Self::new(["/usr/bin/python3".into(), examples().join("python/emit.py").into()])
    }

    pub(super) async fn go() -> Self {
        ensure(&["golang-go", "golang-github-lib-pq-dev"]).await;
        let folder = TempDir::new().unwrap();
        let program = folder.path().join("emit");
        let mut build = Command::new("/usr/bin/go");
        build
            .args(["build", "-o"])
            .arg(&program)
            .arg(examples().join("go/emit.go"))
            .envs([
                ("GO111MODULE", "off"),
                ("GOPATH", "/usr/share/gocode"),
                ("GOFLAGS", ""),
                ("CGO_ENABLED", "0"),
            ])
            .env("GOCACHE", folder.path().join("cache"));
        output(build).await.unwrap();
        Self { _folder: Some(folder), ..Self::new([program.into()]) }
    }

    /// Runs it for a user; gives what it printed, or what it said when it failed.
    pub(super) async fn run(&self, url: &str, user: &str, name: &str) -> Result<String, String> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env("DATABASE_URL", url);
        match self.by_variables {
            true => command.args([
                "-v",
                &format!("user_id={user}"),
                "-v",
                &format!("name={name}"),
                "--dbname",
                url,
            ]),
            false => command.args([user, name]),
        };
        output(command).await
    }
}
