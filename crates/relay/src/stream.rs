use crate::{
    filter::Filter,
    flight::Refusal,
    gauges::StreamGauges,
    guard::Guard,
    last_states::{LastStates, ProjectionRounds},
    pulse::Pulse,
    settings::RelaySettings,
    slot::{MessageLimits, Ready, Slot},
    stream_health::StreamHealth,
    supervise::Interrupted,
    window::{Window, WindowReader},
};
use postbound_broker::{Broker, Headers, Link, OutgoingMessage, Publisher, TargetNames, Verdict};
use postbound_event::{Action, BATCH_CONTENT_TYPE, BatchBuilder, EventHeader, UserKey};
use postbound_store::{Cursor, LogRow, OpenWindow, Page, Registration, Saved, Store, within};
use postbound_telemetry::Component;
use std::{str::FromStr as _, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// How often the cursor is written while it moves. A crash republishes at most what was confirmed since.
const SAVE_EVERY: Duration = Duration::from_millis(100);

/// How long a statement about the cursor may take.
const SAVE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often S1 is written though nothing of ours was committed: log partitions are kept while it is old.
const SAVE_IDLE_EVERY: Duration = Duration::from_secs(60);

/// Everything one target's stream works with.
#[derive(Clone)]
pub(crate) struct StreamContext {
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) settings: RelaySettings,
    pub(crate) lease_token: i64,
    pub(crate) pulse: Pulse,
    pub(crate) rounds: ProjectionRounds,
    pub(crate) guard: Guard,
    pub(crate) component: Component,
}

/// One connection's worth of a target's stream: from claiming the cursor to the first error, or to the end.
pub(crate) struct Session {
    context: StreamContext,
    target: Registration,
    wanted: Filter,
    names: TargetNames,
    health: StreamHealth,
    reader: WindowReader,
    publisher: Publisher,
    blocked: watch::Receiver<bool>,
    /// When RabbitMQ was last seen to block us; no confirm is due from before then.
    blocked_at: Option<Instant>,
    slots: Vec<Slot>,
    buffered: usize,
    cursor: Cursor,
    window: Option<Window>,
    save_at: Option<Instant>,
    gauges: Arc<StreamGauges>,
}

/// Runs one session. Ok: it was told to stop.
pub(crate) async fn run_session(
    mut context: StreamContext,
    target: Registration,
    names: TargetNames,
    gauges: Arc<StreamGauges>,
    stop: CancellationToken,
) -> Result<(), Interrupted> {
    let link = context.broker.connect(&format!("postbound relay {}", target.name)).await?;
    let publisher = Publisher::open(&link).await?;
    let cursor = context.store.claim_cursor(&target.name, context.lease_token);
    let cursor =
        within(SAVE_TIMEOUT, cursor).await?.ok_or_else(|| Interrupted::Fenced(target.name.clone()))?;
    // After the claim: one from before a change of the partitions cannot move the cursor any more.
    let entered = context.store.enter_generation(&target.name, context.lease_token, names.generation());
    if !within(SAVE_TIMEOUT, entered).await? {
        return Err(Interrupted::Repartitioned(target.name.clone()));
    }
    // Last: both sides are looked at as this session has them.
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        admitted = context.guard.admit(cursor.server_started) => admitted?,
    }
    let slots = (0..target.partitions).map(|_| Slot::new()).collect();
    let blocked = link.blocked();
    let wanted = Filter::of(&target);
    let last_states = Arc::new(LastStates::new(target.name.clone(), wanted.clone(), context.rounds.clone()));
    let mut session = Session {
        health: StreamHealth::new(context.component.clone(), names.clone()),
        reader: WindowReader {
            store: context.store.clone(),
            limits: context.settings.page_limits(),
            last_states,
        },
        context,
        target,
        wanted,
        names,
        publisher,
        blocked,
        blocked_at: None,
        slots,
        buffered: 0,
        cursor,
        window: None,
        save_at: None,
        gauges,
    };
    let outcome = session.run(&link, &stop).await;
    session.health.asks();
    // What was confirmed need not be published again by the next session, or the next relay.
    if !matches!(outcome, Err(Interrupted::Fenced(_))) {
        let saved = session.save().await;
        if outcome.is_ok() {
            saved?;
        }
    }
    link.close().await;
    outcome
}

