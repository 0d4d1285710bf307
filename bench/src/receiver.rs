//! The benchmark's receiver: a process of its own that answers both contracts as fast as it can and remembers who came
//! when.
//!
//! It is neither the story nor the bottleneck: one small HTTP/1.1 server with keep-alive, no storage, no checks. The same
//! process serves Postbound and the bare loop in a run. The bench steers it by lines on its standard input ([`handle`]);
//! when that ends, so does it.

mod answer;
mod connection;
pub(crate) mod handle;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::arrivals::{DOORS, Recorder};
use answer::Contract;
use connection::Visit;

/// The contract behind each door.
const CONTRACTS: [Contract; DOORS] = [Contract::Backend, Contract::Backend, Contract::Crm];

/// Serves until standard input ends.
#[expect(clippy::print_stdout, reason = "the bench reads the answers from there")]
pub(crate) async fn run() -> Result<()> {
    let recorder = Arc::new(Recorder::new());
    let connections = Arc::new(AtomicUsize::new(0));
    let mut doors = Vec::new();
    for (number, contract) in CONTRACTS.into_iter().enumerate() {
        let mut door = Door {
            number,
            contract,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            recorder: recorder.clone(),
            connections: connections.clone(),
            open: None,
        };
        door.open().await?;
        doors.push(door);
    }
    let addresses: Vec<String> = doors.iter().map(|door| door.address.to_string()).collect();
    println!("{}", addresses.join(" "));
    let mut lines = input();
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["count"] => {
                let counts = recorder.counts();
                let words: Vec<String> = counts.as_flattened().iter().map(u64::to_string).collect();
                println!("{}", words.join(" "));
            }
            ["take", path] => {
                recorder.take(Path::new(path))?;
                println!("taken");
            }
            ["open", door] => {
                known(&mut doors, door)?.open().await?;
                println!("open");
            }
            ["close", door] => {
                known(&mut doors, door)?.close();
                println!("closed");
            }
            _ => bail!("no such command: {line}"),
        }
    }
    Ok(())
}

/// The lines of standard input, read by a thread of its own: they are few.
fn input() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn known<'a>(doors: &'a mut [Door], number: &str) -> Result<&'a mut Door> {
    doors.get_mut(number.parse::<usize>()?).with_context(|| format!("no door {number}"))
}

/// One target's listener, which can be closed and opened again at the same address.
struct Door {
    number: usize,
    contract: Contract,
    address: SocketAddr,
    recorder: Arc<Recorder>,
    connections: Arc<AtomicUsize>,
    open: Option<CancellationToken>,
}

impl Door {
    async fn open(&mut self) -> Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let listener = self.listen().await?;
        self.address = listener.local_addr()?;
        let closed = CancellationToken::new();
        self.open = Some(closed.clone());
        let visit = Visit {
            door: u8::try_from(self.number)?,
            contract: self.contract,
            recorder: self.recorder.clone(),
            connection: 0,
        };
        let connections = self.connections.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = closed.cancelled() => return,
                };
                // Out of file descriptors, say: the client tries again.
                let Ok((stream, _)) = accepted else { continue };
                let visit =
                    Visit { connection: connections.fetch_add(1, Ordering::Relaxed), ..visit.clone() };
                let closed = closed.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = connection::serve(stream, visit) => {}
                        () = closed.cancelled() => {}
                    }
                });
            }
        });
        Ok(())
    }

    /// From now on connections are refused, and those there are end.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.cancel();
        }
    }

    /// At the address it had; else at a port below the ephemeral ones, which no client of a closed door can be given as
    /// its own.
    async fn listen(&self) -> Result<TcpListener> {
        const TRIES: usize = 100;
        const PORTS: std::ops::Range<u16> = 18_000..30_000;
        let mut error = None;
        for _ in 0..TRIES {
            let mut address = self.address;
            if address.port() == 0 {
                address.set_port(rand::random_range(PORTS));
            }
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(listener),
                Err(reason) => error = Some(reason),
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Err(error.map_or_else(|| anyhow::anyhow!("no try was made"), Into::into))
            .context("no port to listen at")
    }
}
