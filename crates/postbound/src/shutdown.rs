use crate::exit::{Exit, failed};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs a role until it ends. The first SIGTERM or SIGINT tells it to drain; a second one, or the deadline, ends it
/// at once: what was not settled is delivered again by others.
pub(crate) async fn run_until_stopped<T>(
    stop: CancellationToken,
    deadline: Duration,
    role: impl Future<Output = T>,
) -> Result<T, Exit> {
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::pin!(role);
    tokio::select! {
        ended = &mut role => return Ok(ended),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(deadline_s = deadline.as_secs(), "stopping; a second signal ends it at once");
    stop.cancel();
    tokio::select! {
        ended = &mut role => {
            tracing::info!("stopped");
            Ok(ended)
        }
        _ = terminate.recv() => Err(Exit::Undrained("ended by a second signal before the drain was complete".to_owned())),
        _ = interrupt.recv() => Err(Exit::Undrained("ended by a second signal before the drain was complete".to_owned())),
        () = tokio::time::sleep(deadline) => {
            Err(Exit::Undrained(format!("the drain was not complete within {deadline:?}")))
        }
    }
}
