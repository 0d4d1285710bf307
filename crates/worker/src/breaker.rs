//! Circuit breakers: what holds back requests to a target, or to one tenant of it, while that fails as a whole, and then
//! sends one to see. Nobody's attempts are burnt on it.
//!
//! Open breakers are rows of `postbound.breaker`, shared by all workers. Each worker has a copy in memory ([`state`]),
//! follows the table ([`board`]) and writes what it learns ([`writer`]): an opening counts here at once, a closing when
//! it is in the table. One probe is out over all workers: who claims it in the table may send it.

mod answer;
mod board;
mod judge;
mod state;
#[cfg(test)]
mod tests;
mod window;
mod writer;

pub(crate) use board::BreakerBoard;

use crate::settings::BreakerSettings;
use metrics::Gauge;
use postbound_store::{BreakerRow, Store, within};
use postbound_telemetry::names;
use state::{Standing, State};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};
use writer::Change;

/// How long claiming a probe may take.
pub(crate) const CLAIM_TIMEOUT: Duration = Duration::from_secs(1);
/// Changes that wait to be written at most: one for each request under way when a target fails.
const CHANGES_MAX: usize = 4096;

/// What a breaker is for: a tenant, or the whole target (None).
type Scope = Option<String>;

/// The breakers of one target, as this worker sees them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Breakers(Arc<Inner>);

struct Inner {
    target: Arc<str>,
    settings: BreakerSettings,
    store: Store,
    board: BreakerBoard,
    /// Whether nothing is open: what most requests ask and nothing else.
    all_closed: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
    changes: mpsc::Sender<Change>,
    started: Instant,
    open_whole: Gauge,
    open_tenants: Gauge,
}

/// What a request may do.
pub(crate) enum Passage {
    /// Go on.
    Free {
        /// [`Breakers::openings`] at that time.
        openings: u64,
    },
    /// Go on, as the one request that shows whether the target is back.
    Probe(ProbeToken),
    /// Not for a while: park the user, no attempt was made.
    Held,
}

/// The right to be the probe: here once it is given, over all workers once it is claimed. Dropped before the outcome is
/// judged, it is given back.
pub(crate) struct ProbeToken {
    breakers: Breakers,
    scopes: Vec<Scope>,
    claims: Vec<(Scope, OffsetDateTime)>,
}

/// What must not be loaded from the parked users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClosedOff {
    /// Nobody at all, but for probes.
    pub(crate) whole_target: bool,
    /// Nobody of these tenants, but for probes.
    pub(crate) tenants: Vec<String>,
    /// One user of each of these tenants (None: of any) is wanted, for a probe.
    pub(crate) probes_due: Vec<Option<String>>,
}

impl Breakers {
    /// Starts the writer; it ends with the last handle. Nothing passes until the table was read.
    pub(crate) fn start(
        target: Arc<str>,
        settings: BreakerSettings,
        store: Store,
        board: BreakerBoard,
    ) -> Self {
        let (changes, queue) = mpsc::channel(CHANGES_MAX);
        let open = |scope: &'static str| metrics::gauge!(names::BREAKER_OPEN, "target" => target.to_string(), "scope" => scope);
        let inner = Arc::new(Inner {
            all_closed: AtomicBool::new(false),
            state: Mutex::new(State::new(&settings)),
            changed: Notify::new(),
            started: Instant::now(),
            open_whole: open("target"),
            open_tenants: open("tenants"),
            target,
            settings,
            store,
            board,
            changes,
        });
        tokio::spawn(writer::write(Arc::downgrade(&inner), queue));
        inner.board.add(&inner);
        Self(inner)
    }

    /// Waits until a request of a tenant may go on, or is held for longer than it should wait.
    pub(crate) async fn pass(&self, tenant: &str) -> Passage {
        loop {
            let changed = self.0.changed.notified();
            let wait_until = match self.try_pass(tenant) {
                Ok(passage) => return passage,
                Err(wait_until) => wait_until,
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(wait_until) => {}
            }
        }
    }

    /// Err: ask again then.
    fn try_pass(&self, tenant: &str) -> Result<Passage, Instant> {
        let mut state = self.0.lock();
        let openings = state.openings(tenant);
        match state.standing(tenant, &[], Instant::now()) {
            Standing::Closed => Ok(Passage::Free { openings }),
            Standing::Due => {
                let scopes = state.reserve(tenant);
                Ok(Passage::Probe(ProbeToken { breakers: self.clone(), scopes, claims: Vec::new() }))
            }
            Standing::Held => Ok(Passage::Held),
            Standing::Wait(until) => Err(until),
        }
    }

    /// Waits until a request that passed may no longer go.
    pub(crate) async fn shut(&self, tenant: &str, passage: &Passage) {
        loop {
            let changed = self.0.changed.notified();
            if !self.lets_go(tenant, passage) {
                return;
            }
            changed.await;
        }
    }

