use crate::tls::{TlsFiles, mend};
use futures_util::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind, Event,
    options::BasicQosOptions,
    runtime::default_runtime,
    tcp::AMQPUriTcpExt as _,
    uri::{AMQPScheme, AMQPUri},
};
use postbound_tls::tls_error;
use std::{
    path::PathBuf,
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// How long a connection may take to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How to reach RabbitMQ.
#[derive(Clone)]
pub struct BrokerOptions {
    /// `amqp://` or `amqps://` URL.
    pub url: String,
    /// Replaces the URL's password, for one that is read from a file.
    pub password: Option<String>,
    /// Heartbeat interval; the broker closes a silent connection after two.
    pub heartbeat: Duration,
    /// Time for connecting, TLS and login together.
    pub connect_timeout: Duration,
    /// Certificates to trust instead of the system's, PEM. Read at each connect, as are the next.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and key, PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// Why RabbitMQ could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL cannot be read. It is not repeated: it may hold a password.
    #[error("broker.url is not an amqp:// or amqps:// URL")]
    Url,
    /// A certificate or key file cannot be used.
    #[error("{setting}: {path} cannot be used: {why}")]
    Certificate {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// No TLS with RabbitMQ.
    #[error("{what}; {mend}")]
    Tls {
        /// What went wrong.
        what: String,
        /// What to do about it.
        mend: &'static str,
    },
    /// Nobody answered in time.
    #[error("no answer from RabbitMQ within {0:?}")]
    Timeout(Duration),
    /// What RabbitMQ or the connection said.
    #[error("{0}")]
    Amqp(String),
    /// A queue or exchange that should be there is not.
    #[error("{what} is missing; create it with: postbound topology apply")]
    Missing {
        /// Which one.
        what: String,
    },
    /// A queue or exchange is there with other arguments, which RabbitMQ cannot change.
    #[error("{what} exists with other settings than the configured ones: {detail}")]
    Mismatch {
        /// Which one.
        what: String,
        /// What RabbitMQ said.
        detail: String,
    },
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        if let ErrorKind::IOError(io) = error.kind()
            && let Some(tls) = tls_error(io)
        {
            return Self::Tls { what: tls.to_string(), mend: mend(tls) };
        }
        Self::Amqp(error.to_string())
    }
}

/// What to do about a connection that ended before it was open. A server that refuses a client's certificate, or its lack,
/// says so and closes; with the client's words unread on its side, the reset can overtake what it said.
const CUT: &str = "if RabbitMQ wants a client certificate it trusts: broker.client_cert_file, broker.client_key_file; else see RabbitMQ's log";

fn was_cut(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// RabbitMQ's address; connections are made from it.
#[derive(Clone)]
pub struct Broker {
    uri: AMQPUri,
    password: Arc<Mutex<Option<String>>>,
    tls: Arc<TlsFiles>,
    connect_timeout: Duration,
}

/// One connection, and what RabbitMQ says of it as a whole.
pub struct Link {
    connection: Connection,
    blocked: watch::Receiver<bool>,
}

impl Broker {
    /// Reads the options and tries the certificate files they name.
    ///
    /// # Errors
    /// When the URL or a file cannot be used.
    pub fn new(options: &BrokerOptions) -> Result<Self, BrokerError> {
        let mut uri = AMQPUri::from_str(&options.url).map_err(|_| BrokerError::Url)?;
        uri.query.heartbeat = Some(u16::try_from(options.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX));
        let tls = TlsFiles { ca: options.ca_file.clone(), identity: options.client_certificate.clone() };
        if uri.scheme == AMQPScheme::AMQPS {
            tls.connector()?;
        }
        Ok(Self {
            uri,
            password: Arc::new(Mutex::new(options.password.clone())),
            tls: Arc::new(tls),
            connect_timeout: options.connect_timeout,
        })
    }

    /// Connects. `name` is what RabbitMQ's management shows. Publish and consume on links of their own: a broker
    /// alarm blocks a publishing connection, acknowledgements included.
    ///
    /// # Errors
    /// When there is no connection in time.
    pub async fn connect(&self, name: &str) -> Result<Link, BrokerError> {
        // lapin's own connection timeout does not cover this path.
        let connection = tokio::time::timeout(self.connect_timeout, self.open(name))
            .await
            .map_err(|_| BrokerError::Timeout(self.connect_timeout))??;
        let blocked = watch_blocked(&connection);
        Ok(Link { connection, blocked })
    }

    async fn open(&self, name: &str) -> Result<Connection, BrokerError> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let mut uri = self.uri.clone();
        if let Some(password) = self.password.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            uri.authority.userinfo.password = password;
        }
        let tls = match uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => {
                let files = Arc::clone(&self.tls);
                let reading = tokio::task::spawn_blocking(move || files.connector());
                Some(reading.await.map_err(|error| BrokerError::Amqp(error.to_string()))??)
            }
        };
        let is_tls = tls.is_some();
        // lapin's own TLS wants system certificates to be there, whichever are to be trusted.
        let connect = async move |uri: AMQPUri, runtime| {
            let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() }.connect_async(&runtime).await?;
            Ok(match &tls {
                Some(tls) => plain.into_rustls(tls, &uri.authority.host).await?,
                None => plain,
            })
        };
        let connection = Connection::connector(uri, default_runtime()?, connect, properties).await;
        connection.map_err(|error| match error.kind() {
            ErrorKind::IOError(io) if is_tls && tls_error(io).is_none() && was_cut(io) => {
                BrokerError::Tls { what: error.to_string(), mend: CUT }
            }
            _ => error.into(),
        })
    }

    /// Connections made from now on log in with this password; those there are stay.
    pub fn set_password(&self, password: &str) {
        *self.password.lock().unwrap_or_else(PoisonError::into_inner) = Some(password.to_owned());
    }

    /// Host and port, for messages.
    pub fn address(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    /// The virtual host, for messages.
    pub fn vhost(&self) -> &str {
        &self.uri.vhost
    }
}

