use crate::{
    published::Published,
    supervise::Interrupted,
    travel::{LookError, Sides, Travel, witness_of_row},
};
use postbound_broker::{Broker, BrokerError, BrokerWitness, Link, Publisher, Verdict};
use postbound_store::{DatabaseWitness, Store, within};
use postbound_telemetry::Component;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Pause between beats, and between looks while nothing is published.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// RabbitMQ's side is read again at least this often, though no connection was lost.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long what Postgres said of its beat may be acted on: a relay that was frozen since may have been replaced.
const FRESH: Duration = Duration::from_millis(500);
/// How long a session waits to be admitted before it starts over.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one question to Postgres may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a round may take before it counts as hung.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Lets sessions publish only to a RabbitMQ, and from a Postgres, that have not gone back in time.
#[derive(Clone)]
pub(crate) struct Guard {
    looked: watch::Receiver<Option<Looked>>,
    asked: Arc<Notify>,
    published: Published,
}

/// The last look at both sides.
#[derive(Clone)]
struct Looked {
    /// From then on both were asked.
    from: Instant,
    /// Start of the server that was asked.
    server_started: OffsetDateTime,
    /// The history it is in.
    lineage: Uuid,
    verdict: Result<(), Travel>,
}

/// The task behind it.
struct Watch {
    store: Store,
    broker: Broker,
    lease_token: i64,
    component: Component,
    published: Published,
    looked: watch::Sender<Option<Looked>>,
    link: Option<Arc<Link>>,
    publisher: Option<Publisher>,
    /// A beat, or the beginning of a history, that Postgres has and RabbitMQ may not have.
    owed: Option<BrokerWitness>,
    /// The last one RabbitMQ has confirmed over this connection.
    confirmed: Option<BrokerWitness>,
    /// Whether RabbitMQ has no queue for a witness yet.
    unarmed: bool,
    /// Number of published rows the last beat told of.
    told: u64,
    read_at: Option<Instant>,
}

impl Guard {
    /// Starts looking; ends with `stop`, after a last beat.
    pub(crate) fn start(
        (store, broker): (Store, Broker),
        lease_token: i64,
        published: Published,
        component: Component,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (sender, looked) = watch::channel(None);
        let asked = Arc::new(Notify::new());
        let watch = Watch {
            store,
            broker,
            lease_token,
            component,
            published: published.clone(),
            looked: sender,
            link: None,
            publisher: None,
            owed: None,
            confirmed: None,
            unarmed: false,
            told: 0,
            read_at: None,
        };
        let task = tokio::spawn(watch.run(Arc::clone(&asked), stop));
        (Self { looked, asked, published }, task)
    }

    /// Where streams note what they publish.
    pub(crate) fn published(&self) -> &Published {
        &self.published
    }

