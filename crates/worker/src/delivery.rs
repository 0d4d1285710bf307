use crate::{
    batch::{Claim, Tried},
    context::{Sent, TargetContext},
    dead_letters::letter_body,
    identity::{is_registered, told_links},
    lane::{Next, held_back},
    news,
    retry::{History, Verdict as Decision},
};
use postbound_broker::Headers;
use postbound_event::{Event, UserKey};
use postbound_store::{
    Aftermath, Doubt, Held, ItemOutcome, NewLink, NextAttempt, ParkedSchedule, ParkedState, ParkingCause,
    Settlement, StoreError, Unknown, Verdict, within,
};
use postbound_target::{Delivery, Failure, FailureClass, Outcome};
use std::{sync::Arc, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_util::sync::CancellationToken;

/// Reason and class of a delivery whose target claims a version nobody has given.
const DIVERGED: &str = "diverged";

/// How long a question to Postgres about one delivery may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Failures of a user whose times are kept at most: enough to take back what can be counted within a breaker's window.
const RECENT_MAX: usize = 16;

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
    let present = event.action != postbound_event::Action::Deleted;
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

async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Takes an entry back when its lane goes away.
struct WithdrawOnDrop(Claim);

impl Drop for WithdrawOnDrop {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

/// Tries that failed for the user's own sake; those that a failing target is to blame for do not count.
struct Tries {
    attempts: u32,
    repeats: u32,
    first_at: Option<OffsetDateTime>,
    last_at: Option<OffsetDateTime>,
    unknown: Unknown,
    /// When the last of them failed, as far back as a breaker that opens takes them back.
    recent: Vec<OffsetDateTime>,
    /// When the last try ended with an answer that speaks of the target as a whole.
    blamed_target_at: Option<OffsetDateTime>,
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
                () = cancelled(hurry) => match claim.withdraw() {
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

    /// The target says that it holds a newer version. Below the newest it wants, that is so: a later delivery was
    /// faster. At it, or with a version it was never to be told, target and source have parted ways.
    async fn stale(self, held_version: Option<i64>) -> Result<Ended, Abandoned> {
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

    async fn commit_delivered(&self, links: Vec<NewLink>, outcome: ItemOutcome) -> Result<Held, Abandoned> {
        let present = self.next.action != postbound_event::Action::Deleted;
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

    /// What a success leaves of doubt, at a target that does not check versions itself: an older state may still be on
    /// its way there in a request nobody knows the outcome of.
    fn doubt(&self) -> Option<Doubt> {
        if !self.context.plan.has_doubts() {
            return None;
        }
        let event = &self.next.event;
        let is_resend = event.resend > 0 && event.job.is_none();
        let in_doubt = self.held.doubt_until.is_some();
        let late =
            late(event.version, self.tries.unknown, in_doubt, is_resend, self.context.plan.doubt_after);
        match late {
            None if is_resend => return Some(Doubt::Cleared { resend: event.resend }),
            None => return None,
            Some(_) => {}
        }
        let newest = Event { resend: event.resend + 1, job: None, ..event.clone() };
        let state = Box::new(ParkedState { event: newest, send_as: Some(self.next.action) });
        Some(Doubt::Raised { state, late })
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

    /// Dead letter first, confirmed; then the ledger.
    async fn bury(self, failure: &Failure) -> Result<Ended, Abandoned> {
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

    /// What is dead may have been sent without anyone knowing the outcome, and be executed after what comes next. It is
    /// never sent itself, as nothing older than itself is in doubt: whatever is newer finds the doubt and is sent again.
    /// If there was an older doubt, that stays: what was delivered last is sent again, once the dead one is late no more.
    fn doubt_of_the_dead(&self) -> Option<Doubt> {
        if !self.context.plan.has_doubts() || self.tries.unknown.is_none() {
            return None;
        }
        let event = &self.next.event;
        let newest = Event { resend: event.resend + 1, job: None, ..event.clone() };
        let state = Box::new(ParkedState { event: newest, send_as: Some(self.next.action) });
        Some(Doubt::Raised { state, late: Some((self.context.plan.doubt_after, event.version)) })
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

/// How long a request may take that could be executed over the version just delivered, and the oldest version it may
/// carry; None: there is no such request. `in_doubt`: there was one before; `is_resend`: this delivery was the answer to it.
fn late(
    delivered: i64,
    unknown: Unknown,
    in_doubt: bool,
    is_resend: bool,
    after: Duration,
) -> Option<(Duration, i64)> {
    // Of newer ones their own delivery says.
    let older = if unknown.oldest > delivered { 0 } else { unknown.oldest };
    match (older, in_doubt) {
        // The doubt there was is about something older, whatever is known of it by now, and as urgent as before.
        (0, true) if !is_resend => Some((Duration::ZERO, 1)),
        (0, _) => None,
        (_, true) => Some((after, 1)),
        (older, false) => Some((after, older)),
    }
}

/// As operators search for it.
fn letter_class(failure: &Failure) -> &'static str {
    if failure.reason == DIVERGED { DIVERGED } else { failure.class.as_str() }
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

impl Tries {
    fn of(next: &Next) -> Self {
        let schedule = next.schedule.as_ref();
        Self {
            attempts: schedule.map_or(0, |schedule| schedule.attempts),
            repeats: schedule.map_or(0, |schedule| schedule.repeats),
            first_at: schedule.and_then(|schedule| schedule.first_failed_at),
            last_at: schedule.and_then(|schedule| schedule.last_failed_at),
            unknown: next.unknown,
            recent: schedule.map_or_else(Vec::new, |schedule| schedule.recent_failures.clone()),
            blamed_target_at: None,
        }
    }

    /// Whether a refusal that should speak of the whole target is this user's alone: the target took others' states since
    /// the last one. A firewall, for one, answers 403 to a content.
    fn is_blamed_alone(&mut self, failure: &Failure, last_success_at: Option<OffsetDateTime>) -> bool {
        let is_refusal = failure.class == FailureClass::WholeTarget
            && failure.retry_after.is_none()
            && failure.status.is_some_and(|status| status != 429);
        if !is_refusal {
            return false;
        }
        let before = self.blamed_target_at.replace(OffsetDateTime::now_utc());
        before.is_some() && last_success_at > before
    }

    /// One more failed; the target last took somebody's state at `last_success_at`. What is older than `window` no breaker
    /// takes back.
    fn count(&mut self, last_success_at: Option<OffsetDateTime>, window: Duration) {
        let others_succeeded = last_success_at > self.last_at;
        self.repeats += u32::from(self.attempts == 0 || others_succeeded);
        self.attempts += 1;
        let now = OffsetDateTime::now_utc();
        self.first_at.get_or_insert(now);
        self.last_at = Some(now);
        self.recent.push(now);
        let kept = self.recent.len().saturating_sub(RECENT_MAX);
        self.recent.drain(..kept);
        self.recent.retain(|at| *at >= now - window);
    }

    /// A breaker opened at that time because most deliveries failed: those counted here within its window do not count.
    fn refund(&mut self, opened_at: Option<OffsetDateTime>, window: Duration) {
        let Some(opened_at) = opened_at else { return };
        let is_within = |at: &&OffsetDateTime| **at <= opened_at && **at >= opened_at - window;
        let refunded = u32::try_from(self.recent.iter().filter(is_within).count()).unwrap_or(u32::MAX);
        self.recent.retain(|at| *at > opened_at);
        self.attempts = self.attempts.saturating_sub(refunded);
        self.repeats = self.repeats.saturating_sub(refunded);
        if self.attempts == 0 {
            self.first_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_is_about_the_oldest_version_on_its_way_and_about_any_where_there_was_doubt_before() {
        const AFTER: Duration = Duration::from_secs(9);
        let check = |what: &str, (oldest, newest), in_doubt, is_resend, expected| {
            let late = late(2, Unknown { oldest, newest }, in_doubt, is_resend, AFTER);
            assert_eq!(late, expected, "{what}");
        };
        check("none is on its way", (0, 0), false, false, None);
        check("an older doubt stays, and when it is due", (0, 0), true, false, Some((Duration::ZERO, 1)));
        check("what the doubt asked for", (0, 0), true, true, None);
        check("an older one, and itself", (1, 2), false, false, Some((AFTER, 1)));
        check("only itself", (2, 2), false, false, Some((AFTER, 2)));
        check("only itself, while there is an older doubt", (2, 2), true, false, Some((AFTER, 1)));
        check("what the doubt asked for ended unknown itself", (2, 2), true, true, Some((AFTER, 1)));
        check("only newer ones", (3, 3), false, false, None);
        check(
            "only newer ones, while there is an older doubt",
            (3, 3),
            true,
            false,
            Some((Duration::ZERO, 1)),
        );
    }
}
