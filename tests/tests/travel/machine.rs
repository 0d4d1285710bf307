use postbound_testbed::{Options, Postgres, Services};
use postbound_tests::{Installation, Options as Settings};
use sqlx::Connection as _;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Servers of one test's own, whose Postgres can go back to an earlier moment.
pub(crate) struct TimeMachine {
    pub(crate) services: Services,
}

impl TimeMachine {
    pub(crate) async fn start() -> Self {
        Self { services: Services::start(Options::default()).await.unwrap() }
    }

    pub(crate) async fn installation(&self, options: Settings) -> Installation {
        Installation::start_on(&self.services.endpoints(), options).await
    }

    pub(crate) fn postgres(&self) -> &Postgres {
        &self.services.postgres
    }

    /// Remembers this moment, as a copy of the disk does: the server goes down for it.
    pub(crate) async fn remember(&self) {
        self.postgres().kill_9().unwrap();
        shell("cp", &["-a", path(&data(self.postgres())), path(&remembered(self.postgres()))]);
        self.postgres().start_again().await.unwrap();
    }

    /// Goes back to that moment. What has happened since is gone.
    pub(crate) async fn go_back(&self) {
        self.postgres().kill_9().unwrap();
        self.swap_in(&remembered(self.postgres()));
        self.postgres().start_again().await.unwrap();
    }

    /// The same, as a replica that had got no further and is promoted.
    pub(crate) async fn promote_what_is_remembered(&self) {
        self.postgres().kill_9().unwrap();
        self.swap_in(&remembered(self.postgres()));
        std::fs::write(data(self.postgres()).join("standby.signal"), "").unwrap();
        self.postgres().start_again().await.unwrap();
        let mut connection = sqlx::PgConnection::connect(&self.postgres().superuser_url()).await.unwrap();
        let promoted: bool =
            sqlx::query_scalar("select pg_promote(true, 60)").fetch_one(&mut connection).await.unwrap();
        assert!(promoted);
    }

    /// A new cluster, with a dump of this one restored into it, takes its place.
    pub(crate) async fn restore_into_a_new_cluster(&self, dump: &Path) {
        let other = self.services.another_postgres("other", &Options::default()).await.unwrap();
        let mut connection = sqlx::PgConnection::connect(&other.superuser_url()).await.unwrap();
        let password = format!("alter role postgres password '{}'", self.postgres().password());
        sqlx::raw_sql(sqlx::AssertSqlSafe(password)).execute(&mut connection).await.unwrap();
        let restored = tools(&other, "psql", self.postgres().password())
            .args(["-p", &other.port().to_string(), "-q", "-d", "postgres", "-f", path(dump)])
            .output()
            .unwrap();
        assert!(restored.status.success(), "{restored:?}");
        self.postgres().kill_9().unwrap();
        other.kill_9().unwrap();
        self.swap_in(&data(&other));
        self.postgres().start_again().await.unwrap();
    }

    /// Dumps everything; gives the file.
    pub(crate) fn dump(&self) -> PathBuf {
        let file = data(self.postgres()).with_file_name("dump.sql");
        let dumped = tools(self.postgres(), "pg_dumpall", self.postgres().password())
            .args(["-p", &self.postgres().port().to_string(), "-f", path(&file)])
            .output()
            .unwrap();
        assert!(dumped.status.success(), "{dumped:?}");
        file
    }

    fn swap_in(&self, folder: &Path) {
        let data = data(self.postgres());
        std::fs::rename(&data, data.with_file_name("lost")).unwrap();
        std::fs::rename(folder, &data).unwrap();
    }
}

fn tools(postgres: &Postgres, program: &str, password: &str) -> Command {
    let mut command = Command::new(postgres.bin_folder().join(program));
    command.env("PGPASSWORD", password).args(["-h", "127.0.0.1", "-U", "postgres"]);
    command
}

fn data(postgres: &Postgres) -> PathBuf {
    postgres.log().with_file_name("data")
}

fn remembered(postgres: &Postgres) -> PathBuf {
    data(postgres).with_file_name("remembered")
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn shell(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}
