use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Until when this worker's leases surely hold, counted from before their last renewal.
///
/// Others may take its partitions from then on, so a send that could still be under way then is not started.
#[derive(Debug, Clone)]
pub(crate) struct Fence {
    until: Arc<watch::Sender<Instant>>,
}

impl Fence {
    /// A fence that lets nothing pass until it is first extended.
    pub(crate) fn closed() -> Self {
        Self { until: Arc::new(watch::Sender::new(Instant::now())) }
    }

    /// The leases hold until then.
    pub(crate) fn extend(&self, until: Instant) {
        self.until.send_replace(until);
    }

    /// Waits until something that takes `duration` at most would end within the leases. Gives until when they hold.
    pub(crate) async fn pass(&self, duration: Duration) -> Instant {
        let mut until = self.until.subscribe();
        // The sender lives as long as self.
        let passed = until.wait_for(|until| Instant::now() + duration <= *until).await;
        passed.map_or_else(|_| Instant::now(), |until| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn nothing_starts_that_could_outlive_the_lease() {
        let fence = Fence::closed();
        let second = Duration::from_secs(1);
        assert!(fence.pass(second).now_or_never().is_none());
        fence.extend(Instant::now() + 2 * second);
        assert!(fence.pass(second).now_or_never().is_some());
        assert!(fence.pass(3 * second).now_or_never().is_none());
    }
}
