use crate::{
    flight::Refusal,
    guard::Guard,
    job_flight::PageFlight,
    job_page::JobPage,
    job_progress::{Progress, Unsettled},
    settings::RelaySettings,
    slot::MessageLimits,
    supervise::Interrupted,
};
use postbound_broker::{Broker, Headers, Link, OutgoingMessage, Publisher, TargetNames, Verdict};
use postbound_event::BATCH_CONTENT_TYPE;
use postbound_store::{Generation, MarkedItem, RunningJob, Saved, Store, TargetJobs, within};
use postbound_telemetry::Component;
use std::{collections::HashMap, time::Duration};
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Items read at once.
const PAGE_ITEMS: usize = 500;
/// How often a job that is being run is looked at: so soon it is seen to be paused.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pause before the unsettled items are counted again, when there were too many.
const ROOM_PAUSE: Duration = Duration::from_millis(200);
/// How long one statement may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time between two searches for lost items, of those that find some again and again.
const LOST_PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// Everything the jobs of one target are run with.
#[derive(Clone)]
pub(crate) struct JobContext {
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) settings: RelaySettings,
    pub(crate) lease_token: i64,
    pub(crate) target: String,
    pub(crate) guard: Guard,
    pub(crate) component: Component,
}

/// Why a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was told to stop, or no job of the target runs any more.
    Idle,
    /// Messages are still out, of a job that was paused or to partitions of the past: a new session, a new channel.
    Anew,
}

/// One connection's worth of a target's jobs. Everything it knows is in Postgres too, or is found out again.
struct Session {
    context: JobContext,
    names: TargetNames,
    generation: Generation,
    publisher: Publisher,
    /// The server of Postgres that was looked at before.
    server_started: OffsetDateTime,
    blocked: watch::Receiver<bool>,
    /// When RabbitMQ was last seen to block us; no confirm is due from before then.
    blocked_at: Option<Instant>,
    progress: HashMap<i64, Progress>,
    unsettled: Unsettled,
}

/// What came of trying to send a page.
enum Step {
    Sent,
    Nothing,
    Wait(Duration),
    Abandoned,
}

/// Runs the jobs of a target until none is left, or told to stop.
pub(crate) async fn run_jobs(
    context: &mut JobContext,
    stop: &CancellationToken,
) -> Result<Ended, Interrupted> {
    let Some(TargetJobs { generation, .. }) = running_jobs(context).await? else { return Ok(Ended::Idle) };
    let link = context.broker.connect(&format!("postbound relay jobs {}", context.target)).await?;
    let publisher = Publisher::open(&link).await?;
    let server_started = within(QUERY_TIMEOUT, context.store.database_witness()).await?.server.started;
    tokio::select! {
        () = stop.cancelled() => return Ok(Ended::Idle),
        admitted = context.guard.admit(server_started) => admitted?,
    }
    let mut session = Session {
        server_started,
        names: TargetNames::new(context.target.clone(), generation.number),
        generation,
        publisher,
        blocked: link.blocked(),
        blocked_at: None,
        progress: HashMap::new(),
        unsettled: Unsettled::new(context.settings.job_lost_after),
        context: context.clone(),
    };
    let ended = session.run(&link, stop).await;
    link.close().await;
    ended
}

async fn running_jobs(context: &JobContext) -> Result<Option<TargetJobs>, Interrupted> {
    let jobs = within(QUERY_TIMEOUT, context.store.running_jobs(&context.target)).await?;
    Ok(jobs.filter(|running| !running.jobs.is_empty()))
}

