use crate::{batch::Claim, context::TargetContext, dead_letters::letter_body, lane::Next, retry::History};
use postbound_broker::Headers;
use postbound_event::{Action, Event, UserKey};
use postbound_store::{Held, Settlement, Verdict, within};
use postbound_target::{Delivery, Failure, FailureClass, Outcome};
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a bare delete waits for the projection of the state before it.
const STATE_PATIENCE: Duration = Duration::from_secs(5);

/// A delivery that was begun and not settled: its events go back to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// What a lane's delivery came to.
pub(crate) struct Settled {
    pub(crate) key: UserKey,
    pub(crate) outcome: Result<Held, Abandoned>,
}

/// Delivers one user's next state: tries, retries, settles. It ends when the ledger has the outcome, or when `stop`
/// says that nothing more may be started.
pub(crate) async fn run(
    context: Arc<TargetContext>,
    next: Next,
    held: Held,
    stop: CancellationToken,
) -> Settled {
    let key = next.event.key.clone();
    let mut delivering = Delivering { history: Tries::default(), context, next, stop };
    let outcome = delivering.settle(held).await;
    Settled { key, outcome }
}

struct Delivering {
    context: Arc<TargetContext>,
    next: Next,
    stop: CancellationToken,
    history: Tries,
}

/// Takes an entry back when its lane goes away.
struct WithdrawOnDrop(Claim);

impl Drop for WithdrawOnDrop {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

/// Tries that failed for the delivery's own sake; those that a failing target is to blame for do not count.
#[derive(Default)]
struct Tries {
    failed: u32,
    /// Those of them since the try before which the target took another user's state.
    alone: u32,
    first: Option<(Instant, OffsetDateTime)>,
    successes_seen: u64,
}

impl Delivering {
    async fn settle(&mut self, held: Held) -> Result<Held, Abandoned> {
        let event = &self.next.event;
        let delivery = Delivery {
            event_id: event.id,
            key: event.key.clone(),
            version: event.version,
            action: self.next.action,
            logged_at: event.logged_at,
            traceparent: event.traceparent.clone(),
            data: self.data(event).await.into(),
        };
        let present = self.next.action != Action::Deleted;
        loop {
            match self.attempt(&delivery).await? {
                Outcome::Delivered { external_id } => {
                    self.commit(Verdict::Delivered { present, external_id }).await?;
                    self.delivered();
                    return Ok(Held { delivered_version: delivery.version, present, ..held });
                }
                Outcome::Stale { held_version } => {
                    self.commit(Verdict::Delivered { present, external_id: None }).await?;
                    self.superseded(held_version);
                    return Ok(Held { delivered_version: delivery.version, present, ..held });
                }
                Outcome::Failed(failure) if failure.class == FailureClass::WholeTarget => {
                    // The gate holds the next try back; it is not the delivery's fault.
                }
                Outcome::Failed(failure) => {
                    if self.failed(&failure) {
                        self.bury(&failure).await?;
                        return Ok(Held { dead_version: delivery.version, ..held });
                    }
                    self.pause(&failure).await?;
                }
            }
        }
    }

    /// The state to send. A bare delete that reached the log before the projection had the state before it is rendered
    /// from that as soon as it is there, as some targets know their users by e-mail.
    async fn data(&self, event: &Event) -> Box<RawValue> {
        if self.next.action != Action::Deleted || event.data.get() != "{}" {
            return event.data.clone();
        }
        let deadline = Instant::now() + STATE_PATIENCE;
        while Instant::now() < deadline && !self.stop.is_cancelled() {
            let known = self.context.store.last_known_data(&event.key, event.version);
            match within(STATE_PATIENCE, known).await {
                Ok(Some(data)) => return RawValue::from_string(data).unwrap_or_else(|_| event.data.clone()),
                Ok(None) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => {
                    tracing::warn!(error = %error, "last known state not read; sending the delete by its ids");
                    break;
                }
            }
        }
        event.data.clone()
    }

    /// One try. A request that has begun is awaited, whatever `stop` says: its outcome must reach the ledger.
    async fn attempt(&self, delivery: &Delivery) -> Result<Outcome, Abandoned> {
        if self.stop.is_cancelled() {
            return Err(Abandoned);
        }
        let claim = Claim::default();
        // However this try ends, also when it is dropped with its partition: nothing of it is sent afterwards.
        let _withdraw = WithdrawOnDrop(claim.clone());
        let sending = async {
            match &self.context.batcher {
                Some(batcher) => batcher.send(delivery.clone(), claim.clone()).await,
                None => {
                    let outcomes = self.context.send(std::slice::from_ref(delivery), || claim.send()).await;
                    outcomes.and_then(|mut outcomes| outcomes.pop())
                }
            }
        };
        tokio::pin!(sending);
        let outcome = tokio::select! {
            biased;
            outcome = &mut sending => outcome,
            () = self.stop.cancelled() => match claim.withdraw() {
                true => None,
                false => sending.await,
            },
        };
        outcome.ok_or(Abandoned)
    }

