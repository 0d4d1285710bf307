use crate::{Role, TestDatabase};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sqlx::{AssertSqlSafe, PgConnection};
use std::{fmt::Write as _, process::Stdio};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// A producer that is nothing but `psql`: many clients at once, a few users that all of them change, a tenth of the
/// transactions rolled back.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// Sessions at once.
    pub clients: u64,
    /// Transactions of each, of one to three changes.
    pub transactions: u32,
    /// Users they change.
    pub users: u32,
    /// Whether a delete says no more than who is gone.
    pub bare_deletes: bool,
}

impl Crowd {
    /// Runs all clients to their end.
    ///
    /// # Panics
    /// When `psql` fails for another reason than a refused change.
    pub async fn run(&self, database: &TestDatabase) {
        let clients = (0..self.clients).map(|seed| run_psql(database, self.script(seed)));
        futures_util::future::join_all(clients).await;
    }

    fn script(&self, seed: u64) -> String {
        let mut random = StdRng::seed_from_u64(seed);
        let mut script = String::new();
        for _ in 0..self.transactions {
            script.push_str("begin;\n");
            // In the order of their keys, as the docs ask of those who change several users.
            let mut users: Vec<_> =
                (0..random.random_range(1..=3)).map(|_| random.random_range(0..self.users)).collect();
            users.sort_unstable();
            for user in users {
                let action = match random.random_range(0..10) {
                    0 => "deleted",
                    1 | 2 => "created",
                    // Refused while the user is deleted, and with it the whole transaction.
                    _ => "updated",
                };
                let (tenant, user) = (format!("t{}", user % 2), format!("hot-{user}"));
                let data = match action {
                    "deleted" if self.bare_deletes => "'{}'".to_owned(),
                    _ => state(&format!("'{tenant}'"), &format!("'{user}'")),
                };
                let _ = writeln!(
                    script,
                    "insert into postbound.outbox (tenant_id, user_id, action, data) \
                     values ('{tenant}', '{user}', '{action}', {data});"
                );
            }
            script.push_str(if random.random_ratio(1, 10) { "rollback;\n" } else { "commit;\n" });
        }
        script
    }
}

/// SQL of a state that says which version it is of and bears a mark of its own.
fn state(tenant: &str, user: &str) -> String {
    format!(
        "json_build_object('email', {user} || '@' || {tenant} || '.example.com', \
         'name', 'v' || (postbound.lock_user({tenant}, {user}) + 1), \
         'avatar', 'https://example.com/' || gen_random_uuid())::text"
    )
}

async fn run_psql(database: &TestDatabase, script: String) {
    let mut psql = Command::new(database.postgres().bin_folder().join("psql"));
    psql.args(["-X", "-q", "-d", &database.url(Role::Producer)]);
    psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut psql = psql.spawn().unwrap();
    let mut input = psql.stdin.take().unwrap();
    let writing = async move {
        input.write_all(script.as_bytes()).await.unwrap();
    };
    let (output, ()) = tokio::join!(psql.wait_with_output(), writing);
    let output = output.unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{complaints}");
    let refused =
        |line: &&str| line.contains("ERROR") && !line.contains("is deleted") && !line.contains("aborted");
    assert_eq!(complaints.lines().find(refused), None);
}

/// Changes `count` users of a tenant, `<prefix>-1` and on, in one statement; gives nothing back.
///
/// # Panics
/// When a change is refused.
pub async fn emit_states(
    producer: &mut PgConnection,
    (tenant, prefix): (&str, &str),
    count: i32,
    action: &str,
) {
    let state = state("$1", "$2 || '-' || n");
    let statement = format!(
        "insert into postbound.outbox (tenant_id, user_id, action, data)
         select $1, $2 || '-' || n, $4, case $4 when 'deleted' then '{{}}' else {state} end from generate_series(1, $3) as n"
    );
    let query = sqlx::query(AssertSqlSafe(statement)).bind(tenant).bind(prefix).bind(count).bind(action);
    query.execute(producer).await.unwrap();
}
