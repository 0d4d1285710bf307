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

/// Keeps a target's stream going until told to stop: each session starts from what Postgres says.
pub(crate) async fn keep_streaming(
    mut context: StreamContext,
    target: RegisteredTarget,
    stop: CancellationToken,
) {
    // Kept over reconnects: a stream that cannot publish is not one without a lag.
    let gauges = Arc::new(StreamGauges::of(&target.registration.name));
    let names = TargetNames::new(target.registration.name.clone(), target.generation);
    let mut pause = Duration::from_millis(100);
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
        if started.elapsed() > Duration::from_secs(30) {
            pause = Duration::from_millis(100);
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    context.component.remove();
}