    fn delivered(&self) {
        let event = &self.next.event;
        let counters = &self.context.counters;
        counters.delivered.increment(1);
        counters.superseded.increment(self.next.folded as u64);
        let age = OffsetDateTime::now_utc() - event.logged_at;
        counters.commit_to_delivery.record(age.as_seconds_f64().max(0.0));
        tracing::debug!(
            target.name = %self.context.name, user.id = %event.key.user, user.tenant = %event.key.tenant,
            user.version = event.version, action = %self.next.action, "user synced"
        );
    }

    fn superseded(&self, held_version: Option<i64>) {
        self.context.counters.superseded.increment(1);
        let event = &self.next.event;
        tracing::info!(
            target.name = %self.context.name, user.id = %event.key.user, user.version = event.version,
            target.held_version = held_version, "target holds a newer state"
        );
    }

    /// Counts a failed try. True: it was the last one.
    fn failed(&mut self, failure: &Failure) -> bool {
        let successes = self.context.successes();
        let is_first = self.history.first.is_none();
        let (first, _) =
            *self.history.first.get_or_insert_with(|| (Instant::now(), OffsetDateTime::now_utc()));
        self.history.failed += 1;
        self.history.alone += u32::from(is_first || successes > self.history.successes_seen);
        self.history.successes_seen = successes;
        let history = History {
            attempts: self.history.failed,
            alone: self.history.alone,
            failing_for: first.elapsed(),
        };
        self.context.plan.retry.gives_up(failure.class, history)
    }

    async fn pause(&self, failure: &Failure) -> Result<(), Abandoned> {
        let event = &self.next.event;
        let pause = self.context.plan.retry.pause(self.history.failed, rand::random());
        self.context.counters.retries.increment(1);
        tracing::warn!(
            target.name = %self.context.name, user.id = %event.key.user, user.version = event.version,
            reason = failure.reason, http.status = failure.status, attempt = self.history.failed,
            attempts_max = self.context.plan.retry.attempts, retry_in_ms = pause.as_millis() as u64,
            "user not synced; retrying"
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.stop.cancelled() => Err(Abandoned),
        }
    }

    /// Dead letter first, confirmed; then the ledger.
    async fn bury(&self, failure: &Failure) -> Result<(), Abandoned> {
        let event = &self.next.event;
        tracing::error!(
            target.name = %self.context.name, user.id = %event.key.user, user.tenant = %event.key.tenant,
            user.version = event.version, reason = failure.reason, http.status = failure.status,
            attempts = self.history.failed, "user not synced; the change is in the dead-letter queue"
        );
        let headers = self.letter_headers(failure, event);
        let letter = self.context.dead_letters.publish(&self.context.names, headers, letter_body(event));
        tokio::select! {
            published = letter => published.map_err(|_| Abandoned)?,
            () = self.stop.cancelled() => return Err(Abandoned),
        }
        self.commit(Verdict::Dead { reason: failure.reason }).await?;
        self.context.counters.dead.increment(1);
        Ok(())
    }

    /// Our own headers, since RabbitMQ 4.x does not keep `x-death` over a publish.
    fn letter_headers(&self, failure: &Failure, event: &Event) -> Headers {
        let rfc3339 = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        let first = self.history.first.map_or_else(OffsetDateTime::now_utc, |(_, at)| at);
        vec![
            ("postbound-target", self.context.name.to_string()),
            ("postbound-event-id", event.id.to_string()),
            ("postbound-reason", failure.reason.to_owned()),
            ("postbound-status", failure.status.map_or_else(String::new, |status| status.to_string())),
            ("postbound-attempts", self.history.failed.to_string()),
            ("postbound-detail", failure.detail.clone()),
            ("postbound-first-failed-at", rfc3339(first)),
            ("postbound-last-failed-at", rfc3339(OffsetDateTime::now_utc())),
        ]
    }

    async fn commit(&self, verdict: Verdict) -> Result<(), Abandoned> {
        let event = &self.next.event;
        let target = Arc::clone(&self.context.name);
        let settlement = Settlement { target, key: event.key.clone(), version: event.version, verdict };
        self.context.ledger.settle(settlement).await.map_err(|_| Abandoned)
    }
}
