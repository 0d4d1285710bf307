//! The adapters that take any endpoint (`webhook`) and start workflows (`workflow-trigger`), over real processes.

mod filters;
mod guard;
mod hook;
mod notices;
mod receiver_check;
mod signatures;
mod template;
mod workflow;

use postbound_tests::{Installation, Options, Process, Role};
use sqlx::AssertSqlSafe;
use std::io::Write as _;
use std::time::Duration;

/// A bound for what takes moments on an idle machine, no claim.
const SOON: Duration = Duration::from_secs(180);

/// Pauses between tries that are short, whatever fails.
const HURRIED: &str = "retry.delays = [\"20ms\"]\nretry.schedule = [\"50ms\"]\nbreaker.pause_min = \"50ms\"\n\
                       breaker.pause_max = \"100ms\"\n";

/// An installation with another target, whose settings these are; its processes run.
struct Town {
    installation: Installation,
    relay: Process,
    worker: Process,
}

impl Town {
    /// `settings` are made for the installation, whose receivers have their addresses by then.
    async fn start(name: &str, settings: impl FnOnce(&Installation) -> String) -> Self {
        let installation = Installation::configure(Options::default().partitions(2)).await;
        let toml = format!("\n[targets.{name}]\n{}", settings(&installation));
        let path = installation.path("postbound.toml");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(toml.as_bytes()).unwrap();
        installation.apply_topology().await;
        let (relay, worker) = (installation.relay(), installation.worker(&[]));
        Self { installation, relay, worker }
    }

    /// A user of a tenant changes.
    async fn emit(&self, tenant: &str, user: &str, action: &str, data: &str) {
        let mut producer = self.installation.database.connect(Role::Producer).await;
        sqlx::query(
            "insert into postbound.outbox (tenant_id, user_id, action, data) values ($1, $2, $3, $4::jsonb)",
        )
        .bind(tenant)
        .bind(user)
        .bind(action)
        .bind(data)
        .execute(&mut producer)
        .await
        .unwrap();
    }

    /// The first column of one row of the database, as text.
    async fn ask(&self, sql: &str) -> String {
        let database = self.installation.database.superuser();
        sqlx::query_scalar(AssertSqlSafe(format!("select ({sql})::text"))).fetch_one(database).await.unwrap()
    }
}
