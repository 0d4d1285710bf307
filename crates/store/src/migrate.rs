use crate::{Store, StoreError};
use sqlx::migrate::Migrator;

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../../migrations");
    migrator.create_schema("postbound");
    migrator.dangerous_set_table_name("postbound.migrations");
    migrator
}

/// How the database's schema compares with this build's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Newest migration the database has; 0: none.
    pub applied: i64,
    /// Newest migration this build has.
    pub known: i64,
}

impl MigrationStatus {
    /// Whether this build can work on the database: it has all our migrations (and perhaps newer ones).
    pub fn is_current(&self) -> bool {
        self.applied >= self.known
    }
}

impl Store {
    /// Brings the schema up to this build. Needs a direct connection: the migrator takes a session lock, which
    /// PgBouncer in transaction mode cannot hold.
    ///
    /// # Errors
    /// When a migration fails, or one was changed after it had been applied.
    pub async fn migrate(&self) -> Result<MigrationStatus, StoreError> {
        let mut migrator = migrator();
        // A newer database under an older build is the middle of a rolling upgrade, not an error.
        migrator.set_ignore_missing(true);
        migrator.run(&self.pool).await?;
        self.migration_status().await
    }

    /// Compares the database's schema with this build's.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn migration_status(&self) -> Result<MigrationStatus, StoreError> {
        let known = migrator().iter().map(|migration| migration.version).max().unwrap_or(0);
        let exists: bool =
            sqlx::query_scalar("-- migrations_exist\nselect to_regclass('postbound.migrations') is not null")
                .fetch_one(&self.pool)
                .await?;
        let applied = if exists {
            sqlx::query_scalar("-- migrations_applied\nselect coalesce(max(version), 0) from postbound.migrations where success")
                .fetch_one(&self.pool)
                .await?
        } else {
            0
        };
        Ok(MigrationStatus { applied, known })
    }
}
