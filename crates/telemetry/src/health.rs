use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

/// Whether a process makes progress, as the sum of its components.
///
/// Readiness never depends on whether targets answer, only on whether each loop does what it should: work, or
/// rightly stand by. A loop that has work and stops making progress turns the process not ready by itself, and
/// so does one that ended: a silent stall is the failure nobody sees otherwise.
///
/// Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Health {
    components: Arc<Mutex<BTreeMap<String, Arc<Mutex<Status>>>>>,
}

impl Health {
    /// A process without components, which is not ready until it has some.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component, which starts as [`State::Starting`]. One of the same name is replaced.
    pub fn component(&self, name: &str) -> Component {
        let status = Arc::new(Mutex::new(Status::default()));
        lock(&self.components).insert(name.to_owned(), Arc::clone(&status));
        Component { handle: Arc::new(Handle { name: name.to_owned(), status, health: self.clone() }) }
    }

    /// The state of everything, now.
    pub fn report(&self) -> HealthReport {
        let now = Instant::now();
        let components: BTreeMap<_, _> = lock(&self.components)
            .iter()
            .map(|(name, status)| (name.clone(), lock(status).report(now)))
            .collect();
        let ready = !components.is_empty() && components.values().all(|one| one.state.is_ready());
        HealthReport { ready, components }
    }
}

/// One loop of a process, as it reports itself. Clones report for the same loop; when the last one is dropped
/// the component is [`State::Stopped`], so a task that panicked shows.
///
/// Call it once per batch, not once per event: each call takes a short lock.
#[derive(Debug, Clone)]
pub struct Component {
    handle: Arc<Handle>,
}

impl Component {
    /// Watches progress: while [busy](Self::busy), going longer than this without [`progress`](Self::progress)
    /// is a stall.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        lock(&self.handle.status).deadline = Some(deadline);
        self
    }

    /// It does its work.
    pub fn ready(&self) {
        self.set(State::Ready, None);
    }

    /// It waits, and rightly so: another process holds the lease, there is no partition left.
    pub fn standby(&self, why: impl Into<String>) {
        self.set(State::Standby, Some(why.into()));
    }

    /// It cannot work, and somebody should know why.
    pub fn not_ready(&self, why: impl Into<String>) {
        self.set(State::NotReady, Some(why.into()));
    }

    /// There is work at hand: from now on progress is expected. A loop that always turns, work or not, says so
    /// once.
    pub fn busy(&self) {
        let mut status = lock(&self.handle.status);
        status.busy_since.get_or_insert_with(Instant::now);
    }

    /// There is nothing to do: no progress is expected.
    pub fn idle(&self) {
        lock(&self.handle.status).busy_since = None;
    }

    /// A step was made: a batch published, a message settled, a turn of the loop done.
    pub fn progress(&self) {
        lock(&self.handle.status).progressed = Some(Instant::now());
    }

    /// Takes the component out of the report: it ended as it should, and is not missed.
    pub fn remove(self) {
        let mut components = lock(&self.handle.health.components);
        // A namesake that came later stays.
        if components.get(&self.handle.name).is_some_and(|status| Arc::ptr_eq(status, &self.handle.status)) {
            components.remove(&self.handle.name);
        }
    }

    fn set(&self, state: State, reason: Option<String>) {
        let mut status = lock(&self.handle.status);
        // Time spent in another state is no stall.
        if state != status.state && status.busy_since.is_some() {
            status.busy_since = Some(Instant::now());
        }
        status.state = state;
        status.reason = reason;
    }
}

#[derive(Debug)]
struct Handle {
    name: String,
    status: Arc<Mutex<Status>>,
    health: Health,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut status = lock(&self.status);
        if status.state != State::NotReady {
            status.reason = Some("it ended".to_owned());
        }
        status.state = State::Stopped;
    }
}

/// What a component is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ComponentState)]
pub enum State {
    /// Nothing was said yet.
    #[default]
    Starting,
    /// It works.
    Ready,
    /// It waits, rightly.
    Standby,
    /// It cannot work.
    NotReady,
    /// It is ready and busy, and made no progress within its deadline. Never set, only computed.
    Stalled,
    /// Its task is gone. Set when the last handle is dropped.
    Stopped,
}

impl State {
    /// Whether a process all of whose components are so is ready.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Standby)
    }
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HealthReport {
    /// Whether there are components and each is ready or standing by.
    pub ready: bool,
    /// Each component by name.
    pub components: BTreeMap<String, ComponentReport>,
}

/// One component in a [`HealthReport`].
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ComponentReport {
    /// What it is doing.
    pub state: State,
    /// Why it is not working, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since its last step; none when it has made none.
    pub progress_age_seconds: Option<f64>,
}

#[derive(Debug, Default)]
struct Status {
    state: State,
    reason: Option<String>,
    deadline: Option<Duration>,
    busy_since: Option<Instant>,
    progressed: Option<Instant>,
}

impl Status {
    fn report(&self, now: Instant) -> ComponentReport {
        let age = |since: Instant| now.saturating_duration_since(since);
        let (state, reason) = match self.stalled_for(now) {
            Some(time) => (State::Stalled, Some(format!("made no progress for {} s", time.as_secs()))),
            None => (self.state, self.reason.clone()),
        };
        ComponentReport {
            state,
            reason,
            progress_age_seconds: self.progressed.map(|at| age(at).as_millis() as f64 / 1000.0),
        }
    }

    fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let (State::Ready, Some(deadline), Some(busy)) = (self.state, self.deadline, self.busy_since) else {
            return None;
        };
        let since = self.progressed.map_or(busy, |progressed| progressed.max(busy));
        Some(now.saturating_duration_since(since)).filter(|time| *time > deadline)
    }
}

/// A panic elsewhere must not take health down with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
