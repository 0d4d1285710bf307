//! Whether a run kept its promises, per target and user.
//!
//! - **I1**: what clients know of their transactions is so; every change is settled at every target, and what the ledger
//!   calls delivered was executed; no delete and, at an event target, nothing at all was passed over.
//! - **I2**: receivers saw nothing that was not committed.
//! - **I3**: see [`crate::order`].
//! - **I4**: each receiver holds the newest state, or a dead letter of it says why not. At an event target no event undoes
//!   another: there it may hold an older one that it took last, and whether that might come so late is for I3 to say.
//! - **I5**: one key, one body.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::clock::MomentUs;
use crate::history::{Change, Entry, History, Holding, Letter, Seen, TargetHistory};
use crate::order::{self, Disorder};
use crate::population::User;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Violation {
    /// Which invariant.
    pub(crate) invariant: &'static str,
    /// At which target; none: in the source.
    pub(crate) target: Option<&'static str>,
    /// Whose.
    pub(crate) user: Option<User>,
    /// What happened.
    pub(crate) what: String,
    /// When, where it has a time.
    pub(crate) at_us: Option<MomentUs>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.invariant)?;
        if let Some(target) = self.target {
            write!(f, " at {target}")?;
        }
        if let Some(user) = &self.user {
            write!(f, ", {user}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// All broken promises of a run.
pub(crate) fn check(history: &History) -> Vec<Violation> {
    let mut violations = source::check(history);
    for target in &history.targets {
        let mut at = AtTarget { history, target, found: Vec::new() };
        at.check();
        violations.append(&mut at.found);
    }
    violations
}

struct AtTarget<'h> {
    history: &'h History,
    target: &'h TargetHistory,
    found: Vec<Violation>,
}

impl AtTarget<'_> {
    fn check(&mut self) {
        for (user, changes) in &self.history.source {
            self.settled(user, changes);
            self.passed_over(user, changes);
            self.converged(user, changes);
        }
        self.ghosts();
        self.keys();
        for Disorder { user, what, at_us } in order::check(self.history, self.target) {
            self.violated("I3", Some(&user), what);
            if let Some(violation) = self.found.last_mut() {
                violation.at_us = Some(at_us);
            }
        }
    }

    fn violated(&mut self, invariant: &'static str, user: Option<&User>, what: impl Into<String>) {
        let (target, user) = (Some(self.target.target.name), user.cloned());
        self.found.push(Violation { invariant, target, user, what: what.into(), at_us: None });
    }

    /// I1: the newest change is settled, nothing waits, and the ledger claims nothing that was not executed.
    fn settled(&mut self, user: &User, changes: &[Change]) {
        let newest = newest(changes);
        let entry = self.entry(user);
        if entry.settled_version() < newest {
            let settled = entry.settled_version();
            self.violated(
                "I1",
                Some(user),
                format!("version {newest} is not settled, the ledger is at {settled}"),
            );
        }
        if entry.settled_version() > newest {
            self.violated("I1", Some(user), format!("the ledger is past version {newest}: {entry:?}"));
        }
        if let Some(why) = self.target.parked.get(user) {
            self.violated("I1", Some(user), format!("still parked: {why}"));
        }
        let delivered = entry.delivered_version;
        let executed =
            self.seen(user).iter().any(|seen| seen.is_executed() && seen.version == Some(delivered));
        if delivered > 0 && !executed {
            self.violated(
                "I1",
                Some(user),
                format!("the ledger says {delivered} was delivered; it was never executed"),
            );
        }
        let dead = entry.dead_version;
        if dead > 0 && !self.letters(user).iter().any(|letter| letter.version == dead) {
            self.violated(
                "I1",
                Some(user),
                format!("the ledger says {dead} is dead, and there is no letter of it"),
            );
        }
    }

    /// I1: a delete is never folded away; at an event target nothing is.
    fn passed_over(&mut self, user: &User, changes: &[Change]) {
        let owed = changes.iter().filter(|change| change.is_delete() || !self.target.target.coalesces);
        let versions = owed.map(|change| change.version);
        let missing: Vec<i64> = versions
            .filter(|version| {
                let executed = |seen: &Seen| seen.is_executed() && seen.version == Some(*version);
                !self.seen(user).iter().any(executed)
                    && !self.letters(user).iter().any(|letter| letter.version == *version)
                    && !is_overtaken_by_job(self.target, user, *version)
            })
            .collect();
        if !missing.is_empty() {
            self.violated(
                "I1",
                Some(user),
                format!("versions that may not be folded away were: {missing:?}"),
            );
        }
    }

    /// I4: what the receiver holds is the newest state, or there is a letter of it.
    fn converged(&mut self, user: &User, changes: &[Change]) {
        let Some(newest) = changes.last() else { return };
        let dead = self.entry(user).dead_version == newest.version;
        if dead && self.letters(user).iter().any(|letter| letter.version == newest.version) {
            return;
        }
        let what = match self.target.holds.get(user) {
            None if newest.is_delete() => return,
            None => "the target does not hold the user".to_owned(),
            Some(held) if self.took_late(user, held, changes) => return,
            Some(held) => match differs(held, newest) {
                None => return,
                Some(difference) => difference,
            },
        };
        self.violated("I4", Some(user), format!("version {} is the newest; {what}", newest.version));
    }

    /// Whether an event target holds the very event it took last, of whatever version: a replayed letter, say, or a request
    /// that was executed late. Nothing is sent once more for that.
    fn took_late(&self, user: &User, held: &Holding, changes: &[Change]) -> bool {
        let last = self.seen(user).iter().rev().find(|seen| seen.is_taken()).and_then(|seen| seen.version);
        let event = changes.iter().find(|change| Some(change.version) == last && last == held.version);
        !self.target.target.coalesces && event.is_some_and(|event| differs(held, event).is_none())
    }

    /// I2: all that receivers saw was committed, by that user, under that version.
    fn ghosts(&mut self) {
        let target = self.target;
        for (user, rows) in &target.seen {
            let changes = self.history.source.get(user).map_or(&[][..], Vec::as_slice);
            for seen in rows {
                if let Some(what) = ghost(seen, changes) {
                    self.violated("I2", Some(user), what);
                }
            }
        }
    }

    /// I5: no key ever came with two bodies, and none without.
    fn keys(&mut self) {
        let target = self.target;
        let mut bodies: BTreeMap<(&str, &str), &str> = BTreeMap::new();
        let logged = target.seen.iter().flat_map(|(user, rows)| {
            rows.iter().map(move |seen| {
                (user.tenant.as_str(), seen.key.as_deref().unwrap_or(""), seen.body_sha256.as_str())
            })
        });
        let sent = target
            .requests
            .iter()
            .map(|request| (request.tenant.as_str(), request.key.as_str(), request.body_sha256.as_str()));
        let mut broken = BTreeSet::new();
        for (tenant, key, body) in logged.chain(sent) {
            if key.is_empty() {
                broken.insert(format!("a request of tenant {tenant} without a key"));
            } else if *bodies.entry((tenant, key)).or_insert(body) != body {
                broken.insert(format!("key {key} of tenant {tenant} with two bodies"));
            }
        }
        for what in broken {
            self.violated("I5", None, what);
        }
    }

    fn entry(&self, user: &User) -> Entry {
        self.target.ledger.get(user).copied().unwrap_or_default()
    }

    fn seen(&self, user: &User) -> &[Seen] {
        self.target.seen.get(user).map_or(&[], Vec::as_slice)
    }

    fn letters(&self, user: &User) -> &[Letter] {
        self.target.letters.get(user).map_or(&[], Vec::as_slice)
    }
}

