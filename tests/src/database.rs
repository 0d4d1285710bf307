use crate::{
    Role,
    template::{template, template_on},
};
use postbound_store::{Store, StoreOptions};
use postbound_testbed::{Endpoints, Postgres};
use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use std::time::Duration;
use uuid::Uuid;

/// A migrated database of one test's own, dropped with the value.
pub struct TestDatabase {
    name: String,
    postgres: Postgres,
    superuser: PgPool,
}

impl TestDatabase {
    /// Copies the template database.
    ///
    /// # Panics
    /// When the servers are not there; the message says how to run the tests.
    pub async fn new() -> Self {
        let postgres = Endpoints::from_env().unwrap().postgres;
        let template = template(&postgres).await.unwrap().to_owned();
        Self::copy(postgres, &template).await
    }

    /// Copies the template database of a server of the test's own.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn on(postgres: &Postgres) -> Self {
        let template = template_on(postgres).await.unwrap();
        Self::copy(postgres.clone(), &template).await
    }

    async fn copy(postgres: Postgres, template: &str) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let url = postgres.create_database_from_template(&name, template).await.unwrap();
        let superuser = PgPoolOptions::new().max_connections(4).connect_lazy(&url).unwrap();
        Self { name, postgres, superuser }
    }

    /// The server it is on.
    #[must_use]
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The database's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The superuser's pool, for what no part of Postbound may do: looking at everything.
    #[must_use]
    pub fn superuser(&self) -> &PgPool {
        &self.superuser
    }

    /// The superuser's URL.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        self.postgres.url_for(&self.name)
    }

    /// The URL of a login role that has one group role.
    #[must_use]
    pub fn url(&self, role: Role) -> String {
        self.postgres.url_as(&role.login(), role.password(), &self.name)
    }

    /// The URL of a producer.
    #[must_use]
    pub fn producer_url(&self) -> String {
        self.url(Role::Producer)
    }

    /// The URL of a relay.
    #[must_use]
    pub fn relay_url(&self) -> String {
        self.url(Role::Relay)
    }

    /// The URL of a worker.
    #[must_use]
    pub fn worker_url(&self) -> String {
        self.url(Role::Worker)
    }

    /// The URL of an operator.
    #[must_use]
    pub fn operator_url(&self) -> String {
        self.url(Role::Operator)
    }

    /// The URL of a viewer.
    #[must_use]
    pub fn viewer_url(&self) -> String {
        self.url(Role::Viewer)
    }

    /// A new connection of a role.
    ///
    /// # Panics
    /// When Postgres refuses it.
    pub async fn connect(&self, role: Role) -> PgConnection {
        PgConnection::connect(&self.url(role)).await.unwrap()
    }

    /// A pool of a role.
    ///
    /// # Panics
    /// When the URL cannot be read.
    #[must_use]
    pub fn pool(&self, role: Role, connections_max: u32) -> PgPool {
        PgPoolOptions::new().max_connections(connections_max).connect_lazy(&self.url(role)).unwrap()
    }

    /// The store, as a role.
    ///
    /// # Panics
    /// When the URL cannot be read.
    #[must_use]
    pub fn store(&self, role: Role) -> Store {
        Store::new(&StoreOptions {
            url: self.url(role),
            password: None,
            pool_max: 4,
            connect_timeout: Duration::from_secs(10),
            application: "postbound-tests",
            by_index: true,
        })
        .unwrap()
    }
}

impl Drop for TestDatabase {
    /// Best effort: whatever is left goes with the private server.
    fn drop(&mut self) {
        let (postgres, name) = (self.postgres.clone(), std::mem::take(&mut self.name));
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.is_ok_and(|runtime| runtime.block_on(postgres.drop_database(&name)).is_ok())
        });
        dropping.join().ok();
    }
}
