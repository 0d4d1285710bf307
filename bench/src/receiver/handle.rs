//! The bench's end of the receiver: starts it, asks it, ends it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::arrivals::{Arrivals, DOORS};

/// A running receiver; it ends with the value.
pub(crate) struct Receiver {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    addresses: Vec<SocketAddr>,
    arrivals_file: PathBuf,
}

/// What came since the last look that took all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Users' states taken, per door.
    pub(crate) taken: [u64; DOORS],
    /// Requests of any outcome, per door.
    pub(crate) requests: [u64; DOORS],
}

impl Receiver {
    /// Starts it; its files go to `folder`.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("this program has no path")?;
        let mut child = Command::new(program)
            .arg("receive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The terminal's Ctrl-C reaches the bench alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the receiver")?;
        let input = child.stdin.take().context("the receiver has no input")?;
        let output = child.stdout.take().context("the receiver has no output")?;
        let output = BufReader::new(output).lines();
        let arrivals_file = folder.join("arrivals");
        let mut receiver = Self { child, input, output, addresses: Vec::new(), arrivals_file };
        let addresses = receiver.answer().await?;
        receiver.addresses =
            addresses.split(' ').map(str::parse).collect::<Result<_, _>>().context("no addresses")?;
        ensure!(receiver.addresses.len() == DOORS, "the receiver has other doors: {addresses}");
        Ok(receiver)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().map_or(0, u32::cast_signed)
    }

    /// Where a door is.
    pub(crate) fn address(&self, door: usize) -> SocketAddr {
        self.addresses[door]
    }

    /// What has come so far.
    pub(crate) async fn counts(&mut self) -> Result<Counts> {
        let answer = self.ask("count").await?;
        let numbers: Vec<u64> =
            answer.split(' ').map(str::parse).collect::<Result<_, _>>().context("no counts")?;
        let (taken, requests) = numbers.split_at_checked(DOORS).context("counts are missing")?;
        Ok(Counts { taken: taken.try_into()?, requests: requests.try_into()? })
    }

    /// Waits until each door has taken at least so many states.
    pub(crate) async fn wait_for(&mut self, wanted: [u64; DOORS], within: Duration) -> Result<()> {
        const GLANCE: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + within;
        loop {
            let counts = self.counts().await?;
            if counts.taken.iter().zip(wanted).all(|(taken, wanted)| *taken >= wanted) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not within {within:?}: {wanted:?} states taken; there are {:?}",
                counts.taken
            );
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// All that has come; the receiver starts over.
    pub(crate) async fn take(&mut self) -> Result<Arrivals> {
        let path = self.arrivals_file.clone();
        self.ask(&format!("take {}", path.display())).await?;
        Arrivals::read(&path)
    }

    /// From now on refuses connections at a door.
    pub(crate) async fn close(&mut self, door: usize) -> Result<()> {
        self.ask(&format!("close {door}")).await.map(drop)
    }

    /// Listens there again.
    pub(crate) async fn open(&mut self, door: usize) -> Result<()> {
        self.ask(&format!("open {door}")).await.map(drop)
    }

    async fn ask(&mut self, command: &str) -> Result<String> {
        self.input.write_all(format!("{command}\n").as_bytes()).await.context("the receiver is gone")?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<String> {
        const PATIENCE: Duration = Duration::from_secs(30);
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await;
        line.context("the receiver does not answer")??.context("the receiver has ended")
    }
}
