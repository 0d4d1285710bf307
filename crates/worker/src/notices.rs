use crate::{context::TargetContext, settings::RetrySchedule};
use postbound_store::{Notice, NoticeBacklog, Store, StoreError, Told, within};
use postbound_target::{Failure, FailureClass};
use postbound_telemetry::names;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

/// How often it is looked for notices that are due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Notices taken at once, to be told one after the other.
const TAKEN_MAX: i64 = 20;
/// How long they are kept from other workers, beside the time their requests may take.
const HOLD: Duration = Duration::from_secs(60);
/// Time a statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often those that were given up long ago are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// How often the metrics say how many wait.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// When what is not done each round was last done.
#[derive(Default)]
struct Upkeep {
    pruned_at: Option<Instant>,
    reported_at: Option<Instant>,
}

/// Tells a target that subscribed to notices what is no user's state, as long as the target is worked for. Several workers
/// may do so side by side. Notices have no order; what fails is told again by the schedule of parked users, and given up
/// at the horizon.
pub(crate) async fn keep_telling(context: Weak<TargetContext>) {
    let mut upkeep = Upkeep::default();
    loop {
        sleep(LOOK_EVERY).await;
        let Some(context) = context.upgrade() else { break };
        if let Err(error) = round(&context, &mut upkeep).await {
            tracing::warn!(target.name = %context.name, error = %error, "notices not told; trying again");
        }
    }
}

async fn round(context: &Arc<TargetContext>, upkeep: &mut Upkeep) -> Result<(), StoreError> {
    let (store, name) = (&context.store, &*context.name);
    let hold = HOLD + context.plan.timeout * u32::try_from(TAKEN_MAX).unwrap_or(u32::MAX);
    loop {
        upkeep.turn(context).await?;
        let config_hash = &context.plan.registration.config_hash;
        let due = within(STATEMENT_TIMEOUT, store.take_notices(name, config_hash, hold, TAKEN_MAX)).await?;
        let started = Instant::now();
        let is_last = due.len() < usize::try_from(TAKEN_MAX).unwrap_or(usize::MAX);
        for (place, notice) in due.iter().enumerate() {
            // What cannot be begun while it is held from others is given back.
            let is_in_time = started.elapsed() + context.plan.timeout + STATEMENT_TIMEOUT <= hold;
            let told = if is_in_time { context.notify(&to_tell(notice)).await } else { None };
            let Some(told) = told else { return give_back(store, &due[place..]).await };
            let told =
                told.map_or_else(|failure| judge(&context.plan.retry, notice, &failure), |()| Told::Taken);
            count(name, told);
            say(context, notice, told);
            within(STATEMENT_TIMEOUT, store.settle_notice(notice.notice_id, told)).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// The target has been closed meanwhile, or time is short.
async fn give_back(store: &Store, notices: &[Notice]) -> Result<(), StoreError> {
    let ids: Vec<i64> = notices.iter().map(|notice| notice.notice_id).collect();
    within(STATEMENT_TIMEOUT, store.give_back_notices(&ids)).await
}

impl Upkeep {
    async fn turn(&mut self, context: &TargetContext) -> Result<(), StoreError> {
        let is_due = |last: Option<Instant>, every| last.is_none_or(|at| at.elapsed() >= every);
        let (store, name) = (&context.store, &*context.name);
        if is_due(self.pruned_at, PRUNE_EVERY) {
            within(STATEMENT_TIMEOUT, store.prune_notices()).await?;
            self.pruned_at = Some(Instant::now());
        }
        if is_due(self.reported_at, REPORT_EVERY) {
            // Where none is left, no row tells of it.
            let found = within(STATEMENT_TIMEOUT, store.notice_backlogs(Some(name))).await?.pop();
            report(name, &found.unwrap_or_default());
            self.reported_at = Some(Instant::now());
        }
        Ok(())
    }
}

fn report(target: &str, backlog: &NoticeBacklog) {
    let gauge =
        |name: &'static str, value: f64| metrics::gauge!(name, "target" => target.to_owned()).set(value);
    gauge(names::NOTICES_WAITING, backlog.waiting as f64);
    gauge(names::NOTICES_OLDEST_SECONDS, backlog.oldest_seconds);
    gauge(names::NOTICES_GIVEN_UP, backlog.given_up as f64);
}

fn to_tell(notice: &Notice) -> postbound_target::Notice {
    postbound_target::Notice {
        id: notice.event_id,
        kind: notice.kind.clone(),
        tenant: notice.tenant_id.clone(),
        user: notice.user_id.clone(),
        at: notice.noted_at,
        data: notice.data.clone(),
    }
}

/// What a failure comes to. A target that fails as a whole uses nothing up but time.
fn judge(retry: &RetrySchedule, notice: &Notice, failure: &Failure) -> Told {
    let attempts = attempt(notice);
    let failing_for =
        notice.first_failed_at.map(|since| OffsetDateTime::now_utc() - since).unwrap_or_default();
    let is_refused = failure.class == FailureClass::Permanent && attempts >= retry.permanent_attempts;
    if is_refused || failing_for >= retry.horizon {
        return Told::Dead(failure.reason);
    }
    let pause =
        failure.retry_after.unwrap_or_else(|| retry.parked_pause(failure.class, attempts, rand::random()));
    Told::Again(failure.reason, pause)
}

/// Which attempt this was, from 1.
fn attempt(notice: &Notice) -> u32 {
    u32::try_from(notice.attempts).unwrap_or(u32::MAX).saturating_add(1)
}

fn count(target: &str, told: Told) {
    let outcome = match told {
        Told::Taken => "taken",
        Told::Again(..) => "failed",
        Told::Dead(_) => "given_up",
    };
    metrics::counter!(names::NOTICES, "target" => target.to_owned(), "outcome" => outcome).increment(1);
}

fn say(context: &TargetContext, notice: &Notice, told: Told) {
    let (name, kind, id) = (&context.name, &notice.kind, notice.notice_id);
    match told {
        Told::Taken => {
            tracing::debug!(target.name = %name, notice.kind = %kind, notice.id = id, "notice taken");
        }
        Told::Again(reason, pause) => tracing::warn!(
            target.name = %name, notice.kind = %kind, notice.id = id, reason, attempt = attempt(notice),
            retry_in_ms = pause.as_millis() as u64, "notice not taken; telling it again"
        ),
        Told::Dead(reason) => tracing::error!(
            target.name = %name, notice.kind = %kind, notice.id = id, reason, attempts = attempt(notice),
            "notice given up"
        ),
    }
}