impl Session {
    async fn run(&mut self, link: &Link, stop: &CancellationToken) -> Result<Ended, Interrupted> {
        loop {
            self.context.component.progress();
            if stop.is_cancelled() {
                return Ok(Ended::Idle);
            }
            let Some(running) = running_jobs(&self.context).await? else { return Ok(Ended::Idle) };
            if running.generation != self.generation {
                return Ok(Ended::Anew);
            }
            self.progress.retain(|id, _| running.jobs.iter().any(|job| job.id == *id));
            let pause = match self.advance(&running.jobs, link, stop).await? {
                Step::Sent => continue,
                Step::Abandoned => return Ok(Ended::Anew),
                Step::Nothing => LOOK_EVERY,
                Step::Wait(pause) => pause.min(LOOK_EVERY),
            };
            self.look_for_lost(link).await?;
            tokio::select! {
                () = stop.cancelled() => {}
                () = link.lost() => return Err(Interrupted::ConnectionLost),
                () = sleep(pause) => {}
            }
        }
    }

    /// Sends a page of the oldest job that may send; ends and stops those whose time has come.
    async fn advance(
        &mut self,
        jobs: &[RunningJob],
        link: &Link,
        stop: &CancellationToken,
    ) -> Result<Step, Interrupted> {
        let room = self.room().await?;
        let mut pause = None::<Duration>;
        for job in jobs {
            if self.context.stop_if_failing(job).await? || self.finish_if_done(job).await? {
                continue;
            }
            if room == 0 {
                pause = Some(ROOM_PAUSE);
                continue;
            }
            match self.send_page(job, room, link, stop).await? {
                Step::Nothing => {}
                Step::Wait(wait) => pause = Some(pause.map_or(wait, |pause| pause.min(wait))),
                step => return Ok(step),
            }
        }
        Ok(pause.map_or(Step::Nothing, Step::Wait))
    }

    /// How many items may be sent now, for all jobs of the target.
    async fn room(&mut self) -> Result<usize, Interrupted> {
        let max = i64::from(self.context.settings.job_items_unsettled_max);
        let age = self.unsettled.counted_at.map(|at| at.elapsed());
        let stale = if self.unsettled.items < max { LOOK_EVERY } else { ROOM_PAUSE };
        if age.is_none_or(|age| age >= stale) {
            let counted =
                within(QUERY_TIMEOUT, self.context.store.unsettled_job_items(&self.context.target)).await?;
            self.unsettled.counted(counted, self.context.settings.job_lost_after);
        }
        let room = usize::try_from(max - self.unsettled.items).unwrap_or(0);
        if room == 0 {
            self.context.component.standby(format!(
                "{} items of jobs are not settled yet; waiting for the workers",
                self.unsettled.items
            ));
        } else {
            self.context.component.ready();
        }
        Ok(room)
    }

    async fn finish_if_done(&mut self, job: &RunningJob) -> Result<bool, Interrupted> {
        let progress = self.progress.entry(job.id).or_insert_with(Progress::new);
        if !progress.exhausted || job.in_flight {
            return Ok(false);
        }
        let done = self.context.store.finish_job(job.id, self.context.lease_token);
        if within(QUERY_TIMEOUT, done).await? {
            tracing::info!(target.name = %self.context.target, job.id, "job done");
            return Ok(true);
        }
        // Items wait again behind our back: from the beginning.
        *progress = Progress { clock: progress.clock.take(), ..Progress::new() };
        Ok(false)
    }

