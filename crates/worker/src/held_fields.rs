use crate::gathered::Gathered;
use postbound_store::{HeldVersion, Store};

/// What targets hold of the fields they watch: reads and writes of all lanes of the worker, gathered into one statement
/// each. Nothing here is needed: what is not known costs a request.
#[derive(Clone)]
pub(crate) struct HeldFields {
    reads: Gathered<HeldVersion, Option<Vec<u8>>>,
    writes: Gathered<(HeldVersion, Vec<u8>), ()>,
}

impl HeldFields {
    /// Starts the reader and the writer; they end with the last handle.
    pub(crate) fn start(store: Store, batch_max: usize) -> Self {
        let reader = store.clone();
        let not_read = "watched fields not read; the updates are sent";
        let not_kept = "watched fields not kept; the next updates are sent whatever they change";
        Self {
            reads: Gathered::start(batch_max, not_read, move |asked: Vec<HeldVersion>| {
                let store = reader.clone();
                async move { store.held_fields(&asked).await }
            }),
            writes: Gathered::start(batch_max, not_kept, move |kept: Vec<(HeldVersion, Vec<u8>)>| {
                let store = store.clone();
                async move { store.keep_held_fields(&kept).await.map(|()| vec![(); kept.len()]) }
            }),
        }
    }

    /// The digest of what a target holds; None: it is not known.
    pub(crate) async fn of(&self, held: HeldVersion) -> Option<Vec<u8>> {
        self.reads.ask(held).await.flatten()
    }

    /// Keeps a digest, if Postgres lets it; the log says if not.
    pub(crate) async fn keep(&self, held: HeldVersion, digest: Vec<u8>) {
        self.writes.ask((held, digest)).await;
    }
}
