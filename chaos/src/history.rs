//! All that is known of a run when it is over. The checker reads nothing else.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::clock::MomentUs;
use crate::population::User;
use crate::producer::Transaction;
use crate::target::Target;
use crate::wire::Request;

/// A run, as its source, its targets and its ledger tell it.
pub(crate) struct History {
    /// Every committed change, per user by version: the source.
    pub(crate) source: BTreeMap<User, Vec<Change>>,
    /// The version of each user's newest state, as Postbound keeps it for resyncs and bare deletes.
    pub(crate) projected: BTreeMap<User, i64>,
    /// What operators ordered.
    pub(crate) jobs: Jobs,
    /// What the application's clients believe of their transactions.
    pub(crate) transactions: Vec<Transaction>,
    /// The targets.
    pub(crate) targets: Vec<TargetHistory>,
    /// When each process stood still or was dead.
    pub(crate) standstills: BTreeMap<String, Vec<Standstill>>,
}

/// Jobs, and their items by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub(crate) struct Jobs {
    pub(crate) jobs: i64,
    pub(crate) delivered: i64,
    pub(crate) superseded: i64,
    pub(crate) dead: i64,
    pub(crate) unsettled: i64,
}

/// A time in which a process did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standstill {
    pub(crate) from_us: MomentUs,
    pub(crate) to_us: MomentUs,
}

/// A committed change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    pub(crate) version: i64,
    pub(crate) action: String,
    pub(crate) mark: String,
    /// A delete that says no more than who is gone.
    pub(crate) bare: bool,
}

impl Change {
    pub(crate) fn is_delete(&self) -> bool {
        self.action == "deleted"
    }
}

/// What is known of one target.
pub(crate) struct TargetHistory {
    pub(crate) target: Target,
    /// The receiver's own log, per user in the order of effect.
    pub(crate) seen: BTreeMap<User, Vec<Seen>>,
    /// What the receiver holds in the end.
    pub(crate) holds: BTreeMap<User, Holding>,
    /// What the links saw, in the order in which requests were whole.
    pub(crate) requests: Vec<Request>,
    /// The ledger in the end.
    pub(crate) ledger: BTreeMap<User, Entry>,
    /// How it came to that, per user in order.
    pub(crate) steps: BTreeMap<User, Vec<Step>>,
    /// Users who wait for another attempt, and why.
    pub(crate) parked: BTreeMap<User, String>,
    /// Versions that jobs brought.
    pub(crate) by_jobs: BTreeMap<User, Vec<i64>>,
    /// Dead letters.
    pub(crate) letters: BTreeMap<User, Vec<Letter>>,
}

/// One user of one request, as the receiver logged it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Seen {
    /// Orders the effects on one user.
    pub(crate) id: i64,
    /// The version it bore, by header, body or name.
    pub(crate) version: Option<i64>,
    /// The mark it bore.
    pub(crate) mark: Option<String>,
    /// What the receiver made of it.
    pub(crate) outcome: String,
    /// The status it answered.
    pub(crate) status: i32,
    pub(crate) key: Option<String>,
    pub(crate) body_sha256: String,
    pub(crate) at_us: MomentUs,
}

impl Seen {
    /// Whether the receiver took it: changed by it, or had it already.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.outcome.as_str(), "applied" | "ignored" | "duplicate" | "replayed")
    }

    /// Whether it reached the receiver's own code, taken or refused for a newer version.
    pub(crate) fn is_executed(&self) -> bool {
        self.is_taken() || self.outcome == "stale"
    }
}

/// What a receiver holds of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Holding {
    pub(crate) version: Option<i64>,
    /// None where the receiver keeps no pictures.
    pub(crate) mark: Option<String>,
    pub(crate) is_active: bool,
}

/// The ledger's word on a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    pub(crate) delivered_version: i64,
    pub(crate) dead_version: i64,
}

impl Entry {
    pub(crate) fn settled_version(&self) -> i64 {
        self.delivered_version.max(self.dead_version)
    }
}

/// A change of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    pub(crate) entry: Entry,
    /// When it was committed.
    pub(crate) at_us: MomentUs,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Letter {
    pub(crate) version: i64,
    pub(crate) reason: String,
    pub(crate) class: String,
}
