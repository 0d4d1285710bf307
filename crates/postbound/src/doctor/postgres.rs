use super::{Finding, LOOK_TIMEOUT, postgres_server, reason, within};
use crate::roles;
use postbound_config::Config;
use postbound_store::{Store, StoreError};
use sqlx::{Connection as _, PgConnection};

const CHECK: &str = "postgres";

/// Whether Postgres can be used and suits us; with the store, if the schema is there to look into.
pub(super) async fn check(config: &Config) -> (Vec<Finding>, Option<Store>) {
    let store = match roles::store(config, "postbound doctor") {
        Ok(store) => store,
        Err(exit) => {
            let mend = "correct database.url and database.password_file; postbound config check";
            return (vec![Finding::problem(CHECK, reason(exit)).mend(mend)], None);
        }
    };
    end_statements_in_time(&store);
    let address = config.database.url.redacted_url();
    if let Err(finding) = connect(&store, &address).await {
        return (vec![finding], None);
    }
    let mut findings = postgres_server::check(&store, &address, config.database.pool_max).await;
    let (finding, migrated) = migrations(&store).await;
    findings.push(finding);
    (findings, migrated.then_some(store))
}

/// A look we no longer wait for should not go on in the server.
fn end_statements_in_time(store: &Store) {
    let options = (*store.pool().connect_options()).clone();
    store
        .pool()
        .set_connect_options(options.options([("statement_timeout", LOOK_TIMEOUT.as_millis().to_string())]));
}

/// Connects without the pool, which would try again until its time is up and then not say why.
async fn connect(store: &Store, address: &str) -> Result<(), Finding> {
    let options = store.pool().connect_options();
    let mut code = None;
    let connecting = async {
        let connection = PgConnection::connect_with(&options).await.inspect_err(|error| {
            code = error.as_database_error().and_then(|db| db.code()).map(|code| code.into_owned());
        })?;
        Ok::<_, StoreError>(connection.close().await?)
    };
    let Err(why) = within(connecting).await else { return Ok(()) };
    let mend = match code.as_deref() {
        Some("28P01" | "28000") => "correct user and password: database.url or database.password_file",
        Some("3D000") => "create the database, or correct its name in database.url",
        Some("53300") => "raise max_connections of the server, or lower database.pool_max",
        _ => "start Postgres, or correct database.url",
    };
    Err(Finding::problem(CHECK, format!("{address} cannot be used: {why}")).mend(mend))
}

async fn migrations(store: &Store) -> (Finding, bool) {
    const CHECK: &str = "migrations";
    let status = match look(store.migration_status()).await {
        Ok(status) => status,
        // Every role looks here first, so none can start; what the login may do instead is seen below.
        Err(unseen) if unseen.denied => {
            let finding =
                Finding::problem(CHECK, format!("this login cannot start any role: {}", unseen.why)).mend(
                    "grant usage on schema postbound and select on postbound.migrations to it; see rights",
                );
            return (finding, true);
        }
        Err(unseen) => return (unseen.into_finding(CHECK), false),
    };
    let (applied, known) = (status.applied, status.known);
    if !status.is_current() {
        let what = match applied {
            0 => format!("the schema postbound is not there; this version needs migration {known}"),
            _ => format!("the database is at migration {applied}, this version needs {known}"),
        };
        return (Finding::problem(CHECK, what).mend("postbound migrate"), false);
    }
    if applied > known {
        let what = format!("the database is at migration {applied}, newer than this version's {known}");
        return (Finding::warning(CHECK, what).mend("bring this installation to the newer version"), true);
    }
    (Finding::ok(CHECK, format!("at {applied}, as this version needs")), true)
}

/// Asks Postgres. What cannot be told is a problem, or a warning if only the login's rights are too few.
pub(super) async fn ask<T>(
    check: &'static str,
    asking: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Finding> {
    look(asking).await.map_err(|unseen| unseen.into_finding(check))
}

/// Why Postgres did not tell.
struct Unseen {
    why: String,
    /// The login's rights are too few.
    denied: bool,
}

async fn look<T>(asking: impl Future<Output = Result<T, StoreError>>) -> Result<T, Unseen> {
    let mut denied = false;
    let looking = async {
        asking.await.inspect_err(|error| {
            let code = match error {
                StoreError::Database(error) => error.as_database_error().and_then(|db| db.code()),
                _ => None,
            };
            denied = code.as_deref() == Some("42501");
        })
    };
    within(looking).await.map_err(|why| Unseen { why, denied })
}

impl Unseen {
    fn into_finding(self, check: &'static str) -> Finding {
        let why = self.why;
        if self.denied {
            return Finding::warning(check, format!("not checked: {why}"))
                .mend("let the doctor log in as a member of postbound_operator, or postbound_viewer");
        }
        Finding::problem(check, format!("cannot be checked: {why}"))
            .mend("look again when Postgres is less busy; its log may say more")
    }
}
