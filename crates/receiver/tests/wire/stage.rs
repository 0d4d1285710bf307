//! A receiver of its own per test, with a database of its own, gone when the test ends.

use postbound_receiver::ReceiverConfig;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

/// The running receiver, a client, and a pool that reads its schema.
pub(crate) struct Stage {
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
    pub(crate) pool: PgPool,
    pub(crate) database_url: String,
    database: String,
    shutdown: CancellationToken,
}

/// A request that must be refused or taken: what it is about, its headers, its body, the status expected.
pub(crate) type Case<B> = (&'static str, Vec<(&'static str, &'static str)>, B, u16);

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Address of a database of the private Postgres that `cargo xtask test` starts.
fn url_of(database: &str) -> String {
    let testbed = postbound_testbed::Endpoints::from_env().expect("the tests need their servers");
    testbed.postgres.url_for(database)
}

impl Stage {
    /// Starts a receiver; `change` adjusts its configuration.
    pub(crate) async fn start(change: impl FnOnce(&mut ReceiverConfig)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let database = format!("receiver_{}", uuid::Uuid::new_v4().simple());
        run_on_server(&format!("create database {database}")).await;
        let database_url = url_of(&database);

        let mut config = ReceiverConfig::new(&database_url);
        config.pool_size = 8;
        config.faults = true;
        change(&mut config);
        let pool = postbound_receiver::Receiver::connect(config.clone()).await.unwrap().pool().clone();

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let served = shutdown.clone();
        tokio::spawn(async move { postbound_receiver::serve(listener, config, served).await.unwrap() });
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { base, http, pool, database_url, database, shutdown }
    }

    /// Sends a request and reads the answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    /// As [`Stage::send`], for answers that may not come.
    pub(crate) async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Answer, reqwest::Error> {
        let mut request =
            self.http.request(method.parse().unwrap(), format!("{}{path}", self.base)).body(body);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    /// One S2 request.
    pub(crate) async fn backend(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.send("POST", "/internal/users/sync", headers, body.to_string()).await
    }

    /// One S3 request of tenant `acme`.
    pub(crate) async fn crm(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![("x-tenant-id", "acme"), ("x-sync-source", "tests")];
        all.retain(|(name, _)| !headers.iter().any(|(other, _)| other == name));
        all.extend_from_slice(headers);
        all.retain(|(_, value)| !value.is_empty());
        self.send("POST", "/api/internal/sync/users", &all, body.to_string()).await
    }

    /// Puts faults in force.
    pub(crate) async fn inject(&self, faults: &Value) {
        let answer = self.send("PUT", "/_faults", &[], faults.to_string()).await;
        assert_eq!(answer.status, 204, "{}", answer.text);
    }

    /// `user_id version outcome status` of every row of the oracle log, in order.
    pub(crate) async fn log(&self) -> Vec<String> {
        sqlx::query_scalar(
            "-- tests.log
            select concat_ws(' ', user_id, coalesce(version::text, '-'), outcome, status) from request_log order by id",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// The first column of one row, as JSON.
    pub(crate) async fn row(&self, sql: &'static str) -> Value {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let drop_database = format!("drop database if exists {} with (force)", self.database);
        // Nobody waits for it: it waits for sessions that are still being made, such as the receiver's in this very runtime.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_on_server(&drop_database));
        });
    }
}

async fn run_on_server(sql: &str) {
    let mut connection = PgConnection::connect(&url_of("postgres")).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}