    /// Whether a request that passed may still go: nothing has opened since but what it probes.
    fn lets_go(&self, tenant: &str, passage: &Passage) -> bool {
        match passage {
            Passage::Free { .. } if self.0.all_closed.load(Ordering::Acquire) => true,
            Passage::Free { .. } => self.0.lock().standing(tenant, &[], Instant::now()) == Standing::Closed,
            Passage::Probe(token) => {
                self.0.lock().standing(tenant, &token.scopes, Instant::now()) == Standing::Closed
            }
            Passage::Held => false,
        }
    }

    /// Asked right before a request goes out: whether it still may. A probe is claimed here, for as long as the request
    /// can take; false: another worker was faster, or the breaker has changed.
    pub(crate) async fn admit(&self, tenant: &str, passage: &mut Passage, timeout: Duration) -> bool {
        if let Passage::Probe(token) = passage {
            let until = Instant::now() + CLAIM_TIMEOUT + timeout;
            for scope in token.scopes.clone() {
                let claim =
                    self.0.store.claim_probe(&self.0.target, scope.as_deref(), CLAIM_TIMEOUT + timeout);
                match within(CLAIM_TIMEOUT, claim).await {
                    Ok(Some(claim)) => {
                        self.0.lock().probe_claimed(&scope, until);
                        token.claims.push((scope, claim));
                    }
                    Ok(None) => return self.lose_probe(&scope),
                    Err(error) => {
                        tracing::debug!(error = %error, target.name = %self.0.target, "probe not claimed");
                        return self.lose_probe(&scope);
                    }
                }
            }
        }
        self.lets_go(tenant, passage)
    }

    fn lose_probe(&self, scope: &Scope) -> bool {
        self.0.lock().probe_lost(scope, Instant::now());
        self.0.board.refresh();
        false
    }

    /// Whether users of the tenant are to be parked at once.
    pub(crate) fn holds(&self, tenant: &str) -> bool {
        !self.0.all_closed.load(Ordering::Acquire)
            && self.0.lock().standing(tenant, &[], Instant::now()) == Standing::Held
    }

    /// Grows whenever the tenant's breaker opens, or that of the whole target: what failed before then is not to blame.
    pub(crate) fn openings(&self, tenant: &str) -> u64 {
        self.0.lock().openings(tenant)
    }

    /// When a breaker of the tenant, or that of the whole target, last opened because most deliveries failed: what was
    /// counted in its window before then is taken back.
    pub(crate) fn failing_since(&self, tenant: &str) -> Option<OffsetDateTime> {
        self.0.lock().failing_since(tenant)
    }

    /// What of the parked users is not to be loaded, and whose probe is due.
    pub(crate) fn closed_off(&self) -> ClosedOff {
        let state = self.0.lock();
        let (whole, tenants) = state.closed_off(Instant::now());
        let whole_lets_probe = matches!(whole, None | Some(Standing::Due));
        let due = |(tenant, standing): &(&String, Standing)| {
            (whole_lets_probe && *standing == Standing::Due).then(|| Some((*tenant).clone()))
        };
        let whole_due = (whole == Some(Standing::Due)).then_some(None);
        ClosedOff {
            whole_target: whole.is_some(),
            probes_due: whole_due.into_iter().chain(tenants.iter().filter_map(due)).collect(),
            tenants: tenants.into_iter().map(|(tenant, _)| tenant.clone()).collect(),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Takes over the target's rows, unless something changed here since the epoch: false, read again.
    fn apply(&self, rows: &[BreakerRow], read_at: Instant, epoch: u64) -> bool {
        let mut state = self.lock();
        if state.epoch != epoch {
            return false;
        }
        let own: Vec<&BreakerRow> = rows.iter().filter(|row| *row.target == *self.target).collect();
        state.apply(&own, read_at);
        self.publish(&state);
        true
    }

    /// Lets requests and metrics know of a change.
    fn publish(&self, state: &State) {
        self.all_closed.store(state.all_closed(), Ordering::Release);
        let (whole, tenants) = state.count();
        self.open_whole.set(whole as f64);
        self.open_tenants.set(tenants as f64);
        self.changed.notify_waiters();
    }

    /// A place among the changes that wait to be written; None: there is none, and nothing must be changed here that
    /// the table would never hear of.
    fn place(&self) -> Option<mpsc::Permit<'_, Change>> {
        let place = self.changes.try_reserve().ok();
        if place.is_none() {
            tracing::warn!(target.name = %self.target, "a change of the breaker is not taken: too many wait to be written");
        }
        place
    }

    /// For what comes right by itself: a claim that nobody gives back runs out.
    fn submit(&self, change: Change) {
        if let Some(place) = self.place() {
            place.send(change);
        }
    }
}

impl Drop for ProbeToken {
    fn drop(&mut self) {
        let inner = &self.breakers.0;
        let mut state = inner.lock();
        for scope in &self.scopes {
            state.unreserve(scope);
        }
        drop(state);
        for (scope, claim) in self.claims.drain(..) {
            inner.submit(Change::Release { scope, claim });
        }
        inner.changed.notify_waiters();
    }
}