impl Session {
    async fn run(&mut self, link: &Link, stop: &CancellationToken) -> Result<(), Interrupted> {
        self.health.started();
        if let Some(open) = self.cursor.open.clone() {
            self.reopen(&open).await?;
        }
        let mut confirm_check = tokio::time::interval(Duration::from_secs(1));
        loop {
            self.publish_due();
            self.close_finished_window();
            self.report();
            self.health.has_work(self.window.is_some() || self.save_is_due());
            let retry_at = self.slots.iter().filter_map(Slot::retry_at).min();
            let blocked = *self.blocked.borrow();
            let room = self.buffered < self.context.settings.page_rows as usize;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = link.lost() => return Err(Interrupted::ConnectionLost),
                halted = self.context.guard.halted() => return Err(halted),
                settled = self.publisher.next() => { let (id, verdict) = settled?; self.settled(id, verdict); }
                page = next_page(&mut self.window), if room => self.take_page(&page?)?,
                () = self.context.pulse.changed(), if self.window.is_none() => self.look().await?,
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() && !blocked => {}
                changed = self.blocked.changed() => changed.map_err(|_| Interrupted::ConnectionLost)?,
                () = sleep_until(self.save_at.unwrap_or_else(Instant::now)), if self.save_at.is_some() => {
                    self.save().await?;
                }
                _ = confirm_check.tick() => { self.check_confirms()?; self.check_rewound().await?; }
            }
        }
    }

    /// Is there anything between the last snapshot and the current one?
    async fn look(&mut self) -> Result<(), Interrupted> {
        let recent = self.context.pulse.current().await;
        if *recent.snapshot == *self.cursor.done {
            return Ok(());
        }
        self.health.asks();
        self.window = recent.window(&self.reader, &self.cursor.done).await?;
        self.opened(&recent.snapshot);
        Ok(())
    }

    /// Goes on with a window that was begun, with the S2 it was begun with.
    async fn reopen(&mut self, open: &OpenWindow) -> Result<(), Interrupted> {
        self.health.asks();
        self.window =
            Window::open(&self.reader, &self.cursor.done, &open.snapshot, open.confirmed_id).await?;
        self.opened(&open.snapshot);
        Ok(())
    }

    fn opened(&mut self, snapshot: &str) {
        self.health.progress();
        if self.window.is_some() {
            self.context.pulse.found();
        } else {
            // Nothing of ours was committed in between: S2 may become S1 without being stored.
            snapshot.clone_into(&mut self.cursor.done);
            self.cursor.open = None;
            self.save_at.get_or_insert_with(|| Instant::now() + SAVE_IDLE_EVERY);
        }
    }

    fn take_page(&mut self, page: &Page) -> Result<(), Interrupted> {
        if page.server_started.is_some_and(|started| started != self.cursor.server_started) {
            return Err(Interrupted::ServerChanged);
        }
        let wanted = page.rows.iter().filter(|row| self.wanted.wants(row));
        self.context.guard.published().note(&self.target.name, wanted.clone());
        for row in wanted {
            let partition = UserKey::new(&*row.tenant_id, &*row.user_id).partition(self.target.partitions);
            self.slots[usize::from(partition)].push(render(row)?);
            self.buffered += 1;
        }
        self.health.progress();
        self.save_soon();
        Ok(())
    }

    fn publish_due(&mut self) {
        if *self.blocked.borrow() {
            return;
        }
        let settings = &self.context.settings;
        let limits = MessageLimits { events: settings.message_events_max, bytes: settings.message_bytes_max };
        let now = Instant::now();
        for (partition, slot) in self.slots.iter_mut().enumerate() {
            let Some(message) = slot.take_due(now, limits) else { continue };
            self.publisher.publish(OutgoingMessage {
                exchange: self.names.exchange(),
                routing_key: self.names.routing_key(partition as u16),
                content_type: BATCH_CONTENT_TYPE,
                id: partition as u64,
                headers: Headers::new(),
                body: Arc::clone(&message.body),
            });
            postbound_failpoint::pass("relay.published");
        }
    }

    /// The message's id is its partition: there is one at most.
    fn settled(&mut self, id: u64, verdict: Verdict) {
        let partition = id as usize;
        let Some(slot) = self.slots.get_mut(partition) else { return };
        match verdict {
            Verdict::Confirmed => {
                postbound_failpoint::pass("relay.confirmed");
                let events = slot.confirmed();
                self.buffered -= events;
                self.health.progress();
                self.gauges.published.increment(events as u64);
                self.save_soon();
            }
            Verdict::Refused => {
                slot.refused(Instant::now(), Refusal::Full);
                self.gauges.nacked.increment(1);
            }
            Verdict::Unroutable => {
                slot.refused(Instant::now(), Refusal::Unroutable);
                self.gauges.returned.increment(1);
            }
        }
    }

    /// S1 := S2, once every row of the window is read and confirmed.
    fn close_finished_window(&mut self) {
        let finished = self.window.as_ref().is_some_and(|window| window.all_read)
            && self.slots.iter().all(Slot::is_empty);
        if finished && let Some(window) = self.window.take() {
            self.cursor.done = window.snapshot;
            self.cursor.open = None;
            self.save_soon();
        }
    }

    fn save_soon(&mut self) {
        let soon = Instant::now() + SAVE_EVERY;
        self.save_at = Some(self.save_at.map_or(soon, |at| at.min(soon)));
    }

    fn save_is_due(&self) -> bool {
        self.save_at.is_some_and(|at| at <= Instant::now())
    }

    /// Writes the cursor: S1, and for an open window its S2 together with the confirmed prefix.
    async fn save(&mut self) -> Result<(), Interrupted> {
        if self.save_at.take().is_none() {
            return Ok(());
        }
        if let Some(window) = &self.window {
            let oldest = self.slots.iter().filter_map(Slot::oldest).map(|(id, _)| id).min();
            let confirmed_id = oldest.map_or(window.read_id, |id| id - 1);
            self.cursor.open = Some(OpenWindow { snapshot: window.snapshot.clone(), confirmed_id });
        }
        self.health.asks();
        let moved = self.context.store.save_cursor(&self.target.name, self.context.lease_token, &self.cursor);
        match within(SAVE_TIMEOUT, moved).await? {
            Saved::Yes => {
                postbound_failpoint::pass("relay.cursor_saved");
                self.health.progress();
                Ok(())
            }
            Saved::Fenced => Err(Interrupted::Fenced(self.target.name.clone())),
        }
    }

    fn check_confirms(&mut self) -> Result<(), Interrupted> {
        let blocked = *self.blocked.borrow();
        self.gauges.blocked.set(f64::from(u8::from(blocked)));
        self.health.say(&self.slots, blocked);
        if blocked {
            self.blocked_at = Some(Instant::now());
            return Ok(());
        }
        let oldest = self.slots.iter().filter_map(Slot::unconfirmed_since).min();
        let timeout = self.context.settings.confirm_timeout;
        match oldest {
            Some(since) if self.blocked_at.map_or(since, |at| at.max(since)).elapsed() > timeout => {
                Err(Interrupted::Unconfirmed(timeout))
            }
            _ => Ok(()),
        }
    }

    /// An idle stream moves no cursor, so it has to ask whether an operator has rewound it.
    async fn check_rewound(&mut self) -> Result<(), Interrupted> {
        self.health.asks();
        match within(SAVE_TIMEOUT, self.context.store.cursor_rewinds(&self.target.name)).await? {
            Some(rewinds) if rewinds == self.cursor.rewinds => {
                self.health.progress();
                Ok(())
            }
            _ => Err(Interrupted::Fenced(self.target.name.clone())),
        }
    }

    fn report(&self) {
        let oldest = self.slots.iter().filter_map(Slot::oldest).min();
        let rows = match (&self.window, oldest) {
            (Some(window), Some((id, _))) => window.bounds.last_id - id + 1,
            _ => 0,
        };
        let age = oldest.map_or(0.0, |(_, at)| (OffsetDateTime::now_utc() - at).as_seconds_f64().max(0.0));
        self.gauges.lag_rows.set(rows as f64);
        self.gauges.lag_seconds.set(age);
        self.gauges.unconfirmed.set(self.publisher.unconfirmed() as f64);
    }
}

async fn next_page(window: &mut Option<Window>) -> Result<Page, postbound_store::StoreError> {
    match window {
        Some(window) if !window.all_read => window.next_page().await,
        _ => std::future::pending().await,
    }
}

fn render(row: &LogRow) -> Result<Ready, Interrupted> {
    let action = Action::from_str(&row.action)
        .map_err(|error| Interrupted::Row { id: row.id, why: error.to_string() })?;
    let header = EventHeader {
        id: row.event_id,
        log_id: row.id,
        tenant: &row.tenant_id,
        user: &row.user_id,
        version: row.version,
        action,
        origin: row.origin.as_deref(),
        traceparent: row.traceparent.as_deref(),
        logged_at: row.logged_at,
        resend: 0,
        job: None,
    };
    let rendered = BatchBuilder::render(&header, &row.data)
        .map_err(|error| Interrupted::Row { id: row.id, why: error.to_string() })?;
    Ok(Ready { log_id: row.id, logged_at: row.logged_at, rendered })
}