    async fn send_page(
        &mut self,
        job: &RunningJob,
        room: usize,
        link: &Link,
        stop: &CancellationToken,
    ) -> Result<Step, Interrupted> {
        let now = Instant::now();
        let progress = self.progress.entry(job.id).or_insert_with(Progress::new);
        if progress.exhausted {
            return Ok(Step::Nothing);
        }
        let granted = match progress.clock(job.rate_per_second, now) {
            None => PAGE_ITEMS,
            Some(clock) => match clock.available(now) {
                0 => return Ok(Step::Wait(clock.pause())),
                granted => granted,
            },
        };
        let settings = &self.context.settings;
        let rows = granted.min(room).min(PAGE_ITEMS);
        let bytes = settings.page_bytes_max as i64;
        let page = self.context.store.job_page(job.id, progress.after_item, rows as i64, bytes);
        let items = within(QUERY_TIMEOUT, page).await?;
        let server = within(QUERY_TIMEOUT, self.context.store.database_witness()).await?.server;
        if server.started != self.server_started {
            return Err(Interrupted::ServerChanged);
        }
        let Some(last_item) = items.last().map(|item| item.item) else {
            // What was passed over may wait again: looked at once more from the beginning before the job counts as sent.
            progress.exhausted = progress.after_item == 0;
            progress.after_item = 0;
            return Ok(if progress.exhausted { Step::Nothing } else { Step::Wait(Duration::ZERO) });
        };
        let limits = MessageLimits { events: settings.message_events_max, bytes: settings.message_bytes_max };
        let page = JobPage::render(job, &items, self.generation.partitions, limits);
        if let Some(clock) = &mut progress.clock {
            clock.spend(page.to_send());
        }
        self.context.mark(job.id, &page.settled).await?;
        let mut flight = PageFlight::new(page.messages);
        let published = self.publish(job.id, &mut flight, link, stop).await;
        let confirmed = flight.take_confirmed();
        postbound_failpoint::pass("relay.job_confirmed");
        self.context.mark(job.id, &confirmed).await?;
        postbound_failpoint::pass("relay.job_marked");
        self.unsettled.sent(confirmed.len());
        published?;
        if !flight.is_over() {
            return Ok(Step::Abandoned);
        }
        if let Some(progress) = self.progress.get_mut(&job.id) {
            progress.after_item = last_item;
        }
        // A job with a rate waits for its next token rather than looking at once.
        Ok(match self.progress.get(&job.id).and_then(|progress| progress.clock.as_ref()) {
            Some(clock) => Step::Wait(clock.pause()),
            None => Step::Sent,
        })
    }

