use crate::{
    Travel,
    gauges::StreamGauges,
    stream::{StreamContext, run_session},
};
use postbound_broker::{BrokerError, TargetNames};
use postbound_store::{RegisteredTarget, StoreError};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// What a part says of itself while nothing is published.
pub(crate) const HALTED: &str = "publishing is halted; relay.witness says why, and which command mends it";

/// What has lasted so long did not fail again at once: the next pause is a short one.
const LASTED: Duration = Duration::from_secs(30);

/// Why a stream's session ended without being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the connection to RabbitMQ was lost")]
    ConnectionLost,
    #[error("RabbitMQ confirmed nothing for {0:?}")]
    Unconfirmed(Duration),
    #[error("the cursor of {0} was rewound, or a newer relay has it")]
    Fenced(String),
    #[error("{0} has other partitions now; going on with those registered")]
    Repartitioned(String),
    #[error("{0}")]
    Halted(Travel),
    #[error("Postgres was restarted, or is another server now; looking whether it has gone back in time")]
    ServerChanged,
    #[error("nobody could tell whether Postgres or RabbitMQ has gone back in time; see relay.witness")]
    Unwitnessed,
    #[error("a newer relay has taken over")]
    TakenOver,
    #[error("row {id} of the change log cannot be published: {why}")]
    Row { id: i64, why: String },
}

/// The pauses between the sessions of something that starts over whenever it is interrupted: 100 ms, doubling, 5 s at
/// most.
pub(crate) struct RestartPauses(Duration);

impl RestartPauses {
    pub(crate) fn new() -> Self {
        Self(Duration::from_millis(100))
    }

    /// The pause after a session that lasted so long.
    pub(crate) fn after(&mut self, lasted: Duration) -> Duration {
        if lasted > LASTED {
            *self = Self::new();
        }
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(5));
        pause
    }
}

/// Keeps a target's stream going until told to stop: each session starts from what Postgres says.
pub(crate) async fn keep_streaming(
    mut context: StreamContext,
    target: RegisteredTarget,
    stop: CancellationToken,
) {
    // Kept over reconnects: a stream that cannot publish is not one without a lag.
    let gauges = Arc::new(StreamGauges::of(&target.registration.name));
    let names = TargetNames::new(target.registration.name.clone(), target.generation);
    let mut pauses = RestartPauses::new();
    while !stop.is_cancelled() {
        let started = tokio::time::Instant::now();
        let session = run_session(
            context.clone(),
            target.registration.clone(),
            names.clone(),
            Arc::clone(&gauges),
            stop.clone(),
        );
        match session.await {
            Ok(()) => break,
            // Stopped because its partitions changed: what it could not save is the next stream's.
            Err(Interrupted::Fenced(_)) if stop.is_cancelled() => break,
            // Told by the guard, once for all streams.
            Err(Interrupted::Halted(_)) => {
                context.component.idle();
                context.component.not_ready(HALTED);
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = context.guard.resumed() => continue,
                }
            }
            Err(why) => {
                tracing::warn!(target.name = %names.target(), error = %why, "stream interrupted; starting over");
                context.component.not_ready(why.to_string());
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pauses.after(started.elapsed())) => {}
        }
    }
    context.component.remove();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_session_has_lasted() {
        let mut pauses = RestartPauses::new();
        let in_a_row: Vec<_> = (0..8).map(|_| pauses.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(in_a_row, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pauses.after(2 * LASTED).as_millis(), 100);
    }
}
