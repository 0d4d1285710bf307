use crate::{
    guard::{self, Guard},
    jobs::JobRunner,
    last_states::ProjectionRounds,
    maintenance::{STEP_DEADLINE, keep_maintained},
    published::Published,
    pulse::Pulse,
    reconcile::{self, ReconcileSchedule},
    settings::RelaySettings,
    stream::StreamContext,
    supervise::keep_streaming,
    user_state::UserStateStream,
};
use postbound_broker::Broker;
use postbound_store::{RegisteredTarget, RelayLease, Store, StoreError, within};
use postbound_telemetry::{Component, Health, names};
use std::{collections::HashMap, time::Duration};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The relay: active while it holds the lease, else standing by.
pub struct Relay {
    store: Store,
    broker: Broker,
    settings: RelaySettings,
    health: Health,
    holder: String,
    published: Published,
}

/// The streams of the active relay, one per target, each with its own way to be stopped.
struct Streams {
    relay: StreamParts,
    running: HashMap<String, (RegisteredTarget, CancellationToken)>,
    tasks: TaskTracker,
}

struct StreamParts {
    store: Store,
    broker: Broker,
    settings: RelaySettings,
    health: Health,
    lease_token: i64,
    pulse: Pulse,
    rounds: ProjectionRounds,
    guard: Guard,
    stop: CancellationToken,
}

impl Relay {
    /// A relay that calls itself `holder` (host:pid:nonce) in the lease.
    pub fn new(
        store: Store,
        broker: Broker,
        settings: RelaySettings,
        health: Health,
        holder: String,
    ) -> Self {
        Self { store, broker, settings, health, holder, published: Published::default() }
    }

