use crate::{pulse::Pulse, settings::RelaySettings, supervise::Interrupted, window::Window};
use postbound_store::{Cursor, OpenWindow, PageLimits, Saved, Store, USER_STATE_STREAM, within};
use postbound_telemetry::Component;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long applying one page may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The stream that keeps `user_state`, the projection of each user's latest state: like a target's, but it ends in
/// Postgres, so that rows and cursor move in one transaction.
pub(crate) struct UserStateStream {
    pub(crate) store: Store,
    pub(crate) settings: RelaySettings,
    pub(crate) lease_token: i64,
    pub(crate) pulse: Pulse,
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
            if let Err(why) = ended {
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
        let fenced = || Interrupted::Fenced(USER_STATE_STREAM.to_owned());
        let claimed = self.store.claim_cursor(USER_STATE_STREAM, self.lease_token).await?;
        let mut cursor = claimed.ok_or_else(fenced)?;
        self.component.ready();
        loop {
            let (snapshot, after_id) = match &cursor.open {
                Some(open) => (open.snapshot.clone(), open.confirmed_id),
                None => (self.pulse.next().await.to_string(), 0),
            };
            let empty =
                snapshot == cursor.done || !self.project_window(&mut cursor, &snapshot, after_id).await?;
            if empty {
                self.pulse.changed().await;
            }
        }
    }

    /// Applies one window page by page. False: there was nothing in it.
    async fn project_window(
        &mut self,
        cursor: &mut Cursor,
        snapshot: &str,
        after_id: i64,
    ) -> Result<bool, Interrupted> {
        let limits = PageLimits {
            rows: i64::from(self.settings.page_rows),
            data_bytes: self.settings.page_bytes_max as i64,
        };
        let Some(mut window) = Window::open(&self.store, &cursor.done, snapshot, after_id, limits).await?
        else {
            cursor.done = snapshot.to_owned();
            cursor.open = None;
            return Ok(false);
        };
        self.pulse.found();
        while !window.all_read {
            let page = window.next_page().await?;
            if window.all_read {
                cursor.done = snapshot.to_owned();
                cursor.open = None;
            } else {
                cursor.open =
                    Some(OpenWindow { snapshot: snapshot.to_owned(), confirmed_id: window.read_id });
            }
            let projected = self.store.project_user_state(&page.rows, cursor, self.lease_token);
            match within(WRITE_TIMEOUT, projected).await? {
                Saved::Yes => self.component.progress(),
                Saved::Fenced => return Err(Interrupted::Fenced(USER_STATE_STREAM.to_owned())),
            }
        }
        Ok(true)
    }
}
