use super::{ASK_TIMEOUT, Abandoned, Delivering, Ended};
use postbound_store::{ItemOutcome, StoreError, within};
use postbound_target::{Failure, FailureClass};

/// Reason and class of a delivery whose target claims a version nobody has given.
pub(super) const DIVERGED: &str = "diverged";

impl Delivering {
    /// The target says that it holds a newer version. Below the newest it wants, that is so: a later delivery was
    /// faster. At it, or with a version it was never to be told, target and source have parted ways.
    pub(super) async fn stale(self, held_version: Option<i64>) -> Result<Ended, Abandoned> {
        let version = self.next.event.version;
        let wanted = self.wanted_version(held_version).await.map_err(|error| {
            tracing::warn!(error = %error, "newest wanted version not read");
            Abandoned
        })?;
        let is_superseded = match held_version {
            Some(held_version) => (version..=wanted).contains(&held_version),
            None => version < wanted,
        };
        if !is_superseded {
            let detail = match held_version {
                Some(held) => {
                    format!("the target says it holds version {held}; the newest for it is {wanted}")
                }
                None => {
                    format!("the target says it holds a newer version than {version}, the newest for it")
                }
            };
            return self.bury(&diverged(detail)).await;
        }
        let held = self.commit_delivered(Vec::new(), ItemOutcome::Superseded).await?;
        self.context.counters.superseded.increment(1 + self.next.folded as u64);
        tracing::info!(
            target.name = %self.context.name, user.id = %self.next.event.key.user, user.version = version,
            target.held_version = held_version, "target holds a newer state"
        );
        Ok(Ended::Settled(Box::new(self.next.event), held, ItemOutcome::Superseded))
    }

    async fn wanted_version(&self, held_version: Option<i64>) -> Result<i64, StoreError> {
        let event = &self.next.event;
        // That it holds what it is being sent says all there is to know.
        if held_version == Some(event.version) {
            return Ok(event.version);
        }
        within(ASK_TIMEOUT, self.context.store.wanted_version(&self.context.name, event)).await
    }
}

/// Target and source have parted ways: no retry mends that.
fn diverged(detail: String) -> Failure {
    Failure {
        class: FailureClass::Permanent,
        reason: DIVERGED,
        status: None,
        retry_after: None,
        detail,
        shared: false,
        bisect: false,
        bounded: false,
    }
}
