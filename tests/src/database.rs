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
    /// Best effort: whatever is left goes with the private server. Nobody waits for it: the server drops a database only
    /// once every session has said that it lets go of its files, those too that are still being made, and one of them may
    /// be made by the very task that drops.
    fn drop(&mut self) {
        let (postgres, name) = (self.postgres.clone(), std::mem::take(&mut self.name));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.is_ok_and(|runtime| runtime.block_on(postgres.drop_database(&name)).is_ok())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::TcpStream,
    };

    /// A session the server wants a password of.
    fn half_made(postgres: &Postgres) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", postgres.port())).unwrap();
        let parameters = b"user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(8 + parameters.len()).unwrap();
        stream.write_all(&length.to_be_bytes()).unwrap();
        stream.write_all(&0x3_0000_u32.to_be_bytes()).unwrap();
        stream.write_all(parameters).unwrap();
        let (mut head, mut asked) = ([0; 5], Vec::new());
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[0], b'R');
        asked.resize(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4, 0);
        stream.read_exact(&mut asked).unwrap();
        stream
    }

    #[tokio::test]
    async fn whoever_drops_a_database_does_not_wait_until_the_server_gives_up_on_a_session_half_made() {
        let database = TestDatabase::new().await;
        let session = half_made(&database.postgres);
        session.set_nonblocking(true).unwrap();
        drop(database);
        let still_there = session.peek(&mut [0]).map_err(|error| error.kind());
        assert_eq!(still_there, Err(ErrorKind::WouldBlock));
    }
}