impl Link {
    /// Opens a channel.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn channel(&self) -> Result<Channel, BrokerError> {
        Ok(self.connection.create_channel().await?)
    }

    /// Opens a channel that holds at most `prefetch` unacknowledged messages.
    pub(crate) async fn consuming_channel(&self, prefetch: u16) -> Result<Channel, BrokerError> {
        let channel = self.channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        Ok(channel)
    }

    /// Whether RabbitMQ has blocked the connection (memory or disk alarm): publishing waits until it has not.
    pub fn blocked(&self) -> watch::Receiver<bool> {
        self.blocked.clone()
    }

    /// Whether the connection is still there.
    pub fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// Waits until the connection is lost.
    pub async fn lost(&self) {
        let mut blocked = self.blocked.clone();
        // The watching task ends, and its sender with it, when the connection does.
        while blocked.changed().await.is_ok() {}
    }

    /// Closes the connection; unacknowledged messages go back to their queues in order.
    pub async fn close(self) {
        // A connection that is gone already is as closed as one can wish.
        // A blocked one writes nothing, this neither; dropping it does the rest.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.connection.close(200, "done".into())).await;
    }
}

fn watch_blocked(connection: &Connection) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let mut events = Box::pin(connection.events_listener());
    let status = connection.status().clone();
    tokio::spawn(async move {
        // Events from before there was a listener are not kept.
        if !status.connected() {
            return;
        }
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => {
                    tracing::warn!(broker.reason = %reason, "RabbitMQ has blocked publishing");
                    sender.send_replace(true);
                }
                Event::ConnectionUnblocked => {
                    tracing::info!("RabbitMQ takes messages again");
                    sender.send_replace(false);
                }
                // A channel's errors come here too, and leave the connection as it is.
                Event::Error(error) if !status.connected() => {
                    tracing::debug!(error = %error, "connection to RabbitMQ lost");
                    return;
                }
                _ => {}
            }
        }
    });
    receiver
}
