use postbound_store::{HeldVersion, Store, StoreError, within};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long Postgres may take to tell, or to keep, what targets hold.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Waiting calls at most; more wait at the door.
const QUEUE: usize = 4096;

/// What targets hold of the fields they watch: reads and writes of all lanes of the worker, gathered into one statement
/// each, as the ledger's are. Nothing here is needed: what is not known costs a request.
#[derive(Clone)]
pub(crate) struct HeldFields {
    reads: mpsc::Sender<Read>,
    writes: mpsc::Sender<Write>,
}

type Read = (HeldVersion, oneshot::Sender<Option<Vec<u8>>>);
type Write = ((HeldVersion, Vec<u8>), oneshot::Sender<()>);

impl HeldFields {
    /// Starts the reader and the writer; they end with the last handle.
    pub(crate) fn start(store: Store, batch_max: usize) -> Self {
        let (reads, read_queue) = mpsc::channel(QUEUE);
        let (writes, write_queue) = mpsc::channel(QUEUE);
        tokio::spawn(serve_reads(store.clone(), read_queue, batch_max));
        tokio::spawn(serve_writes(store, write_queue, batch_max));
        Self { reads, writes }
    }

    /// The digest of what a target holds; None: it is not known.
    pub(crate) async fn of(&self, held: HeldVersion) -> Option<Vec<u8>> {
        let (reply, answer) = oneshot::channel();
        self.reads.send((held, reply)).await.ok()?;
        answer.await.ok()?
    }

    /// Keeps a digest, if Postgres lets it.
    pub(crate) async fn keep(&self, held: HeldVersion, digest: Vec<u8>) {
        let (reply, answer) = oneshot::channel();
        if self.writes.send(((held, digest), reply)).await.is_ok() {
            // Logged by the writer.
            let _ = answer.await;
        }
    }
}

async fn serve_reads(store: Store, mut queue: mpsc::Receiver<Read>, batch_max: usize) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, batch_max).await > 0 {
        let (asked, replies): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        match within(STATEMENT_TIMEOUT, store.held_fields(&asked)).await {
            Ok(digests) => {
                replies.into_iter().zip(digests).for_each(|(reply, digest)| drop(reply.send(digest)))
            }
            Err(error) => say(&error, "watched fields not read; the updates are sent"),
        }
    }
}

async fn serve_writes(store: Store, mut queue: mpsc::Receiver<Write>, batch_max: usize) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, batch_max).await > 0 {
        let (kept, replies): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        match within(STATEMENT_TIMEOUT, store.keep_held_fields(&kept)).await {
            Ok(()) => replies.into_iter().for_each(|reply| _ = reply.send(())),
            Err(error) => {
                say(&error, "watched fields not kept; the next updates are sent whatever they change")
            }
        }
    }
}

fn say(error: &StoreError, what: &str) {
    tracing::warn!(error = %error, "{what}");
}
