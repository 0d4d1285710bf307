use postbound_tests::{Installation, Role, emit_states};
use std::time::Duration;
use tokio::{sync::oneshot, task::JoinHandle, time::MissedTickBehavior};

/// Changes that come in while something breaks: some hundred and fifty a second, of users that are all known after a moment.
pub(crate) struct Stream {
    producing: JoinHandle<usize>,
    end: oneshot::Sender<()>,
}

const USERS: i32 = 15;

impl Stream {
    /// Begins to change users of both tenants.
    pub(crate) async fn start(installation: &Installation) -> Self {
        let mut producer = installation.database.connect(Role::Producer).await;
        let (end, mut ended) = oneshot::channel();
        let producing = tokio::spawn(async move {
            // As much as builds with debug assertions keep up with, on a machine that runs other tests too.
            let mut beat = tokio::time::interval(Duration::from_millis(100));
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut changes = 0;
            while ended.try_recv().is_err() {
                beat.tick().await;
                let (tenant, prefix) = if changes % 2 == 0 { ("t0", "even") } else { ("t1", "odd") };
                emit_states(&mut producer, (tenant, prefix), USERS, "updated").await;
                changes += 1;
            }
            changes * USERS as usize
        });
        Self { producing, end }
    }

    /// Ends it; gives how many changes were made.
    pub(crate) async fn stop(self) -> usize {
        self.end.send(()).expect("the producer failed");
        self.producing.await.unwrap()
    }
}
