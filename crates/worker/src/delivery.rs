mod doubt;
mod letter;
mod stale;
mod tries;

use crate::{
    batch::{Claim, Tried},
    context::{Sent, TargetContext},
    identity::{is_registered, told_links},
    lane::{Next, held_back},
    news,
    optional::pending_or,
    retry::{History, Verdict as Decision},
};
use postbound_event::{Action, Event, UserKey};
use postbound_store::{
    Aftermath, Doubt, Held, ItemOutcome, NewLink, NextAttempt, ParkedSchedule, ParkedState, ParkingCause,
    Settlement, Unknown, Verdict, within,
};
use postbound_target::{Delivery, Failure, FailureClass, Outcome};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tries::Tries;

/// How long a question to Postgres about one delivery may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A delivery that was begun and not settled: its events go back to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// What a lane's delivery came to.
pub(crate) enum Ended {
    /// The ledger has the outcome of the event.
    Settled(Box<Event>, Held, ItemOutcome),
    /// The user is to be parked for this cause, and tried again by this schedule.
    Parks(Box<Next>, ParkedSchedule, ParkingCause),
}

/// Delivers one user's next state: tries, retries, settles. It ends when the ledger has the outcome, when the user is to
/// be parked, or when `stop` says that nothing more may be started.
pub(crate) async fn run(
    context: Arc<TargetContext>,
    next: Next,
    held: Held,
    stop: CancellationToken,
) -> (UserKey, Result<Ended, Abandoned>) {
    let key = next.event.key.clone();
    let tries = Tries::of(&next);
    let ended = Delivering { context, next, held, stop, tries }.run().await;
    (key, ended)
}

/// Settles a state that came from the target itself as held there, without sending it (decision 14).
pub(crate) async fn settle_echo(
    context: Arc<TargetContext>,
    event: Event,
    held: Held,
) -> (UserKey, Result<Ended, Abandoned>) {
    let present = event.action != Action::Deleted;
    // A request of unknown outcome may still put an older state over this one, too.
    let doubt = held.doubt_until.filter(|_| context.plan.has_doubts()).map(|_| {
        let newest = Event { resend: 1, ..event.clone() };
        let state = Box::new(ParkedState { event: newest, send_as: None });
        Doubt::Raised { state, late: None }
    });
    let settlement = Settlement {
        target: Arc::clone(&context.name),
        key: event.key.clone(),
        version: event.version,
        verdict: Verdict::Delivered { present, links: Vec::new() },
        aftermath: doubt.map(|doubt| Box::new(Aftermath { doubt: Some(doubt), ..Aftermath::default() })),
        under: context.lease_of(&event.key),
    };
    let committed = context.ledger.settle(settlement).await.map_err(|_| Abandoned);
    if committed.is_ok() {
        context.counters.skipped.increment(1);
    }
    let held = Held { delivered_version: event.version, present, ..held };
    let key = event.key.clone();
    (key, committed.map(|()| Ended::Settled(Box::new(event), held, ItemOutcome::Delivered)))
}

struct Delivering {
    context: Arc<TargetContext>,
    next: Next,
    held: Held,
    stop: CancellationToken,
    tries: Tries,
}

/// Takes an entry back when its lane goes away.
struct WithdrawOnDrop(Claim);

impl Drop for WithdrawOnDrop {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

impl Delivering {
    // One waits for each user of all messages held: what is rare is boxed, so that it takes no room in all of them.
    async fn run(mut self) -> Result<Ended, Abandoned> {
        let event = &self.next.event;
        let delivery = Delivery {
            event_id: event.id,
            key: event.key.clone(),
            version: event.version,
            action: self.next.action,
            logged_at: event.logged_at,
            traceparent: event.traceparent.clone(),
            data: event.data.clone().into(),
            resend: event.resend,
            full_sync: event.job.is_some_and(|part| part.full),
        };
        if is_registered(&self.context, &self.next.event).await.ok_or(Abandoned)? {
            return self.told_already().await;
        }
        if !news::concerns(&self.context, &self.next, self.held).await {
            return self.settle_unsent().await;
        }
        loop {
            let openings = self.context.breakers.openings(&delivery.key.tenant);
            let (outcome, probe) = match self.attempt(&delivery).await? {
                Tried::Held => return Ok(self.parks_held()),
                Tried::Outcome { outcome, probe } => (outcome, probe),
            };
            let mut failure = match outcome {
                Outcome::Delivered { external_id, links } => {
                    return self.delivered(told_links(external_id, links)).await;
                }
                Outcome::Stale { held_version } => return Box::pin(self.stale(held_version)).await,
                Outcome::Failed(failure) => failure,
            };
            if failure.class == FailureClass::Unknown {
                self.tries.unknown = self.tries.unknown.and(Unknown::of(delivery.version));
            }
            if self.tries.is_blamed_alone(&failure, self.context.last_success_at()) {
                failure.class = FailureClass::Permanent;
            } else if failure.class == FailureClass::WholeTarget
                || openings != self.context.breakers.openings(&delivery.key.tenant)
            {
                // The breaker holds the next try back; the target is to blame, and not the delivery.
                continue;
            } else if probe {
                return Ok(self.parks_held());
            }
            self.count_failure(&delivery.key.tenant);
            let decision = self.context.plan.retry.decide(&failure, self.history(), rand::random());
            match decision {
                Decision::TryAgain(pause) => self.pause(&failure, pause).await?,
                Decision::Park(pause) => return Ok(self.parks_failed(&failure, pause)),
                Decision::GiveUp => return Box::pin(self.bury(&failure)).await,
                Decision::GiveUpPastHorizon(pause) => match Box::pin(self.is_past_horizon()).await {
                    true => return Box::pin(self.bury(&failure)).await,
                    false => return Ok(self.parks_failed(&failure, pause)),
                },
            }
        }
    }

