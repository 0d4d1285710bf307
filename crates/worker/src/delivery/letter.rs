use super::{Abandoned, Delivering, Ended, stale::DIVERGED};
use crate::dead_letters::letter_body;
use postbound_broker::Headers;
use postbound_store::{Held, ItemOutcome, Verdict};
use postbound_target::Failure;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

impl Delivering {
    /// Dead letter first, confirmed; then the ledger.
    pub(super) async fn bury(self, failure: &Failure) -> Result<Ended, Abandoned> {
        let event = &self.next.event;
        tracing::error!(
            target.name = %self.context.name, user.id = %event.key.user, user.tenant = %event.key.tenant,
            user.version = event.version, reason = failure.reason, http.status = failure.status,
            attempts = self.tries.attempts, "user not synced; the change is in the dead-letter queue"
        );
        let headers = self.letter_headers(failure);
        let letter = self.context.dead_letters.publish(&self.context.names, headers, letter_body(event));
        tokio::select! {
            published = letter => published.map_err(|_| Abandoned)?,
            () = self.stop.cancelled() => return Err(Abandoned),
        }
        postbound_failpoint::pass("worker.letter_confirmed");
        let outcome = ItemOutcome::Dead { reason: failure.reason };
        let doubt = self.doubt_of_the_dead();
        let doubt_until = match doubt {
            Some(_) => Some(OffsetDateTime::now_utc() + self.context.plan.doubt_after),
            None => self.held.doubt_until,
        };
        self.commit(Verdict::Dead { reason: failure.reason }, doubt, outcome).await?;
        self.context.counters.dead.increment(1);
        let dead_version = self.held.dead_version.max(event.version);
        let held = Held { dead_version, parked: false, doubt_until, ..self.held };
        Ok(Ended::Settled(Box::new(self.next.event), held, outcome))
    }

    /// Our own headers, since RabbitMQ 4.x does not keep `x-death` over a publish.
    fn letter_headers(&self, failure: &Failure) -> Headers {
        let event = &self.next.event;
        let now = OffsetDateTime::now_utc();
        let rfc3339 = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        vec![
            ("postbound-target", self.context.name.to_string()),
            ("postbound-event-id", event.id.to_string()),
            ("postbound-replay", event.job.map_or(0, |part| part.job).to_string()),
            ("postbound-reason", failure.reason.to_owned()),
            ("postbound-class", letter_class(failure).to_owned()),
            ("postbound-status", failure.status.map_or_else(String::new, |status| status.to_string())),
            ("postbound-attempts", self.tries.attempts.to_string()),
            ("postbound-detail", failure.detail.clone()),
            ("postbound-unknown-outcome", (self.tries.unknown.newest == event.version).to_string()),
            ("postbound-first-failed-at", rfc3339(self.tries.first_at.unwrap_or(now))),
            ("postbound-last-failed-at", rfc3339(self.tries.last_at.unwrap_or(now))),
        ]
    }
}

/// As operators search for it.
fn letter_class(failure: &Failure) -> &'static str {
    if failure.reason == DIVERGED { DIVERGED } else { failure.class.as_str() }
}
