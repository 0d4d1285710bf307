use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Between two bytes of a slow answer.
const DRIP_PAUSE: Duration = Duration::from_millis(20);

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) peer: SocketAddr,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// An HTTP server that answers as told and remembers what it was asked.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    pub(crate) async fn start(reply: impl Fn(&Received) -> Response + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        let handler = move |ConnectInfo(peer), method: Method, headers: HeaderMap, body: Bytes| async move {
            let request = Received { method, headers, body: String::from_utf8(body.to_vec()).unwrap(), peer };
            let response = reply(&request);
            log.lock().unwrap().push(request);
            response
        };
        let service = Router::new().fallback(handler).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { address, received }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/sync?who=postbound", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Received {
        self.received().pop().expect("there was a request")
    }
}

pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response
            .headers_mut()
            .append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    response
}

/// The head at once, the body later than an answer is waited for that nobody needs.
pub(crate) fn late(status: u16, body: String) -> Response {
    let body = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok::<_, io::Error>(body)
    };
    answer(status, &[], Body::from_stream(stream::once(body)))
}

/// The head and the beginning of a body; then the connection breaks.
pub(crate) fn half(status: u16, begin: &'static str) -> Response {
    let broken = async {
        // While the rest is awaited, what there is goes out.
        tokio::task::yield_now().await;
        Err(io::Error::other("told to break"))
    };
    let parts = stream::iter([Ok(begin)]).chain(stream::once(broken));
    answer(status, &[], Body::from_stream(parts))
}

/// The head and the beginning of a body; the rest never comes.
pub(crate) fn stuck(status: u16, begin: &'static str) -> Response {
    let parts = stream::iter([Ok::<_, io::Error>(begin)]).chain(stream::pending());
    answer(status, &[], Body::from_stream(parts))
}

/// A head at once, and then a byte of the body now and then, without end.
pub(crate) fn drip(status: u16) -> Response {
    let parts = stream::unfold((), |()| async {
        tokio::time::sleep(DRIP_PAUSE).await;
        Some((Ok::<_, io::Error>(" "), ()))
    });
    answer(status, &[], Body::from_stream(parts))
}

/// A body of so many bytes, in pieces, without a length in the head.
pub(crate) fn endless(status: u16, bytes: usize) -> Response {
    let piece = Bytes::from(vec![b' '; 4096]);
    let parts = stream::iter((0..bytes / 4096).map(move |_| Ok::<_, io::Error>(piece.clone())));
    answer(status, &[], Body::from_stream(parts))
}

/// A server that reads the beginning of a request, writes these bytes whatever it was, and closes.
pub(crate) async fn raw(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            // One byte: closing with the rest unread resets the connection.
            let _ = socket.read(&mut [0; 1]).await;
            let _ = socket.write_all(bytes).await;
        }
    });
    address
}

/// A server whose answers begin, and come to the end of a header never, byte by byte.
pub(crate) async fn dripping_head() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                // An answer that comes before its request is none.
                let _ = socket.read(&mut [0; 1]).await;
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nX-Drip: ").await;
                while socket.write_all(b".").await.is_ok() {
                    tokio::time::sleep(DRIP_PAUSE).await;
                }
            });
        }
    });
    address
}

/// A server that accepts connections and says nothing.
pub(crate) async fn mute() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(connection) = listener.accept().await {
            held.push(connection);
        }
    });
    address
}
