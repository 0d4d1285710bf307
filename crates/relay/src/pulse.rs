use crate::{recent::Recent, settings::RelaySettings};
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

/// How long asking what is new may take.
const NEWS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one turn may take beyond that and its pause.
const TURN_SLACK: Duration = Duration::from_secs(5);

/// Tells all streams of the active relay what is committed by now, and what that is: one query for all of them, often
/// while changes come in and seldom while none do. Producers send no NOTIFY: it would lock the whole cluster at each
/// commit.
#[derive(Clone)]
pub(crate) struct Pulse {
    recent: watch::Receiver<Option<Arc<Recent>>>,
    busy: Arc<AtomicBool>,
}

impl Pulse {
    /// Starts polling; ends with the last receiver.
    pub(crate) fn start(store: Store, settings: &RelaySettings, component: Component) -> Self {
        let (sender, recent) = watch::channel(None);
        let busy = Arc::new(AtomicBool::new(true));
        let component = component.deadline(NEWS_TIMEOUT + settings.poll_max + TURN_SLACK);
        tokio::spawn(poll(store, sender, Arc::clone(&busy), settings.clone(), component));
        Self { recent, busy }
    }

    /// What there is by now, as soon as that is known; [`Pulse::changed`] then waits for more.
    pub(crate) async fn current(&mut self) -> Arc<Recent> {
        loop {
            if let Some(recent) = self.recent.borrow_and_update().clone() {
                return recent;
            }
            if self.recent.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits until there is a newer snapshot.
    pub(crate) async fn changed(&mut self) {
        if self.recent.changed().await.is_err() {
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
    sender: watch::Sender<Option<Arc<Recent>>>,
    busy: Arc<AtomicBool>,
    settings: RelaySettings,
    component: Component,
) {
    let (poll_min, poll_max, limits) = (settings.poll_min, settings.poll_max, settings.page_limits());
    let mut pause = poll_min;
    component.ready();
    // It always turns.
    component.busy();
    while !sender.is_closed() {
        let before = sender.borrow().clone();
        let since = before.as_ref().map(|recent| &*recent.snapshot);
        match within(NEWS_TIMEOUT, store.news(since, limits)).await {
            Ok(news) => {
                component.ready();
                component.progress();
                if since != Some(news.snapshot.as_str()) {
                    sender.send_replace(Some(Arc::new(Recent::after(before.as_deref(), news, limits))));
                }
            }
            // Logged by the streams, which see for themselves that Postgres is away.
            Err(error) => component.not_ready(format!("no snapshot: {error}")),
        }
        pause = if busy.swap(false, Ordering::Relaxed) { poll_min } else { (pause * 2).min(poll_max) };
        tokio::time::sleep(pause).await;
    }
    component.remove();
}
