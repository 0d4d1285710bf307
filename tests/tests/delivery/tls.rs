//! TLS with real certificates: everything works over it, and whatever is wrong with one is refused by name.

use super::{SOON, emit};
use postbound_store::{Store, StoreOptions};
use postbound_testbed::{Authority, Certificate, Endpoints, Postgres, Subject};
use postbound_tests::{Installation, Options, Role, TestDatabase, eventually};
use sqlx::AssertSqlSafe;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

const PASSWORD: &str = "not-for-any-log-77c1";

/// What a client of both servers has in its hands: a login in Postgres that needs a certificate, that certificate and
/// another one nobody trusts, and both authorities' own.
struct Client {
    folder: TempDir,
    login: String,
    endpoints: Endpoints,
}

impl Client {
    async fn of(database: &TestDatabase) -> Self {
        let endpoints = Endpoints::from_env().unwrap();
        let folder = TempDir::new().unwrap();
        let login = format!("tls_{}", database.name());
        let stranger = Authority::new("a stranger").unwrap();
        for (authority, name) in [(&endpoints.authority, "client"), (&stranger, "foreign")] {
            authority.issue(Subject::Client(&login)).unwrap().write(folder.path(), name).unwrap();
        }
        let files = [
            ("ca.crt", endpoints.authority.certificate()),
            ("stranger.crt", stranger.certificate()),
            ("empty.crt", ""),
        ];
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let certified = Postgres::CERTIFIED;
        let sql = format!(
            "do $$ begin create role {certified}; exception when duplicate_object or unique_violation then null; end $$;
             create role {login} superuser login password '{PASSWORD}' in role {certified}"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(database.superuser()).await.unwrap();
        Self { folder, login, endpoints }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Of a server on loopback that is Postgres, or stands in front of it.
    fn database_url(&self, port: u16, database: &str, ca: &str, client: Option<&str>) -> String {
        let mut url = format!(
            "postgres://{}:{PASSWORD}@localhost:{port}/{database}?sslmode=verify-full&sslrootcert={}",
            self.login,
            self.text(ca)
        );
        if let Some(client) = client {
            let file = |extension: &str| self.text(&format!("{client}.{extension}"));
            url.push_str(&format!("&sslcert={}&sslkey={}", file("crt"), file("key")));
        }
        url
    }

    /// `broker.*`, for a server on loopback that is RabbitMQ, or stands in front of it.
    fn broker(
        &self,
        installation: &Installation,
        port: u16,
        ca: Option<&str>,
        client: Option<&str>,
    ) -> Vec<(&'static str, String)> {
        let (_, vhost) = installation.vhost.url().rsplit_once('/').unwrap();
        let rabbitmq = &self.endpoints.rabbitmq;
        let url = format!("amqps://{}:{}@localhost:{port}/{vhost}", rabbitmq.user(), rabbitmq.password());
        let mut settings = vec![("broker.url", url)];
        settings.extend(ca.map(|ca| ("broker.ca_file", self.text(ca))));
        if let Some(client) = client {
            settings.push(("broker.client_cert_file", self.text(&format!("{client}.crt"))));
            settings.push(("broker.client_key_file", self.text(&format!("{client}.key"))));
        }
        settings
    }

    async fn drop_login(self, database: &TestDatabase) {
        let sql = format!("drop role {}", self.login);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(database.superuser()).await.unwrap();
    }
}

/// Runs a command that ends by itself; gives its exit code and what it said of its failure.
async fn outcome(
    installation: &Installation,
    args: &[&str],
    settings: &[(&str, String)],
) -> (Option<i32>, String) {
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let mut process = installation.spawn(Role::Operator, args, &settings);
    let status = process.ended().await;
    (status.code(), process.log())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_over_tls_with_client_certificates() {
    let installation = Installation::configure(Options::default()).await;
    let database = &installation.database;
    let client = Client::of(database).await;
    let port = database.postgres().port();

    let empty = format!("{}_empty", database.name());
    let plain_url = database.postgres().create_database(&empty).await.unwrap();
    let url_of_empty = client.database_url(port, &empty, "ca.crt", Some("client"));
    let (code, said) = outcome(&installation, &["migrate"], &[("database.url", url_of_empty)]).await;
    assert_eq!(code, Some(0), "{said}");
    let store = Store::new(&StoreOptions {
        url: plain_url,
        password: None,
        pool_max: 1,
        connect_timeout: Duration::from_secs(10),
        application: "postbound-tests",
        by_index: false,
    });
    let store = store.unwrap();
    assert!(store.migration_status().await.unwrap().is_current());
    store.pool().close().await;
    database.postgres().drop_database(&empty).await.unwrap();

    let amqps_port = client.endpoints.rabbitmq.amqps_port();
    let mut settings = client.broker(&installation, amqps_port, Some("ca.crt"), Some("client"));
    settings.push(("database.url", client.database_url(port, database.name(), "ca.crt", Some("client"))));
    let (code, said) = outcome(&installation, &["topology", "apply"], &settings).await;
    assert_eq!(code, Some(0), "{said}");
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let mut relay = installation.spawn(Role::Relay, &["relay"], &settings);
    let mut worker = installation.spawn(Role::Worker, &["worker"], &settings);
    emit(&installation, "user", 20, "created").await;
    installation.assert_converged().await;
    let unencrypted: i64 = sqlx::query_scalar(
        "select count(*) filter (where not s.ssl or s.client_dn <> '/CN=' || $1) + case count(*) when 0 then 1 else 0 end
         from pg_stat_activity as a join pg_stat_ssl as s using (pid) where a.usename = $1",
    )
    .bind(&client.login)
    .fetch_one(database.superuser())
    .await
    .unwrap();
    assert_eq!(unencrypted, 0);

    // Connections that are lost come back over TLS, too.
    installation.vhost.cut_connections().await;
    emit(&installation, "user", 20, "updated").await;
    installation.assert_converged().await;
    for process in [&mut relay, &mut worker] {
        assert!(process.terminate().await.success());
    }
    client.drop_login(database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_certificate_renewed_in_its_files_is_used_by_the_next_connection() {
    let installation = Installation::configure(Options::default()).await;
    let client = Client::of(&installation.database).await;
    let port = client.endpoints.rabbitmq.amqps_port();
    let settings = client.broker(&installation, port, Some("ca.crt"), Some("foreign"));
    installation.apply_topology().await;
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let _relay = installation.relay();
    let worker = installation.spawn(Role::Worker, &["worker"], &settings);
    let mend = "broker.client_cert_file";
    eventually("the worker says what is wrong", SOON, async || worker.log().contains(mend).then_some(()))
        .await;
    for extension in ["crt", "key"] {
        let file = |name: &str| client.path(&format!("{name}.{extension}"));
        std::fs::rename(file("client"), file("foreign")).unwrap();
    }
    emit(&installation, "user", 5, "created").await;
    installation.assert_converged().await;
    client.drop_login(&installation.database).await;
}

/// Ends TLS in front of a server on loopback, with a certificate of its own, and passes the rest on.
struct Terminator {
    port: u16,
}

#[derive(Clone, Copy)]
enum Protocol {
    Postgres,
    Amqp,
}

impl Terminator {
    async fn start(certificate: &Certificate, upstream: u16, protocol: Protocol) -> Self {
        let chain = CertificateDer::pem_slice_iter(certificate.certificate.as_bytes());
        let chain: Vec<_> = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A client that hangs up is what most of the tests are about.
                tokio::spawn(pass_on(client, acceptor.clone(), upstream, protocol));
            }
        });
        Self { port }
    }
}

async fn pass_on(
    mut client: TcpStream,
    acceptor: TlsAcceptor,
    upstream: u16,
    protocol: Protocol,
) -> std::io::Result<()> {
    if let Protocol::Postgres = protocol {
        // SSLRequest, which asks whether it may begin.
        client.read_exact(&mut [0; 8]).await?;
        client.write_all(b"S").await?;
    }
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], upstream))).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// One that works, for the test to be about its certificate and nothing else; one expired, one of another host.
fn server_certificates(authority: &Authority) -> [Certificate; 3] {
    [
        Subject::Server(&["localhost"]),
        Subject::ExpiredServer(&["localhost"]),
        Subject::Server(&["elsewhere.example"]),
    ]
    .map(|subject| authority.issue(subject).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_certificate_of_postgres_is_said_and_where_to_mend_it() {
    let installation = Installation::configure(Options::default()).await;
    let database = &installation.database;
    let client = Client::of(database).await;
    let port = database.postgres().port();
    let url = |port: u16, ca: &str, certificate: Option<&str>| {
        client.database_url(port, database.name(), ca, certificate)
    };
    let of_operator = |port: u16| {
        let (login, password) = (Role::Operator.login(), Role::Operator.password());
        let (name, ca) = (database.name(), client.text("ca.crt"));
        format!("postgres://{login}:{password}@localhost:{port}/{name}?sslmode=verify-full&sslrootcert={ca}")
    };
    let mut through = Vec::new();
    for certificate in server_certificates(&client.endpoints.authority) {
        through.push(Terminator::start(&certificate, port, Protocol::Postgres).await.port);
    }
    let misspelt = |right: &str, wrong: &str| url(port, "ca.crt", Some("client")).replace(right, wrong);
    for (url, expected) in [
        (url(port, "ca.crt", Some("client")), [].as_slice()),
        (of_operator(through[0]), &[]),
        (url(port, "stranger.crt", Some("client")), &["UnknownIssuer", "sslrootcert"]),
        (url(port, "empty.crt", Some("client")), &["UnknownIssuer", "sslrootcert"]),
        (url(port, "missing.crt", Some("client")), &["cannot be read", "sslrootcert"]),
        (url(port, "ca.crt", None), &["requires a valid client certificate", "sslcert"]),
        (url(port, "ca.crt", Some("foreign")), &["sslcert", "sslkey"]),
        (of_operator(through[1]), &["expired", "renew Postgres' certificate"]),
        (of_operator(through[2]), &["elsewhere.example", "host in database.url"]),
        (misspelt("verify-full", "verify_full"), &["database.url", "sslmode"]),
        (misspelt("sslmode", "ssl_mode"), &["database.url", "sslmode"]),
    ] {
        let (code, said) = outcome(&installation, &["status"], &[("database.url", url.clone())]).await;
        check(&url, code, &said, expected, &[PASSWORD, Role::Operator.password()]);
    }
    client.drop_login(database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_certificate_of_rabbitmq_is_said_and_where_to_mend_it() {
    let installation = Installation::configure(Options::default()).await;
    installation.apply_topology().await;
    let client = Client::of(&installation.database).await;
    let (amqp, amqps) = (client.endpoints.rabbitmq.amqp_port(), client.endpoints.rabbitmq.amqps_port());
    let mut through = Vec::new();
    for certificate in server_certificates(&client.endpoints.authority) {
        through.push(Terminator::start(&certificate, amqp, Protocol::Amqp).await.port);
    }
    let slammed = slam().await;
    let (ca, own) = (Some("ca.crt"), Some("client"));
    for (port, ca, certificate, expected) in [
        (amqps, ca, own, [].as_slice()),
        (through[0], ca, None, &[]),
        (slammed, ca, None, &["broker.client_cert_file"]),
        (amqps, Some("stranger.crt"), own, &["UnknownIssuer", "broker.ca_file"]),
        (amqps, None, own, &["broker.ca_file"]),
        (amqps, Some("empty.crt"), own, &["broker.ca_file", "empty.crt", "no PEM certificate"]),
        (amqps, Some("missing.crt"), own, &["broker.ca_file", "missing.crt"]),
        (amqps, ca, None, &["broker.client_cert_file"]),
        (amqps, ca, Some("foreign"), &["broker.client_cert_file"]),
        (amqps, ca, Some("missing"), &["broker.client_cert_file", "missing.crt"]),
        (through[1], ca, None, &["expired", "renew RabbitMQ's certificate"]),
        (through[2], ca, None, &["elsewhere.example", "host in broker.url"]),
        (amqp, ca, own, &["broker.url"]),
    ] {
        let settings = client.broker(&installation, port, ca, certificate);
        let (code, said) = outcome(&installation, &["topology", "show"], &settings).await;
        let case = format!("{settings:?}");
        check(&case, code, &said, expected, &[client.endpoints.rabbitmq.password()]);
    }
    client.drop_login(&installation.database).await;
}

/// A server that resets each connection once something was said on it; gives its port.
async fn slam() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // What is left unread makes the close a reset.
            let _ = stream.read_u8().await;
        }
    });
    port
}

/// Nothing expected: it works. Else it fails as a command does that cannot connect, with these words and no secret.
fn check(case: &str, code: Option<i32>, said: &str, expected: &[&str], secrets: &[&str]) {
    assert_eq!(code, Some(i32::from(!expected.is_empty())), "{case}: {said}");
    for part in expected {
        assert!(said.contains(part), "{part} is not in what is said of {case}: {said}");
    }
    for secret in secrets {
        assert!(!said.contains(secret), "a secret is said of {case}");
    }
}
