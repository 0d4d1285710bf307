use crate::{
    Travel,
    last_states::ProjectionRounds,
    pulse::Pulse,
    supervise::{HALTED, Interrupted},
    window::READ_TIMEOUT,
};
use postbound_store::{Cursor, Saved, Store, USER_STATE_STREAM, within};
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
/// Postgres, so that rows never leave it and move with the cursor in one transaction.
pub(crate) struct UserStateStream {
    pub(crate) store: Store,
    /// Rows of the log that are applied at once.
    pub(crate) rows_max: u32,
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
            let snapshot = match &cursor.open {
                Some(open) => open.snapshot.clone(),
                None => self.pulse.current().await.snapshot.to_string(),
            };
            if snapshot != cursor.done {
                self.component.busy();
                let found = self.project_window(&mut cursor, &snapshot).await?;
                self.rounds.caught_up();
                if found {
                    saved_at = Instant::now();
                    sleep(GATHERED).await;
                    continue;
                }
            }
            self.component.idle();
            tokio::select! {
                () = self.pulse.changed() => {}
                _ = check.tick() => {
                    self.component.busy();
                    self.check_rewound(&cursor).await?;
                    if saved_at.elapsed() > SAVE_IDLE_EVERY {
                        self.save(&cursor).await?;
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

    /// Applies one window page by page. False: there was nothing in it.
    async fn project_window(&mut self, cursor: &mut Cursor, snapshot: &str) -> Result<bool, Interrupted> {
        let bounds = self.store.window_bounds(&cursor.done, snapshot);
        let Some(bounds) = within(READ_TIMEOUT, bounds).await? else {
            snapshot.clone_into(&mut cursor.done);
            cursor.open = None;
            self.component.progress();
            return Ok(false);
        };
        self.pulse.found();
        while *cursor.done != *snapshot {
            let rows_max = self.rows_max;
            let projected =
                self.store.project_user_state(cursor, snapshot, bounds, rows_max, self.lease_token);
            *cursor = within(WRITE_TIMEOUT, projected).await?.ok_or_else(fenced)?;
            self.component.progress();
        }
        Ok(true)
    }

    async fn save(&self, cursor: &Cursor) -> Result<(), Interrupted> {
        let saved = self.store.save_cursor(USER_STATE_STREAM, self.lease_token, cursor);
        match within(WRITE_TIMEOUT, saved).await? {
            Saved::Yes => Ok(()),
            Saved::Fenced => Err(fenced()),
        }
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