    /// Runs until told to stop; then cursors are saved and the lease is given back.
    pub async fn run(self, stop: CancellationToken) {
        let component = self.health.component("relay").deadline(self.settings.lease * 4);
        while !stop.is_cancelled() {
            let lease = self.settings.lease;
            match within(lease, self.store.acquire_relay_lease(&self.holder, lease)).await {
                Ok(Some(lease)) => {
                    tracing::info!(relay.holder = %self.holder, relay.token = lease.token, "relay is active");
                    metrics::gauge!(names::RELAY_LEADER).set(1.0);
                    component.ready();
                    // While it leads, it turns several times a lease.
                    component.busy();
                    self.lead(&lease, &component, &stop).await;
                    metrics::gauge!(names::RELAY_LEADER).set(0.0);
                }
                Ok(None) => component.standby("another relay is active"),
                Err(error) => {
                    tracing::warn!(error = %error, "cannot ask for the relay lease");
                    component.not_ready("Postgres cannot be reached");
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(self.settings.lease / 5) => {}
            }
        }
    }

    /// Streams while the lease is held.
    async fn lead(&self, lease: &RelayLease, component: &Component, stop: &CancellationToken) {
        let scope = stop.child_token();
        // Ends after the streams, so that its last beat tells of all they published.
        let guard_stop = CancellationToken::new();
        let (guard, guarding) = Guard::start(
            (self.store.clone(), self.broker.clone()),
            lease.token,
            self.published.clone(),
            self.health.component("relay.witness").deadline(guard::DEADLINE),
            guard_stop.clone(),
        );
        let mut streams = Streams {
            relay: StreamParts {
                store: self.store.clone(),
                broker: self.broker.clone(),
                settings: self.settings.clone(),
                health: self.health.clone(),
                lease_token: lease.token,
                pulse: Pulse::start(self.store.clone(), &self.settings, self.health.component("relay.pulse")),
                rounds: ProjectionRounds::default(),
                guard,
                stop: scope.clone(),
            },
            running: HashMap::new(),
            tasks: TaskTracker::new(),
        };
        streams.start_housekeeping();
        let kept = self.hold_lease(lease, component, &mut streams, stop).await;
        scope.cancel();
        streams.tasks.close();
        streams.tasks.wait().await;
        guard_stop.cancel();
        // It bounds its own end.
        let _ = guarding.await;
        if kept && let Err(error) = within(self.settings.lease, self.store.release_relay_lease(lease)).await {
            tracing::warn!(error = %error, "the relay lease was not given back; it runs out by itself");
        }
    }

    /// Renews the lease and keeps the streams those of the registered targets. False: the lease is lost.
    async fn hold_lease(
        &self,
        lease: &RelayLease,
        component: &Component,
        streams: &mut Streams,
        stop: &CancellationToken,
    ) -> bool {
        let mut valid_until = Instant::now() + self.settings.lease;
        loop {
            if let Err(error) = within(self.settings.lease / 4, streams.follow_registry()).await {
                tracing::warn!(error = %error, "cannot read the registered targets");
            }
            tokio::select! {
                () = stop.cancelled() => return true,
                () = sleep(self.settings.lease / 4) => {}
            }
            let asked_at = Instant::now();
            let renewal = tokio::time::timeout_at(
                valid_until,
                self.store.renew_relay_lease(lease, self.settings.lease),
            );
            match renewal.await {
                Ok(Ok(true)) => {
                    valid_until = asked_at + self.settings.lease;
                    component.progress();
                }
                Ok(Ok(false)) => {
                    tracing::warn!("another relay has taken over");
                    return false;
                }
                Ok(Err(error)) => tracing::warn!(error = %error, "the relay lease was not renewed"),
                Err(_) => tracing::warn!("the relay lease was not renewed in time"),
            }
            if Instant::now() + Duration::from_millis(200) > valid_until {
                tracing::warn!("the relay lease has run out; standing by");
                component.not_ready("the lease was lost");
                return false;
            }
        }
    }
}

impl Streams {
    fn start_housekeeping(&self) {
        let parts = &self.relay;
        let deadline = parts.settings.stream_deadline();
        let user_state = UserStateStream {
            store: parts.store.clone(),
            rows_max: parts.settings.page_rows,
            lease_token: parts.lease_token,
            pulse: parts.pulse.clone(),
            rounds: parts.rounds.clone(),
            component: parts.health.component("relay.user_state").deadline(deadline),
        };
        self.tasks.spawn(user_state.run(parts.stop.child_token()));
        let jobs = JobRunner {
            store: parts.store.clone(),
            broker: parts.broker.clone(),
            settings: parts.settings.clone(),
            health: parts.health.clone(),
            lease_token: parts.lease_token,
            guard: parts.guard.clone(),
        };
        self.tasks.spawn(jobs.run(parts.stop.child_token()));
        let reconcile = ReconcileSchedule {
            store: parts.store.clone(),
            broker: parts.broker.clone(),
            settings: parts.settings.clone(),
            component: parts.health.component("relay.reconcile").deadline(reconcile::STEP_DEADLINE),
        };
        self.tasks.spawn(reconcile.run(parts.stop.child_token()));
        self.tasks.spawn(keep_maintained(
            parts.store.clone(),
            parts.settings.clone(),
            parts.health.component("relay.maintenance").deadline(STEP_DEADLINE),
            parts.stop.child_token(),
        ));
    }

    /// Starts streams of new targets, stops those of retired or changed ones.
    async fn follow_registry(&mut self) -> Result<(), StoreError> {
        let registered = self.relay.store.registered_targets().await?;
        let current: HashMap<_, _> = registered
            .into_iter()
            .filter(|target| !target.retired)
            .map(|target| (target.registration.name.clone(), target))
            .collect();
        self.running.retain(|name, (running, stop)| {
            // That workers have drained the generation before changes nothing here.
            let published_as = |target: &RegisteredTarget| (target.registration.clone(), target.generation);
            let unchanged = current.get(name).is_some_and(|now| published_as(now) == published_as(running));
            if !unchanged {
                stop.cancel();
            }
            unchanged
        });
        for (name, target) in current {
            if !self.running.contains_key(&name) {
                let stop = self.start(&name, target.clone());
                self.running.insert(name, (target, stop));
            }
        }
        Ok(())
    }

    fn start(&self, name: &str, target: RegisteredTarget) -> CancellationToken {
        let parts = &self.relay;
        let stop = parts.stop.child_token();
        let context = StreamContext {
            store: parts.store.clone(),
            broker: parts.broker.clone(),
            settings: parts.settings.clone(),
            lease_token: parts.lease_token,
            pulse: parts.pulse.clone(),
            rounds: parts.rounds.clone(),
            guard: parts.guard.clone(),
            component: parts
                .health
                .component(&format!("relay.{name}"))
                .deadline(parts.settings.stream_deadline()),
        };
        self.tasks.spawn(keep_streaming(context, target, stop.clone()));
        stop
    }
}
