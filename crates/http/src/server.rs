//! Accepting connections, with a bound on what a client costs before it has said what it wants.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What connections may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Time for the head of a request, the wait for its first byte included: a connection without requests is closed
    /// after it.
    pub head_timeout: Duration,
    /// Connections open at once. More wait to be accepted.
    pub connections_max: usize,
    /// Time for what is under way at the stop. What is open then is cut.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    /// 75 s for a head, longer than load balancers keep idle connections (60 s): whoever closes first must not be the
    /// server. 1,024 connections, 1 s to drain.
    fn default() -> Self {
        let drain = Duration::from_secs(1);
        Self { head_timeout: Duration::from_secs(75), connections_max: 1024, drain }
    }
}

/// Serves HTTP/1.1 until `stop` is cancelled, then finishes the requests it has.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    loop {
        let next = async {
            // It is never closed.
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            // Not the listener's own: this one goes on where files have run out.
            let (stream, _) = Listener::accept(&mut listener).await;
            (stream, permit)
        };
        let (stream, permit) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            serve_one(stream, router, limits, &stop).await;
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_one(stream: TcpStream, router: Router, limits: ConnectionLimits, stop: &CancellationToken) {
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(limits.drain, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(timeout = error.is_timeout(), "http.connection.failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    const SOON: Duration = Duration::from_secs(20);
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    async fn start(limits: ConnectionLimits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let router = Router::new().route("/", get(|| async { "ok\n" }));
        let served = tokio::spawn(serve(listener, router, limits, stop.clone()));
        (address, stop, served)
    }

    /// Sends bytes; gives what comes until the server closes.
    async fn said(stream: &mut TcpStream, bytes: &[u8]) -> String {
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.expect("the connection stays open").unwrap();
        answer
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_its_head_is_let_go() {
        let limits = ConnectionLimits {
            head_timeout: Duration::from_millis(50),
            connections_max: 1,
            ..ConnectionLimits::default()
        };
        let (address, ..) = start(limits).await;
        // With room for one, each is served only once the one before is gone.
        for (sent, answered) in
            [(&b""[..], false), (b"GET / HT", false), (b"GET / HTTP/1.1\r\nx: ", false), (GET, true)]
        {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = said(&mut stream, sent).await;
            assert_eq!(answer.starts_with("HTTP/1.1 200"), answered, "{sent:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_stop_closes_idle_connections_and_answers_what_was_asked() {
        let (address, stop, served) = start(ConnectionLimits::default()).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(GET).await.unwrap();
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        stop.cancel();
        timeout(SOON, served).await.expect("it ends").unwrap();
        let mut rest = String::new();
        timeout(SOON, idle.read_to_string(&mut rest)).await.expect("it is closed").unwrap();
        assert!(rest.ends_with("ok\n"), "{rest}");
    }
}
