//! A TCP link that can be cut, stalled, slowed, half-closed and refused, in each direction by itself.
//!
//! Everything of Postbound and of the application reaches PostgreSQL, RabbitMQ and the receivers through links, one per
//! process and server, so that one process can lose one server while the others keep it. A link reads ahead of what it
//! lets through, and goes on delivering what it holds when the sender has given up: as a network does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::clock::now_us;
use crate::wire::{Observer, Tap};

/// Bytes read at once, and so the most a stalled direction holds beside the sockets' own buffers.
const CHUNK_BYTES: usize = 16 * 1024;

/// Connections of one link at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 512;

/// How long the end of a sender's stream is held back from the server: a request that was sent is then executed, though
/// its sender has gone.
const LINGER: Duration = Duration::from_millis(700);

/// What a direction does with bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They pass.
    #[default]
    Free,
    /// They wait.
    Stalled,
    /// They pass in small pieces, with a pause after each.
    Slow { piece_bytes: usize, pause_ms: u64 },
}

/// A direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weather {
    refuses: bool,
    up: Flow,
    down: Flow,
    /// Counts cuts: every connection that is older than the last one ends.
    cuts: u64,
    /// The same for one direction of them.
    half_closed_up: u64,
    half_closed_down: u64,
    /// Connections with a number below these are still, in that direction.
    stranded_up: u64,
    stranded_down: u64,
}

impl Weather {
    /// What the connection of that number may do.
    fn flow(&self, way: Way, connection: u64) -> Flow {
        let (flow, stranded) = match way {
            Way::Up => (self.up, self.stranded_up),
            Way::Down => (self.down, self.stranded_down),
        };
        if connection < stranded { Flow::Stalled } else { flow }
    }

    fn half_closed(&self, way: Way) -> u64 {
        match way {
            Way::Up => self.half_closed_up,
            Way::Down => self.half_closed_down,
        }
    }
}

/// One link: where its clients connect, and what happens to them. Dropped, it ends with all its connections.
pub(crate) struct Link {
    /// As the plan calls it.
    pub(crate) name: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    weather: watch::Sender<Weather>,
    /// How many connections there have been.
    connections: AtomicU64,
    observer: Option<Arc<Observer>>,
}

impl Link {
    /// Opens a link to `upstream`; with an observer, what passes is read as HTTP/1.1.
    pub(crate) async fn open(
        name: impl Into<String>,
        upstream: SocketAddr,
        observer: Option<Arc<Observer>>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (weather, _) = watch::channel(Weather::default());
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            weather,
            connections: AtomicU64::new(0),
            observer,
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { name: name.into(), address, shared, accepting })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server is elsewhere from now on, for new connections.
    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// Ends every connection at once, as a reset.
    pub(crate) fn cut(&self) {
        self.shared.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Ends one direction of every connection; the other stays open.
    pub(crate) fn half_close(&self, way: Way) {
        self.shared.weather.send_modify(|weather| match way {
            Way::Up => weather.half_closed_up += 1,
            Way::Down => weather.half_closed_down += 1,
        });
    }

    /// Lets a direction flow in this manner.
    pub(crate) fn set_flow(&self, way: Way, flow: Flow) {
        self.shared.weather.send_modify(|weather| match way {
            Way::Up => (weather.up, weather.stranded_up) = (flow, 0),
            Way::Down => (weather.down, weather.stranded_down) = (flow, 0),
        });
    }

    /// The connections there are now stand still in a direction, until it flows again; new ones do not.
    pub(crate) fn strand(&self, way: Way) {
        let all = self.shared.connections.load(Ordering::Relaxed);
        self.shared.weather.send_modify(|weather| match way {
            Way::Up => weather.stranded_up = all,
            Way::Down => weather.stranded_down = all,
        });
    }

    /// New connections are reset, or no longer.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.shared.weather.send_modify(|weather| weather.refuses = refuses);
    }

    /// All is as at the beginning.
    pub(crate) fn calm(&self) {
        self.shared.weather.send_modify(|weather| {
            let Weather { cuts, half_closed_up, half_closed_down, .. } = *weather;
            *weather = Weather { cuts, half_closed_up, half_closed_down, ..Weather::default() };
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(carry(client, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let mut weather = shared.weather.subscribe();
    let born = *weather.borrow_and_update();
    let _ = client.set_nodelay(true);
    if born.refuses {
        let _ = client.set_zero_linger();
        return;
    }
    let upstream = *shared.upstream.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(server) = TcpStream::connect(upstream).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = server.set_nodelay(true);
    // So that a connection that is dropped ends with a reset; one that ends in order has been shut down before.
    let _ = client.set_zero_linger();
    let _ = server.set_zero_linger();
    let tap = shared.observer.as_ref().map(Tap::of_connection);
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
    let pump = |way| Pump { way, number, born, weather: weather.clone(), tap: tap.clone() };
    let (up, down) = (pump(Way::Up), pump(Way::Down));
    let both = async {
        let _ = tokio::try_join!(up.run(client_reads, server_writes), down.run(server_reads, client_writes));
    };
    tokio::select! {
        () = both => {}
        _ = weather.wait_for(|weather| weather.cuts > born.cuts) => {}
    }
    if let Some(tap) = tap {
        tap.closed();
    }
}

/// One direction of one connection.
struct Pump {
    way: Way,
    /// The connection's, from 0.
    number: u64,
    born: Weather,
    weather: watch::Receiver<Weather>,
    tap: Option<Tap>,
}

impl Pump {
    async fn run(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let born = self.born.half_closed(self.way);
        loop {
            let mut weather = self.weather.clone();
            let read = tokio::select! {
                read = from.read(&mut buffer) => read?,
                _ = weather.wait_for(|weather| weather.half_closed(self.way) > born) => 0,
            };
            if read == 0 {
                return self.end(to).await;
            }
            if let Some(tap) = &self.tap {
                tap.read(self.way, &buffer[..read]);
            }
            self.pass(&buffer[..read], &mut to).await?;
        }
    }

    /// Writes what was read, as the weather lets it.
    async fn pass(&mut self, mut bytes: &[u8], to: &mut OwnedWriteHalf) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let (way, number) = (self.way, self.number);
            let flow = match self.weather.wait_for(|weather| weather.flow(way, number) != Flow::Stalled).await
            {
                Ok(weather) => weather.flow(way, number),
                // The link is gone, and with it this connection.
                Err(_) => return Ok(()),
            };
            let piece = match flow {
                Flow::Slow { piece_bytes, .. } => piece_bytes.clamp(1, bytes.len()),
                Flow::Free | Flow::Stalled => bytes.len(),
            };
            // Before it is: whoever waits for it may go on before this task does.
            let written_us = now_us();
            to.write_all(&bytes[..piece]).await?;
            bytes = &bytes[piece..];
            if bytes.is_empty()
                && let Some(tap) = &self.tap
            {
                tap.passed(self.way, written_us);
            }
            if let Flow::Slow { pause_ms, .. } = flow {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
        }
        Ok(())
    }

    async fn end(mut self, mut to: OwnedWriteHalf) -> std::io::Result<()> {
        if self.way == Way::Up
            && let Some(tap) = &self.tap
        {
            tap.closed();
            tokio::time::sleep(LINGER).await;
        }
        let (way, number) = (self.way, self.number);
        let _ = self.weather.wait_for(|weather| weather.flow(way, number) != Flow::Stalled).await;
        to.shutdown().await
    }
}

#[cfg(test)]
mod tests;
