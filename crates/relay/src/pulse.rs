use crate::settings::RelaySettings;
use postbound_store::{Store, within};
use postbound_telemetry::Component;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// How long asking for a snapshot may take.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one turn may take beyond that and its pause.
const TURN_SLACK: Duration = Duration::from_secs(5);

/// Tells all streams of the active relay what is committed by now: one query for all of them, often while changes
/// come in and seldom while none do. Producers send no NOTIFY: it would lock the whole cluster at each commit.
#[derive(Clone)]
pub(crate) struct Pulse {
    snapshots: watch::Receiver<Option<Arc<str>>>,
    busy: Arc<AtomicBool>,
}

impl Pulse {
    /// Starts polling; ends with the last receiver.
    pub(crate) fn start(store: Store, settings: &RelaySettings, component: Component) -> Self {
        let (sender, snapshots) = watch::channel(None);
        let busy = Arc::new(AtomicBool::new(true));
        let component = component.deadline(SNAPSHOT_TIMEOUT + settings.poll_max + TURN_SLACK);
        let pauses = (settings.poll_min, settings.poll_max);
        tokio::spawn(poll(store, sender, Arc::clone(&busy), pauses, component));
        Self { snapshots, busy }
    }

    /// The newest snapshot, as soon as there is one; [`Pulse::changed`] then waits for a newer one.
    pub(crate) async fn current(&mut self) -> Arc<str> {
        loop {
            if let Some(snapshot) = self.snapshots.borrow_and_update().clone() {
                return snapshot;
            }
            if self.snapshots.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits until there is a newer snapshot.
    pub(crate) async fn changed(&mut self) {
        if self.snapshots.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A stream found changes: look again soon.
    pub(crate) fn found(&self) {
        self.busy.store(true, Ordering::Relaxed);
    }
}

async fn poll(
    store: Store,
    sender: watch::Sender<Option<Arc<str>>>,
    busy: Arc<AtomicBool>,
    (poll_min, poll_max): (Duration, Duration),
    component: Component,
) {
    let mut pause = poll_min;
    component.ready();
    // It always turns.
    component.busy();
    while !sender.is_closed() {
        match within(SNAPSHOT_TIMEOUT, store.current_snapshot()).await {
            Ok(snapshot) => {
                component.ready();
                component.progress();
                sender.send_if_modified(|current| {
                    let changed = current.as_deref() != Some(snapshot.as_str());
                    if changed {
                        *current = Some(snapshot.into());
                    }
                    changed
                });
            }
            // Logged by the streams, which see for themselves that Postgres is away.
            Err(error) => component.not_ready(format!("no snapshot: {error}")),
        }
        pause = if busy.swap(false, Ordering::Relaxed) { poll_min } else { (pause * 2).min(poll_max) };
        tokio::time::sleep(pause).await;
    }
    component.remove();
}