    /// Waits until both sides were looked at after now, which is after the session's connection to RabbitMQ was made, and
    /// Postgres as the server the session's cursor was claimed on.
    ///
    /// # Errors
    /// When one of them has gone back, or cannot be looked at for long.
    pub(crate) async fn admit(&mut self, server_started: OffsetDateTime) -> Result<(), Interrupted> {
        let now = Instant::now();
        timeout(ADMIT_TIMEOUT, async {
            loop {
                let looked = self.looked.borrow_and_update().clone();
                if let Some(looked) = looked.filter(|looked| looked.from >= now) {
                    looked.verdict.map_err(Interrupted::Halted)?;
                    if looked.server_started == server_started {
                        return Ok(());
                    }
                    // The session asked another server than the guard: it starts over with the current one.
                    return Err(Interrupted::ServerChanged);
                }
                self.asked.notify_one();
                if self.looked.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        })
        .await
        .unwrap_or(Err(Interrupted::Unwitnessed))
    }

    /// Waits until neither side is found to have gone back. Safe to drop and call again.
    pub(crate) async fn resumed(&mut self) {
        let agreed = |looked: &Option<Looked>| looked.as_ref().is_some_and(|looked| looked.verdict.is_ok());
        if self.looked.wait_for(agreed).await.is_err() {
            // The relay ends.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until one side is found to have gone back. Safe to drop and call again.
    pub(crate) async fn halted(&mut self) -> Interrupted {
        let gone_back =
            |looked: &Option<Looked>| looked.as_ref().is_some_and(|looked| looked.verdict.is_err());
        let travel = match self.looked.wait_for(gone_back).await {
            Ok(looked) => looked.as_ref().and_then(|looked| looked.verdict.clone().err()),
            Err(_) => None,
        };
        match travel {
            Some(travel) => Interrupted::Halted(travel),
            // The relay ends.
            None => std::future::pending().await,
        }
    }
}

impl Watch {
    async fn run(mut self, asked: Arc<Notify>, stop: CancellationToken) {
        self.component.busy();
        let mut was_asked = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                done = self.round(was_asked) => if let Err(error) = done {
                    self.link = None;
                    self.component.not_ready(error.to_string());
                }
            }
            self.component.progress();
            was_asked = tokio::select! {
                () = stop.cancelled() => break,
                () = asked.notified() => true,
                () = tokio::time::sleep(BEAT_EVERY) => false,
            };
        }
        // What was published since the last beat is told, so that a clean stop leaves no gap.
        let _ = timeout(Duration::from_secs(2), self.round(false)).await;
        if let Some(link) = self.link.take().and_then(Arc::into_inner) {
            link.close().await;
        }
        self.component.remove();
    }

    async fn round(&mut self, was_asked: bool) -> Result<(), LookError> {
        let halted = self.looked.borrow().as_ref().is_some_and(|looked| looked.verdict.is_err());
        let is_up = self.link.as_ref().is_some_and(|link| link.is_up());
        let stale = self.read_at.is_none_or(|at| at.elapsed() > LOOK_EVERY);
        if was_asked || halted || !is_up || stale {
            self.look().await?;
        } else {
            let now = within(QUERY_TIMEOUT, self.store.database_witness()).await?;
            if self.is_as_looked_at(&now) { self.check_rows().await? } else { self.look().await? }
        }
        let goes_on = self.looked.borrow().as_ref().is_some_and(|looked| looked.verdict.is_ok());
        if goes_on { self.beat().await } else { Ok(()) }
    }

    /// Reads both sides and judges them.
    async fn look(&mut self) -> Result<(), LookError> {
        let from = Instant::now();
        if self.link.as_ref().is_none_or(|link| !link.is_up()) {
            let link = self.broker.connect("postbound relay witness").await?;
            self.publisher = Some(Publisher::open(&link).await?);
            self.link = Some(Arc::new(link));
            self.confirmed = None;
        }
        let Some(link) = self.link.clone() else { return Ok(()) };
        let before = within(QUERY_TIMEOUT, self.store.database_witness()).await?.lineage;
        let mut sides = Sides::look(&self.store, &link, &self.published.rows_of(before)).await?;
        self.restore_overwritten(&mut sides);
        self.unarmed = sides.broker.is_none() && !link.witness_queue().await?.exists;
        self.read_at = Some(Instant::now());
        let verdict = sides.judge();
        let (server_started, lineage) = (sides.database.server.started, sides.database.lineage);
        if verdict.is_ok() {
            self.published.begin(lineage);
            self.owe_what_is_behind(&sides);
            if sides.database.beat == 0 && !self.unarmed && !*link.blocked().borrow() {
                // Before anybody publishes: until then, messages that are lost are not missed.
                self.pay().await?;
            }
        }
        self.say(&sides, &verdict).await?;
        self.looked.send_replace(Some(Looked { from, server_started, lineage, verdict }));
        Ok(())
    }

    /// An older witness after a newer one was confirmed over the same connection: a relay that was frozen has put it there
    /// late. RabbitMQ itself cannot have gone back without the connection being lost.
    fn restore_overwritten(&mut self, sides: &mut Sides) {
        let Some(own) = &self.confirmed else { return };
        let is_of_now = own.beat <= sides.database.beat && own.lineage == sides.database.lineage.to_string();
        let is_older = |found: &BrokerWitness| {
            found.epoch < own.epoch || found.lineage == own.lineage && found.beat < own.beat
        };
        if is_of_now && sides.broker.as_ref().is_some_and(is_older) {
            if own.beat == sides.database.beat {
                self.owed = Some(own.clone());
            }
            sides.broker = Some(own.clone());
        }
    }

    /// A beat that Postgres has and RabbitMQ has not, of a relay that died in between or whose answer from Postgres was lost,
    /// is owed before there is another: however often that happens, RabbitMQ gets no further behind. So is the name of a
    /// history that begins, with beat 0: from the first beat on, a RabbitMQ without it has lost messages. One that has is
    /// given nothing: it would then look as if it had not.
    fn owe_what_is_behind(&mut self, sides: &Sides) {
        let (database, held) = (&sides.database, sides.broker_of_this_history());
        let lineage = database.lineage.to_string();
        let is_newest = |witness: &BrokerWitness| witness.lineage == lineage && witness.beat >= database.beat;
        if held.is_some_and(is_newest) || self.owed.as_ref().is_some_and(is_newest) {
            return;
        }
        self.owed = Some(BrokerWitness {
            epoch: database.epoch,
            beat: database.beat,
            version_max: held.map_or(0, |held| held.version_max).max(database.version_max),
            system_identifier: database.server.system_identifier,
            timeline: database.timeline.unwrap_or(database.server.timeline),
            rows: held.map(|held| held.rows.clone()).unwrap_or_default(),
            lineage,
        });
    }

    /// Whether Postgres is the server of the last look, and in the same history.
    fn is_as_looked_at(&self, now: &DatabaseWitness) -> bool {
        let as_looked_at =
            |looked: &Looked| looked.server_started == now.server.started && looked.lineage == now.lineage;
        self.looked.borrow().as_ref().is_some_and(as_looked_at)
    }

    /// Between two looks at RabbitMQ: whether all that was published is still there.
    async fn check_rows(&mut self) -> Result<(), LookError> {
        if self.published.count() == self.told {
            return Ok(());
        }
        let rows = self.published.rows();
        if within(QUERY_TIMEOUT, self.store.missing_rows(&rows)).await?.is_empty() {
            return Ok(());
        }
        self.look().await
    }

    /// Tells once, where it changes.
    async fn say(&mut self, sides: &Sides, verdict: &Result<(), Travel>) -> Result<(), LookError> {
        match verdict {
            Ok(()) => {
                let server = sides.database.server;
                if let Some(timeline) =
                    sides.database.timeline.filter(|timeline| *timeline != server.timeline)
                {
                    tracing::warn!(
                        timeline.before = timeline,
                        timeline.now = server.timeline,
                        "Postgres was promoted; nothing is missing of what this relay and RabbitMQ's witness know to be \
                         published"
                    );
                }
                if self.published.is_news(None) {
                    tracing::info!("Postgres and RabbitMQ agree again; publishing goes on");
                }
                if self.unarmed {
                    self.component
                        .standby("RabbitMQ has no queue for the witness; run: postbound topology apply");
                } else {
                    self.component.ready();
                }
                within(QUERY_TIMEOUT, self.store.say_halted(None)).await?;
            }
            Err(travel) => {
                let why = travel.to_string();
                if self.published.is_news(Some(&why)) {
                    tracing::error!(error = %why, "publishing is halted");
                }
                self.component.not_ready(why.clone());
                within(QUERY_TIMEOUT, self.store.say_halted(Some(&why))).await?;
            }
        }
        Ok(())
    }

    /// Writes a beat if there is anything to tell: to Postgres, then to RabbitMQ, once RabbitMQ has what it is owed.
    async fn beat(&mut self) -> Result<(), LookError> {
        let is_blocked = self.link.as_ref().is_none_or(|link| *link.blocked().borrow());
        if self.unarmed || is_blocked {
            return Ok(());
        }
        self.pay().await?;
        if self.owed.is_some() {
            // Another beat would leave RabbitMQ further behind, as if it had lost messages.
            return Ok(());
        }
        let count = self.published.count();
        let seen = within(QUERY_TIMEOUT, self.store.database_witness()).await?;
        if !self.is_as_looked_at(&seen) {
            // The first beat of a history that has begun since would come before its name.
            self.read_at = None;
            return Ok(());
        }
        let moved = seen.timeline != Some(seen.server.timeline) || seen.system_identifier.is_none();
        if count == self.told && seen.beat > 0 && !moved {
            return Ok(());
        }
        let version_max = self.published.version_max().max(seen.version_max);
        if !within(QUERY_TIMEOUT, self.store.beat(&seen, version_max, self.lease_token)).await? {
            return Ok(());
        }
        self.owed = Some(witness(&seen, version_max, &self.published));
        self.told = count;
        postbound_failpoint::pass("relay.beat_written");
        self.pay().await
    }

    /// Gives RabbitMQ what it is owed, if that is still what Postgres has.
    async fn pay(&mut self) -> Result<(), LookError> {
        let (Some(publisher), Some(witness)) = (&mut self.publisher, &self.owed) else { return Ok(()) };
        let asked_at = Instant::now();
        let newest = within(QUERY_TIMEOUT, self.store.database_witness()).await?;
        if (newest.beat, newest.lineage.to_string()) != (witness.beat, witness.lineage.clone()) {
            // Another relay has told more since.
            self.owed = None;
            return Ok(());
        }
        if asked_at.elapsed() > FRESH {
            return Ok(());
        }
        match publisher.replace_witness(witness).await? {
            Verdict::Confirmed => self.confirmed = self.owed.take(),
            verdict => {
                let why = format!("it was not taken ({verdict:?}); if this stays: postbound topology apply");
                return Err(BrokerError::Amqp(why).into());
            }
        }
        Ok(())
    }
}

fn witness(seen: &DatabaseWitness, version_max: i64, published: &Published) -> BrokerWitness {
    BrokerWitness {
        epoch: seen.epoch,
        lineage: seen.lineage.to_string(),
        beat: seen.beat + 1,
        version_max,
        system_identifier: seen.server.system_identifier,
        timeline: seen.server.timeline,
        rows: published.rows_of(seen.lineage).iter().map(witness_of_row).collect(),
    }
}
