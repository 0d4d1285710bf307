use crate::tls::{check_parameters, told};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{str::FromStr, time::Duration};

/// How long a transaction of relay or worker may wait for its next statement.
const IDLE_IN_TRANSACTION_MAX: &str = "10s";

/// How to reach Postgres.
#[derive(Clone)]
pub struct StoreOptions {
    /// `postgres://` URL; TLS by its `sslmode`, `sslrootcert`, `sslcert` and `sslkey` parameters.
    pub url: String,
    /// Replaces the URL's password, for one that is read from a file.
    pub password: Option<String>,
    /// Connections at most.
    pub pool_max: u32,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// `application_name` of the connections, as `pg_stat_activity` shows it.
    pub application: &'static str,
    /// For relay and workers: end a transaction that stands still, and read and join by index always. Their queries know
    /// their index; the planner, with statistics from when a table was small, may think a scan cheaper, and then a
    /// backlog takes quadratic time.
    pub by_index: bool,
}

/// Postgres, as Postbound's parts see it. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
}

/// What can go wrong between us and Postgres.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL cannot be used. It is not repeated: it may hold a password.
    #[error("database.url {0}")]
    Url(&'static str),
    /// Postgres refused, or could not be reached.
    #[error("{}", told(.0))]
    Database(#[from] sqlx::Error),
    /// A migration failed, or the database is of another version.
    #[error(transparent)]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// No answer in time: the connection is dead, or the server is.
    #[error("no answer from Postgres within {0:?}")]
    Timeout(Duration),
    /// A row that the schema's constraints should have ruled out.
    #[error("{0}")]
    Unexpected(String),
}

impl StoreError {
    /// The SQLSTATE of a statement that Postgres refuses for a value in it, such as a number out of its range; None: it
    /// failed for another reason. The error's own words may quote that value.
    pub fn refused_value(&self) -> Option<String> {
        let Self::Database(sqlx::Error::Database(error)) = self else { return None };
        let code = error.code()?;
        // 22 data exception, 54 program limit exceeded (nested too deep, too long), PB our own checks
        ["22", "54", "PB"].iter().any(|class| code.starts_with(class)).then(|| code.into_owned())
    }

    /// Whether Postgres rolled the transaction back to end a deadlock.
    pub(crate) fn is_deadlock(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| code == "40P01")
    }

    /// Whether the same call may succeed later: the server is away, restarting or out of connections.
    pub fn is_transient(&self) -> bool {
        let error = match self {
            Self::Timeout(_) => return true,
            Self::Database(error) => error,
            _ => return false,
        };
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_) => true,
            // 08 connection, 40 rollback, 53 resources, 57 operator intervention, 58 system; 25P03 idle in a transaction
            sqlx::Error::Database(db) => db
                .code()
                .is_some_and(|code| ["08", "40", "53", "57", "58"].contains(&&code[..2]) || code == "25P03"),
            _ => false,
        }
    }
}

/// Bounds a call: Postgres' protocol has no timeouts, and a server that lost power says nothing any more.
///
/// # Errors
/// [`StoreError::Timeout`] when the time is up, else the call's own.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(StoreError::Timeout(limit)))
}

impl Store {
    /// A pool that connects when first used.
    ///
    /// # Errors
    /// When the URL cannot be read; not when the server is away.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let mut connect = PgConnectOptions::from_str(&options.url).map_err(|_| StoreError::Url("is not a postgres:// URL, or its sslmode is none of disable, prefer, require, verify-ca, verify-full"))?;
        check_parameters(&options.url)?;
        if let Some(password) = &options.password {
            connect = connect.password(password);
        }
        // Compiling a plan takes longer than any of these queries.
        connect = connect.application_name(options.application).options([("jit", "off")]);
        if options.by_index {
            let off = ["enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"];
            connect = connect.options(off.map(|plan| (plan, "off")));
            // A process that is frozen within a transaction would keep its rows from those that take over.
            connect = connect.options([("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_MAX)]);
        }
        let pool = PgPoolOptions::new()
            .max_connections(options.pool_max)
            .acquire_timeout(options.connect_timeout)
            .test_before_acquire(false)
            .connect_lazy_with(connect);
        Ok(Self { pool })
    }

    /// Connections made from now on log in with this password; those there are stay.
    pub fn set_password(&self, password: &str) {
        let options = self.pool.connect_options().as_ref().clone().password(password);
        self.pool.set_connect_options(options);
    }

    /// The pool itself, for callers with SQL of their own (the command line's doctor, tests).
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Asks Postgres for a sign of life.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("-- ping\nselect 1").execute(&self.pool).await?;
        Ok(())
    }
}