/// How many deletes a target never heard of because a job brought it a newer state first.
pub(crate) fn deletes_overtaken(history: &History, target: &TargetHistory) -> usize {
    let deletes = history.source.iter().flat_map(|(user, changes)| {
        changes.iter().filter(|change| change.is_delete()).map(move |change| (user, change.version))
    });
    let unheard = deletes.filter(|(user, version)| {
        let rows = target.seen.get(user).map_or(&[][..], Vec::as_slice);
        !rows.iter().any(|seen| seen.is_executed() && seen.version == Some(*version))
    });
    unheard.filter(|(user, version)| is_overtaken_by_job(target, user, *version)).count()
}

/// A job brings the newest state there is, whatever is still on its way: at a target that folds, a change may be
/// overtaken so, even a delete.
fn is_overtaken_by_job(target: &TargetHistory, user: &User, version: i64) -> bool {
    let brought = target.by_jobs.get(user).map_or(&[][..], Vec::as_slice);
    target.target.coalesces && brought.iter().any(|newer| *newer > version)
}

fn newest(changes: &[Change]) -> i64 {
    changes.last().map_or(0, |change| change.version)
}

fn differs(held: &Holding, newest: &Change) -> Option<String> {
    if newest.is_delete() {
        return held.is_active.then(|| format!("a deleted user is active: {held:?}"));
    }
    let version = held.version.is_none_or(|version| version == newest.version);
    let mark = held.mark.as_ref().is_none_or(|mark| *mark == newest.mark);
    (!held.is_active || !version || !mark).then(|| format!("the target holds {held:?}"))
}

fn ghost(seen: &Seen, changes: &[Change]) -> Option<String> {
    let Some(version) = seen.version else {
        // What a receiver refused may be cut short by what it refused; what it took may not.
        return seen.is_taken().then(|| format!("a request without a version was taken: {seen:?}"));
    };
    let Some(change) = changes.iter().find(|change| change.version == version) else {
        return Some(format!("version {version} was never committed: {seen:?}"));
    };
    let Some(mark) = &seen.mark else {
        let bare = change.bare || change.is_delete();
        return (!bare).then(|| format!("version {version} came without its mark: {seen:?}"));
    };
    // A bare delete goes out with the last known state.
    let honest = *mark == change.mark || change.bare && changes.iter().any(|change| change.mark == *mark);
    (!honest).then(|| format!("version {version} came with mark {mark}, which it never had"))
}

#[cfg(test)]
mod tests;
