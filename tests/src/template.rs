use crate::Role;
use anyhow::{Context as _, Result};
use postbound_store::{Store, StoreOptions};
use postbound_testbed::Postgres;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::{path::Path, time::Duration};
use tokio::sync::OnceCell;

/// Any number, the same for all test processes.
const TEMPLATE_LOCK: i64 = 0x706f_7374_626e_6421;

/// The name of the migrated template database, made by whoever comes first.
pub(crate) async fn template(postgres: &Postgres) -> Result<&'static str> {
    static NAME: OnceCell<String> = OnceCell::const_new();
    NAME.get_or_try_init(async || make(postgres).await).await.map(String::as_str)
}

/// The template of a server that is not the one all tests share.
pub(crate) async fn template_on(postgres: &Postgres) -> Result<String> {
    make(postgres).await
}

async fn make(postgres: &Postgres) -> Result<String> {
    let name = format!("postbound_template_{}", migrations_checksum()?);
    let mut admin = PgConnection::connect(&postgres.superuser_url()).await?;
    sqlx::query("select pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut admin).await?;
    // A template is there only when whole: it is renamed as the last step.
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await?;
    if !exists {
        let draft = format!("{name}_draft");
        postgres.drop_database(&draft).await?;
        let url = postgres.create_database(&draft).await?;
        let store = Store::new(&StoreOptions {
            url,
            password: None,
            pool_max: 1,
            connect_timeout: Duration::from_secs(30),
            application: "postbound-tests",
            by_index: false,
        })?;
        store.migrate().await.context("the migrations fail")?;
        store.pool().close().await;
        log_in_roles(&mut admin).await?;
        sqlx::raw_sql(AssertSqlSafe(format!(
            "alter database {draft} rename to {name}; alter database {name} with allow_connections false"
        )))
        .execute(&mut admin)
        .await?;
    }
    admin.close().await?;
    Ok(name)
}

async fn log_in_roles(admin: &mut PgConnection) -> Result<()> {
    for role in Role::ALL {
        let (login, group, password) = (role.login(), role.group(), role.password());
        sqlx::raw_sql(AssertSqlSafe(format!(
            "do $$ begin create role {login}; exception when duplicate_object then null; end $$;
             alter role {login} with login password '{password}';
             grant {group} to {login}"
        )))
        .execute(&mut *admin)
        .await?;
    }
    Ok(())
}

/// Over the files rather than the build's copy of them: a changed migration must never meet an old template.
fn migrations_checksum() -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(std::fs::read(file)?);
    }
    Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}
