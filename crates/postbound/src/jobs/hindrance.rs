use crate::{
    closed::{cause, scope, why_closed},
    exit::{Exit, failed},
    moment::show_if,
};
use postbound_store::{ClosedScope, JobRow, JobStanding, Store};
use serde::Serialize;
use time::OffsetDateTime;

/// Closed tenants told one by one.
const CLOSED_SHOWN: usize = 5;

/// Something that keeps items of a job from moving.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub(super) enum Hindrance {
    /// The target, or a tenant of it, is paused by hand, or its breaker is open.
    Closed { target: String, scope: ClosedScope },
    /// Nobody sends items.
    NoRelay,
    /// Nobody delivers to the target.
    NoWorker { target: String },
    /// Items wait for the job's rate.
    Rate { waiting: i64, users_per_second: f64 },
    /// Items whose users are parked: they are tried again by themselves.
    Parked {
        items: i64,
        #[serde(with = "time::serde::rfc3339::option")]
        next_attempt_at: Option<OffsetDateTime>,
    },
}

/// A job, and what it waits for.
#[derive(Debug, Serialize)]
pub(super) struct JobReport {
    #[serde(flatten)]
    pub(super) job: JobRow,
    pub(super) waits_for: Vec<Hindrance>,
}

impl JobReport {
    pub(super) async fn of(store: &Store, job: JobRow) -> Result<Self, Exit> {
        let waits_for = match job.items.waiting + job.items.sent {
            0 => Vec::new(),
            _ => hindrances(&job, &store.job_standing(&job).await.map_err(failed)?),
        };
        Ok(Self { job, waits_for })
    }

    /// What it waits for, in a line that changes only when that does.
    pub(super) fn briefly(&self) -> String {
        match self.waits_for.is_empty() {
            true => String::new(),
            false => format!("; waits for: {}", shown(&self.waits_for, Hindrance::briefly).join("; ")),
        }
    }

    /// What it waits for, line by line.
    pub(super) fn lines(&self) -> Vec<String> {
        shown(&self.waits_for, Hindrance::text)
    }
}

/// Of closed tenants the first few.
fn shown(hindrances: &[Hindrance], text: impl Fn(&Hindrance) -> String) -> Vec<String> {
    let (closed, others): (Vec<_>, Vec<_>) =
        hindrances.iter().partition(|one| matches!(one, Hindrance::Closed { .. }));
    let mut lines: Vec<_> = closed.iter().take(CLOSED_SHOWN).map(|one| text(one)).collect();
    if closed.len() > CLOSED_SHOWN {
        lines.push(format!("{} more closed tenants: postbound targets list", closed.len() - CLOSED_SHOWN));
    }
    lines.extend(others.into_iter().map(text));
    lines
}

impl Hindrance {
    fn text(&self) -> String {
        match self {
            Self::Closed { target, scope } => why_closed(target, scope),
            Self::NoRelay => "a relay: none is active; start one with: postbound relay".to_owned(),
            Self::NoWorker { target } => {
                format!("a worker: none serves {target}; start one with: postbound worker")
            }
            Self::Rate { waiting, users_per_second } => {
                format!("its rate: {waiting} items at {users_per_second} users/s")
            }
            Self::Parked { items, next_attempt_at } => {
                format!("parked users: {items} items; the next try is due {}", show_if(*next_attempt_at))
            }
        }
    }

    fn briefly(&self) -> String {
        match self {
            Self::Closed { target, scope: closed } => {
                format!("{} ({})", scope(target, closed.tenant.as_deref()), cause(closed))
            }
            Self::NoRelay => "a relay".to_owned(),
            Self::NoWorker { target } => format!("a worker of {target}"),
            Self::Rate { users_per_second, .. } => format!("its rate of {users_per_second} users/s"),
            Self::Parked { items, .. } => format!("{items} parked items"),
        }
    }
}

/// A job that is paused or stopped waits for an operator, which its state says; what it has sent may wait all the same.
fn hindrances(job: &JobRow, standing: &JobStanding) -> Vec<Hindrance> {
    let (running, target) = (job.state == "running", || job.target.clone());
    let sends = running && job.items.waiting > 0;
    let mut found: Vec<_> = standing
        .closed
        .iter()
        .map(|scope| Hindrance::Closed { target: target(), scope: scope.clone() })
        .collect();
    if running && !standing.relay_active {
        found.push(Hindrance::NoRelay);
    }
    if standing.workers == 0 && (sends || job.items.sent > 0) {
        found.push(Hindrance::NoWorker { target: target() });
    }
    if standing.parked > 0 {
        found.push(Hindrance::Parked { items: standing.parked, next_attempt_at: standing.next_attempt_at });
    }
    if let Some(users_per_second) = job.rate_per_second.filter(|_| sends) {
        found.push(Hindrance::Rate { waiting: job.items.waiting, users_per_second });
    }
    found
}