    /// Publishes a page until all of it is confirmed; gives up between, when told to stop or when the job does not run
    /// any more.
    async fn publish(
        &mut self,
        job: i64,
        flight: &mut PageFlight,
        link: &Link,
        stop: &CancellationToken,
    ) -> Result<(), Interrupted> {
        let mut look = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        while !flight.is_over() {
            let blocked = *self.blocked.borrow();
            if !blocked {
                self.publish_due(flight);
            }
            let retry_at = flight.retry_at();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = link.lost() => return Err(Interrupted::ConnectionLost),
                halted = self.context.guard.halted() => return Err(halted),
                settled = self.publisher.next() => { let (id, verdict) = settled?; settle(flight, id, verdict); }
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() && !blocked => {}
                changed = self.blocked.changed() => changed.map_err(|_| Interrupted::ConnectionLost)?,
                _ = look.tick() => {
                    self.check(flight, blocked)?;
                    let running = running_jobs(&self.context).await?;
                    let goes_on = running.is_some_and(|running| {
                        running.generation == self.generation && running.jobs.iter().any(|one| one.id == job)
                    });
                    if !goes_on {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// A message's id is its partition: there is one at most.
    fn publish_due(&mut self, flight: &mut PageFlight) {
        for message in flight.take_due(Instant::now()) {
            self.publisher.publish(OutgoingMessage {
                exchange: self.names.exchange(),
                routing_key: self.names.backfill_routing_key(message.partition),
                content_type: BATCH_CONTENT_TYPE,
                id: u64::from(message.partition),
                headers: Headers::new(),
                body: message.body.clone(),
            });
        }
    }

    /// Says what holds up a page that is not yet out, and ends a connection that says nothing.
    fn check(&mut self, flight: &PageFlight, blocked: bool) -> Result<(), Interrupted> {
        let component = &self.context.component;
        component.progress();
        let queue = |partition| self.names.backfill_queue(partition);
        if let Some(partition) = flight.refusing(Refusal::Unroutable) {
            let queue = queue(partition);
            component
                .not_ready(format!("queue {queue} is missing; create it with: postbound topology apply"));
        } else if blocked {
            component.standby("RabbitMQ has blocked publishing (memory or disk alarm)");
        } else if let Some(partition) = flight.refusing(Refusal::Full) {
            component.standby(format!("queue {} is full; waiting for its workers", queue(partition)));
        } else {
            component.ready();
        }
        if blocked {
            self.blocked_at = Some(Instant::now());
            return Ok(());
        }
        let timeout = self.context.settings.confirm_timeout;
        match flight.unconfirmed_since() {
            Some(since) if self.blocked_at.map_or(since, |at| at.max(since)).elapsed() > timeout => {
                Err(Interrupted::Unconfirmed(timeout))
            }
            _ => Ok(()),
        }
    }

    /// Items nobody has any more (a queue was deleted, RabbitMQ dead-lettered the message) are sent again. Messages at a
    /// worker do not show in a queue's count, so one that is slow may get some twice; it settles the second at once.
    async fn look_for_lost(&mut self, link: &Link) -> Result<(), Interrupted> {
        let unsettled = &mut self.unsettled;
        if unsettled.items == 0 || unsettled.unchanged_since.elapsed() < unsettled.patience {
            return Ok(());
        }
        unsettled.unchanged_since = Instant::now();
        let Some(running) = running_jobs(&self.context).await? else { return Ok(()) };
        for generation in running.draining.into_iter().chain([running.generation]) {
            let names = TargetNames::new(self.context.target.clone(), generation.number);
            for partition in 0..generation.partitions {
                self.context.component.progress();
                if !link.queue_state(&names.backfill_queue(partition)).await?.is_empty() {
                    return Ok(());
                }
            }
        }
        let store = &self.context.store;
        let again = store.resend_lost_job_items(&self.context.target, self.context.lease_token);
        let again = within(QUERY_TIMEOUT, again).await?;
        if again > 0 {
            tracing::warn!(target.name = %self.context.target, job.items = again, "items of jobs were lost on their way; sending them again");
            self.progress.clear();
            self.unsettled.lost(again, LOST_PATIENCE_MAX);
        }
        Ok(())
    }
}

impl JobContext {
    /// One that fails too often sends nothing more: it is stopped, or done where nothing is left.
    async fn stop_if_failing(&self, job: &RunningJob) -> Result<bool, Interrupted> {
        let Some(limit) = job.stop_after_failures.filter(|limit| job.failing >= i64::from(*limit)) else {
            return Ok(false);
        };
        let reason = format!("{} items failed; it was to stop after {limit}", job.failing);
        let store = &self.store;
        if within(QUERY_TIMEOUT, store.stop_job(job.id, &reason, self.lease_token)).await? {
            tracing::warn!(target.name = %self.target, job.id, job.failing, "job stopped after failures");
        } else if within(QUERY_TIMEOUT, store.finish_job(job.id, self.lease_token)).await? {
            tracing::info!(target.name = %self.target, job.id, job.failing, "job done");
        }
        Ok(true)
    }

    async fn mark(&self, job: i64, items: &[MarkedItem]) -> Result<(), Interrupted> {
        if items.is_empty() {
            return Ok(());
        }
        let marked = self.store.mark_job_items(job, items, self.lease_token);
        match within(QUERY_TIMEOUT, marked).await? {
            Saved::Yes => Ok(()),
            Saved::Fenced => Err(Interrupted::TakenOver),
        }
    }
}

fn settle(flight: &mut PageFlight, id: u64, verdict: Verdict) {
    let Ok(partition) = u16::try_from(id) else { return };
    match verdict {
        Verdict::Confirmed => {
            flight.confirmed(partition);
        }
        Verdict::Refused => flight.refused(partition, Instant::now(), Refusal::Full),
        Verdict::Unroutable => flight.refused(partition, Instant::now(), Refusal::Unroutable),
    }
}