    /// One try. A request that has begun is awaited, whatever `stop` says: its outcome must reach the ledger.
    async fn attempt(&self, delivery: &Delivery) -> Result<Tried, Abandoned> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Abandoned);
            }
            let claim = Claim::default();
            // However this try ends, also when it is dropped with its partition: nothing of it is sent afterwards.
            let _withdraw = WithdrawOnDrop(claim.clone());
            let hurry = self.next.hurry.as_ref().filter(|hurry| !hurry.is_cancelled());
            let sending = self.send(delivery, hurry.is_some(), &claim);
            tokio::pin!(sending);
            let tried = tokio::select! {
                biased;
                tried = &mut sending => tried,
                () = self.stop.cancelled() => match claim.withdraw() {
                    true => None,
                    false => sending.await,
                },
                // Once more, with the turn of a live change.
                () = pending_or(hurry.map(CancellationToken::cancelled)) => match claim.withdraw() {
                    true => continue,
                    false => sending.await,
                },
            };
            return tried.ok_or(Abandoned);
        }
    }

    /// Sends it when its turn comes, unless `claim` is withdrawn by then; None: nothing was sent.
    async fn send(&self, delivery: &Delivery, backfill: bool, claim: &Claim) -> Option<Tried> {
        if let Some(batcher) = &self.context.batcher {
            return batcher.send(delivery.clone(), backfill, claim.clone()).await;
        }
        match self.context.send(std::slice::from_ref(delivery), backfill, || claim.send()).await {
            Sent::Outcomes { mut outcomes, probe } => {
                outcomes.pop().map(|outcome| Tried::Outcome { outcome, probe })
            }
            Sent::Held => Some(Tried::Held),
            Sent::NotStarted => None,
        }
    }

    async fn delivered(self, links: Vec<NewLink>) -> Result<Ended, Abandoned> {
        let held = self.commit_delivered(links, ItemOutcome::Delivered).await?;
        news::keep(&self.context, &self.next.event).await;
        let (event, counters) = (&self.next.event, &self.context.counters);
        counters.delivered.increment(1);
        counters.superseded.increment(self.next.folded as u64);
        let age = OffsetDateTime::now_utc() - event.logged_at;
        counters.commit_to_delivery.record(age.as_seconds_f64().max(0.0));
        if event.job.is_none() && event.resend == 0 && self.tries.attempts == 0 {
            let age = Duration::try_from(age).unwrap_or_default();
            self.context.live_delay.observe(age, tokio::time::Instant::now());
        }
        tracing::info!(
            target: "postbound::synced",
            {
                target.name = %self.context.name, user.id = %event.key.user, user.tenant = %event.key.tenant,
                user.version = event.version, action = %self.next.action
            },
            "user synced"
        );
        Ok(Ended::Settled(Box::new(self.next.event), held, ItemOutcome::Delivered))
    }

    /// The target has no use for the state: nothing is sent, and it counts as held.
    async fn settle_unsent(self) -> Result<Ended, Abandoned> {
        let held = self.commit_delivered(Vec::new(), ItemOutcome::Delivered).await?;
        news::keep(&self.context, &self.next.event).await;
        self.context.counters.skipped.increment(1);
        tracing::debug!(
            target.name = %self.context.name, user.id = %self.next.event.key.user,
            user.version = self.next.event.version, "no news for the target; not sent"
        );
        Ok(Ended::Settled(Box::new(self.next.event), held, ItemOutcome::Delivered))
    }

    async fn told_already(self) -> Result<Ended, Abandoned> {
        // A letter is closed by it: there is nothing left to send.
        let is_letter = self.next.event.log_id != 0;
        let outcome = if is_letter { ItemOutcome::Delivered } else { ItemOutcome::Superseded };
        let held = self.commit_delivered(Vec::new(), outcome).await?;
        self.context.counters.superseded.increment(1);
        tracing::info!(
            target.name = %self.context.name, user.id = %self.next.event.key.user,
            user.version = self.next.event.version, "target has heard of this registration"
        );
        Ok(Ended::Settled(Box::new(self.next.event), held, ItemOutcome::Superseded))
    }

    /// One more try failed for the user's own sake.
    fn count_failure(&mut self, tenant: &str) {
        let window = self.context.plan.breaker.window;
        self.tries.refund(self.context.breakers.failing_since(tenant), window);
        self.tries.count(self.context.last_success_at(), window);
    }

    async fn commit_delivered(&self, links: Vec<NewLink>, outcome: ItemOutcome) -> Result<Held, Abandoned> {
        let present = self.next.action != Action::Deleted;
        let doubt = self.doubt();
        let doubt_until = match &doubt {
            Some(Doubt::Raised { late: Some((after, _)), .. }) => {
                self.held.doubt_until.max(Some(OffsetDateTime::now_utc() + *after))
            }
            Some(Doubt::Raised { late: None, .. }) | None => self.held.doubt_until,
            Some(Doubt::Cleared { .. }) => None,
        };
        self.commit(Verdict::Delivered { present, links }, doubt, outcome).await?;
        let delivered_version = self.held.delivered_version.max(self.next.event.version);
        Ok(Held { delivered_version, present, parked: false, doubt_until, ..self.held })
    }

    fn history(&self) -> History {
        let since = self.tries.first_at.unwrap_or_else(OffsetDateTime::now_utc);
        let failing_for = (OffsetDateTime::now_utc() - since).try_into().unwrap_or_default();
        let Tries { attempts, repeats, .. } = self.tries;
        History { attempts, repeats, failing_for, parked: self.next.schedule.is_some() }
    }

    /// Whether the target was open for the horizon's time since the first failure.
    async fn is_past_horizon(&self) -> bool {
        let Some(first_at) = self.tries.first_at else { return false };
        let (name, tenant) = (&self.context.name, &self.next.event.key.tenant);
        let now = OffsetDateTime::now_utc();
        match within(ASK_TIMEOUT, self.context.store.outage_ms(name, tenant, first_at, now)).await {
            Ok(outage_ms) => {
                let outage = Duration::from_millis(u64::try_from(outage_ms).unwrap_or(0));
                self.history().failing_for >= self.context.plan.retry.horizon + outage
            }
            Err(error) => {
                tracing::warn!(error = %error, "outages not read; the delivery is not given up yet");
                false
            }
        }
    }

    async fn pause(&self, failure: &Failure, pause: Duration) -> Result<(), Abandoned> {
        self.say_failed(failure, pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.stop.cancelled() => Err(Abandoned),
        }
    }

    /// Nothing failed for the user's own sake: the next try is due as soon as the target is open.
    fn parks_held(mut self) -> Ended {
        let schedule = held_back(self.next.schedule.take());
        let unknown = self.tries.unknown;
        self.parks(ParkedSchedule { unknown, ..schedule }, ParkingCause::NotTried)
    }

    fn parks_failed(self, failure: &Failure, pause: Duration) -> Ended {
        self.say_failed(failure, pause);
        let schedule = ParkedSchedule {
            attempts: self.tries.attempts,
            repeats: self.tries.repeats,
            next_attempt: NextAttempt::In(pause),
            first_failed_at: self.tries.first_at,
            last_failed_at: self.tries.last_at,
            reason: failure.reason.to_owned(),
            class: failure.class.as_str().to_owned(),
            status: failure.status,
            detail: failure.detail.clone(),
            unknown: self.tries.unknown,
            recent_failures: self.tries.recent.clone(),
        };
        self.parks(schedule, ParkingCause::Failed)
    }

    fn parks(self, schedule: ParkedSchedule, cause: ParkingCause) -> Ended {
        Ended::Parks(Box::new(self.next), schedule, cause)
    }

    fn say_failed(&self, failure: &Failure, pause: Duration) {
        let event = &self.next.event;
        self.context.counters.retries.increment(1);
        tracing::warn!(
            target.name = %self.context.name, user.id = %event.key.user, user.version = event.version,
            reason = failure.reason, http.status = failure.status, attempt = self.tries.attempts,
            retry_in_ms = pause.as_millis() as u64, "user not synced; retrying"
        );
    }

    async fn commit(
        &self,
        verdict: Verdict,
        doubt: Option<Doubt>,
        outcome: ItemOutcome,
    ) -> Result<(), Abandoned> {
        let event = &self.next.event;
        let aftermath =
            Aftermath { unparks: self.held.parked, doubt, items: self.next.item_outcomes(outcome) };
        let needed = aftermath.unparks || aftermath.doubt.is_some() || !aftermath.items.is_empty();
        let settlement = Settlement {
            target: Arc::clone(&self.context.name),
            key: event.key.clone(),
            version: event.version,
            verdict,
            aftermath: needed.then(|| Box::new(aftermath)),
            under: self.context.lease_of(&event.key),
        };
        self.context.ledger.settle(settlement).await.map_err(|_| Abandoned)
    }
}
