use super::{Inner, Scope};
use crate::retry::reconnect_pauses;
use postbound_store::{BreakerCause, BreakerOpened, BreakerOpening, ProbePauses, StoreError, within};
use postbound_telemetry::names;
use std::{sync::Weak, time::Duration};
use time::OffsetDateTime;
use tokio::{sync::mpsc, time::Instant};

/// How long one change may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a worker has learnt of a breaker.
#[derive(Debug)]
pub(super) enum Change {
    /// It opens, or the target asks for a longer pause.
    Open(Opening),
    /// The probe succeeded.
    Close { scope: Scope, claim: OffsetDateTime },
    /// The probe failed.
    Fail { scope: Scope, claim: OffsetDateTime, reason: &'static str, wish_until: Option<Instant> },
    /// The probe was not made, or said nothing.
    Release { scope: Scope, claim: OffsetDateTime },
}

#[derive(Debug)]
pub(super) struct Opening {
    pub(super) scope: Scope,
    pub(super) cause: BreakerCause,
    pub(super) reason: &'static str,
    pub(super) status: Option<u16>,
    pub(super) detail: String,
    pub(super) wish_until: Option<Instant>,
}

/// Writes changes one after the other, each until it is written; what waits is bounded by the queue.
pub(super) async fn write(inner: Weak<Inner>, mut queue: mpsc::Receiver<Change>) {
    while let Some(change) = queue.recv().await {
        for pause in reconnect_pauses() {
            let Some(inner) = inner.upgrade() else { return };
            match within(WRITE_TIMEOUT, inner.write(&change)).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(error = %error, target.name = %inner.target, "breaker not written; trying again");
                }
            }
            drop(inner);
            tokio::time::sleep(pause).await;
        }
        let Some(inner) = inner.upgrade() else { return };
        if let Change::Open(opening) = &change {
            inner.lock().saved(&opening.scope);
        }
        inner.read_back().await;
    }
}

impl Inner {
    async fn write(&self, change: &Change) -> Result<(), StoreError> {
        let target = &*self.target;
        match change {
            Change::Open(opening) => self.write_opening(opening).await?,
            Change::Close { scope, claim } => {
                if self.store.close_breaker(target, scope.as_deref(), *claim).await? {
                    tracing::info!(target.name = target, user.tenant = scope, "target answers again");
                }
            }
            Change::Fail { scope, claim, reason, wish_until } => {
                let (min, max) = (self.settings.pause_min, self.settings.pause_max);
                let pauses = ProbePauses { wish: wish_until.map(from_now), min, max };
                if let Some(wait) = self.store.fail_probe(target, scope.as_deref(), *claim, pauses).await? {
                    tracing::warn!(
                        target.name = target,
                        user.tenant = scope,
                        reason,
                        pause_ms = wait.as_millis() as u64,
                        "target still fails; pausing it"
                    );
                }
            }
            Change::Release { scope, claim } => {
                self.store.release_probe(target, scope.as_deref(), *claim).await?;
            }
        }
        Ok(())
    }

    async fn write_opening(&self, opening: &Opening) -> Result<(), StoreError> {
        let (cause, wish) = (opening.cause, opening.wish_until.map(from_now));
        let row = BreakerOpening {
            target: &self.target,
            tenant: opening.scope.as_deref(),
            cause,
            reason: opening.reason,
            status: opening.status,
            detail: &opening.detail,
            wish,
            pause: self.settings.pause_min,
            refund: (cause == BreakerCause::FailingShare).then_some(self.settings.window),
        };
        let BreakerOpened::Opened { refunded } = self.store.open_breaker(&row).await? else { return Ok(()) };
        metrics::counter!(names::BREAKER_OPENINGS, "target" => self.target.to_string(), "cause" => cause.as_str())
            .increment(1);
        let pause = wish.unwrap_or(self.settings.pause_min);
        let what = match cause {
            BreakerCause::FailingShare => "most deliveries fail; pausing the target",
            BreakerCause::WholeTarget | BreakerCause::Operator => "target fails as a whole; pausing it",
        };
        tracing::warn!(
            target.name = %self.target, user.tenant = opening.scope, reason = opening.reason,
            http.status = opening.status, pause_ms = pause.as_millis() as u64, refunded, detail = %opening.detail,
            "{what}"
        );
        Ok(())
    }

    /// What the table says now, for those who wait here; if it cannot be read, the board will.
    async fn read_back(&self) {
        let epoch = self.epoch();
        let rows = within(WRITE_TIMEOUT, self.store.breakers()).await;
        let is_news = rows.is_ok_and(|rows| self.apply(&rows, Instant::now(), epoch));
        if !is_news {
            self.board.refresh();
        }
    }
}

/// A wish counts from the answer it came with, not from when it is written.
fn from_now(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
