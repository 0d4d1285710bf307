use crate::disposition::{CONTENT_STATUSES, Fault};
use std::sync::Arc;
use std::time::Duration;

/// What became of one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The target holds it.
    Delivered {
        /// The target's own id of the user, where its answer tells one (seed 003: `crmUserId`).
        external_id: Option<String>,
        /// Ids that the user has in systems behind the target, where its answer tells any (seed 000: `frontendUserId`
        /// and `crmContactId`). Empty for most targets; holds no two of one system.
        links: Vec<ExternalLink>,
    },
    /// The target says that it holds a newer version and changed nothing.
    Stale {
        /// The version it says it holds.
        held_version: Option<i64>,
    },
    /// It was not delivered, or nobody knows.
    Failed(Failure),
}

/// The user's id in one system behind a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalLink {
    /// The field of the answer that named the id, such as `frontendUserId`: it tells the systems behind one target apart.
    pub system: Arc<str>,
    /// The id, 1 to 512 bytes without control characters.
    pub id: String,
}

impl Outcome {
    /// The target holds the state; its answer told no id.
    pub const DELIVERED: Self = Self::Delivered { external_id: None, links: Vec::new() };
}

/// Why a state was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the worker shall make of it.
    pub class: FailureClass,
    /// A word of a closed set for the ledger and for metrics: `http_422`, `timeout`, `result_missing`, ...
    pub reason: &'static str,
    /// The answer's HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// How long the target asked to be left alone (RFC 9110, `Retry-After`), at most 24 h.
    pub retry_after: Option<Duration>,
    /// What is known beyond the reason, at most 300 characters. Words of the user's data and secrets are masked, so it
    /// may stand in logs and in headers of dead letters.
    pub detail: String,
    /// Whether the request carried several users and failed as one: any of them may be the culprit.
    pub shared: bool,
    /// Whether smaller requests may find the culprit: the request was `shared`, and was refused whole with a permanent
    /// class or with a status that one user's content can cause (400, 413, 422, 500). Never when the outcome is unknown
    /// or no user is at fault.
    pub bisect: bool,
    /// A transient failure without any hint that another try is of use (seed 003: a result with status `failed` and
    /// neither `code` nor `retryable`): tried again by schedule, but given up after a bounded number of attempts.
    pub bounded: bool,
}

/// Kinds of failures, by what to do about them. The table that assigns them is `disposition.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// This user's delivery failed now and may succeed later.
    Transient,
    /// The request may have taken effect, or may still do so after a later one was sent: a timeout, a connection cut
    /// after sending, a gateway that lost the target.
    Unknown,
    /// The target will not take this content.
    Permanent,
    /// No user is at fault: credentials, a missing endpoint, a rate limit, a target that cannot be reached.
    WholeTarget,
}

impl FailureClass {
    /// The class as it stands in the ledger and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Unknown => "unknown",
            Self::Permanent => "permanent",
            Self::WholeTarget => "whole_target",
        }
    }
}

impl Failure {
    /// A failure of one user alone, by its fault.
    pub(crate) fn of(fault: Fault, detail: impl Into<String>) -> Self {
        let (class, reason) = fault.disposition();
        Self::new(class, reason, detail)
    }

    /// A failure without an answer, of one user alone.
    pub(crate) fn new(class: FailureClass, reason: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            class,
            reason,
            status: None,
            retry_after: None,
            detail,
            shared: false,
            bisect: false,
            bounded: false,
        }
    }

    /// The same failure for each of so many users.
    pub(crate) fn for_all(mut self, users: usize) -> Vec<Outcome> {
        self.shared = users > 1;
        vec![Outcome::Failed(self); users]
    }

    /// Sets `bisect` by what else is known.
    pub(crate) fn judge_bisection(&mut self) {
        let content_may_do_it = match self.class {
            FailureClass::Permanent => true,
            FailureClass::Transient => self.status.is_some_and(|status| CONTENT_STATUSES.contains(&status)),
            FailureClass::Unknown | FailureClass::WholeTarget => false,
        };
        self.bisect = self.shared && content_may_do_it;
    }
}
