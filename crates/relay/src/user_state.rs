use crate::{
    Travel,
    last_states::ProjectionRounds,
    pulse::Pulse,
    supervise::{HALTED, Interrupted},
    window::{Window, WindowReader},
};
use postbound_store::{Cursor, LogRow, OpenWindow, Saved, Store, USER_STATE_STREAM, within};
use postbound_telemetry::Component;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long applying one page may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long changes are gathered after those that were applied: nobody waits for the projection but deletes that follow
/// upon another change of their user.
const GATHERED: Duration = Duration::from_millis(50);
/// How often an idle stream asks whether its cursor was rewound.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How often S1 is written though nothing of ours was committed: log partitions are kept while it is old.
const SAVE_IDLE_EVERY: Duration = Duration::from_secs(60);

/// The stream that keeps `user_state`, the projection of each user's latest state: like a target's, but it ends in
/// Postgres, so that rows and cursor move in one transaction.
pub(crate) struct UserStateStream {
    pub(crate) store: Store,
    pub(crate) reader: WindowReader,
    pub(crate) lease_token: i64,
    pub(crate) pulse: Pulse,
    pub(crate) rounds: ProjectionRounds,
    pub(crate) component: Component,
}

impl UserStateStream {
    /// Runs until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => break,
                ended = self.session() => ended,
            };
            if let Err(Interrupted::Halted(_)) = ended {
                self.component.not_ready(HALTED);
            } else if let Err(why) = ended {
                tracing::warn!(error = %why, "projection of user_state interrupted; starting over");
                self.component.not_ready(why.to_string());
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        self.component.remove();
    }

    async fn session(&mut self) -> Result<(), Interrupted> {
        let claimed = self.store.claim_cursor(USER_STATE_STREAM, self.lease_token);
        let mut cursor = within(WRITE_TIMEOUT, claimed).await?.ok_or_else(fenced)?;
        self.refuse_foreign_cursor().await?;
        self.component.ready();
        let mut check = tokio::time::interval(CHECK_EVERY);
        let mut saved_at = Instant::now();
        loop {
            let (snapshot, window) = match &cursor.open {
                Some(OpenWindow { snapshot, confirmed_id }) => {
                    let window = Window::open(&self.reader, &cursor.done, snapshot, *confirmed_id).await?;
                    (snapshot.clone(), window)
                }
                None => {
                    let recent = self.pulse.current().await;
                    (recent.snapshot.to_string(), recent.window(&self.reader, &cursor.done).await?)
                }
            };
            if let Some(window) = window {
                self.component.busy();
                self.project_window(&mut cursor, window).await?;
                self.rounds.caught_up();
                saved_at = Instant::now();
                sleep(GATHERED).await;
                continue;
            }
            if snapshot != cursor.done {
                cursor.done = snapshot;
                cursor.open = None;
                self.rounds.caught_up();
                self.component.progress();
            }
            self.component.idle();
            tokio::select! {
                () = self.pulse.changed() => {}
                _ = check.tick() => {
                    self.component.busy();
                    self.check_rewound(&cursor).await?;
                    if saved_at.elapsed() > SAVE_IDLE_EVERY {
                        self.apply(&[], &cursor).await?;
                        saved_at = Instant::now();
                    }
                }
            }
        }
    }

    /// The projection needs no RabbitMQ and follows a database that went back; only cursors of another cluster it cannot
    /// read.
    async fn refuse_foreign_cursor(&self) -> Result<(), Interrupted> {
        let witness = within(WRITE_TIMEOUT, self.store.database_witness()).await?;
        match witness.system_identifier {
            Some(before) if witness.is_of_another_cluster() => {
                Err(Interrupted::Halted(Travel::Cluster { before, now: witness.server.system_identifier }))
            }
            _ => Ok(()),
        }
    }

    /// Applies one window page by page.
    async fn project_window(&mut self, cursor: &mut Cursor, mut window: Window) -> Result<(), Interrupted> {
        self.pulse.found();
        while !window.all_read {
            let page = window.next_page().await?;
            if page.server_started.is_some_and(|started| started != cursor.server_started) {
                return Err(Interrupted::ServerChanged);
            }
            if window.all_read {
                cursor.done = window.snapshot.clone();
                cursor.open = None;
            } else {
                cursor.open =
                    Some(OpenWindow { snapshot: window.snapshot.clone(), confirmed_id: window.read_id });
            }
            self.apply(&page.rows, cursor).await?;
        }
        Ok(())
    }

    async fn apply(&self, rows: &[LogRow], cursor: &Cursor) -> Result<(), Interrupted> {
        let applied = self.store.project_user_state(rows, cursor, self.lease_token);
        match within(WRITE_TIMEOUT, applied).await? {
            Saved::Yes => self.component.progress(),
            Saved::Fenced => return Err(fenced()),
        }
        Ok(())
    }

    /// An idle stream moves no cursor, so it has to ask whether an operator has rewound it.
    async fn check_rewound(&self, cursor: &Cursor) -> Result<(), Interrupted> {
        let rewinds = within(WRITE_TIMEOUT, self.store.cursor_rewinds(USER_STATE_STREAM)).await?;
        if rewinds != Some(cursor.rewinds) {
            return Err(fenced());
        }
        self.component.progress();
        Ok(())
    }
}

fn fenced() -> Interrupted {
    Interrupted::Fenced(USER_STATE_STREAM.to_owned())
}
