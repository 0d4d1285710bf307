//! I3: a user's states reach a target in the order of their versions, one at a time.
//!
//! A receiver may execute an older state after a newer one (or refuse it, if it guards versions) only where the promise
//! does not hold: the older request had left its worker before the ledger held the newer state, so that its outcome was
//! unknown and it was executed late, or nobody knew yet that the newer one had arrived. A worker that stood still with a
//! request in hand sends it when it goes on; that, too, is excused. What began after the ledger had the newer state is a
//! violation, whatever was executed when. An event target sees each event for the first time in its turn, without excuse.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::{MomentUs, seconds};
use crate::history::{History, Seen, Standstill, TargetHistory};
use crate::population::User;
use crate::settings::REQUEST_TIMEOUT;
use crate::wire::Request;

/// How far a link's view of a request may lag behind its sender's, on a busy machine.
const SLACK_US: MomentUs = 500_000;
/// How long after it goes on a process may still act on what it decided before.
const THAW_US: MomentUs = 2_000_000;

/// Something out of order.
pub(crate) struct Disorder {
    pub(crate) user: User,
    pub(crate) what: String,
    pub(crate) at_us: MomentUs,
}

/// What is out of order at a target.
pub(crate) fn check(history: &History, target: &TargetHistory) -> Vec<Disorder> {
    let order = Order { history, target, by_key: by_key(&target.requests) };
    let mut found = Vec::new();
    for (user, rows) in &target.seen {
        found.extend(order.inversions(user, rows));
        if !target.target.coalesces {
            found.extend(order.skips(user, rows));
        }
    }
    found.extend(order.overlaps());
    found
}

struct Order<'h> {
    history: &'h History,
    target: &'h TargetHistory,
    by_key: BTreeMap<&'h str, Vec<&'h Request>>,
}

fn by_key(requests: &[Request]) -> BTreeMap<&str, Vec<&Request>> {
    let mut by_key: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        by_key.entry(&request.key).or_default().push(request);
    }
    by_key
}

impl Order<'_> {
    /// Older states that were executed after newer ones, and should not have been sent.
    fn inversions(&self, user: &User, rows: &[Seen]) -> Vec<Disorder> {
        let mut newest = 0;
        let mut found = Vec::new();
        for seen in rows.iter().filter(|seen| seen.is_executed()) {
            let Some(version) = seen.version else { continue };
            if version < newest
                && let Err(why) = self.excuse(user, seen, version)
            {
                let what = format!("version {version} was executed after version {newest}: {why}");
                found.push(Disorder { user: user.clone(), what, at_us: seen.at_us });
            }
            if seen.is_taken() {
                newest = newest.max(version);
            }
        }
        found
    }

    /// Events that an event target saw for the first time after newer ones: the next is sent only when one has been taken,
    /// so nothing excuses that but its letter.
    fn skips(&self, user: &User, rows: &[Seen]) -> Vec<Disorder> {
        let letters = self.target.letters.get(user).map_or(&[][..], Vec::as_slice);
        let mut known = BTreeSet::new();
        let mut found = Vec::new();
        for seen in rows.iter().filter(|seen| seen.is_executed()) {
            let Some(version) = seen.version else { continue };
            let newer = known.last().copied().filter(|newest| *newest > version);
            if known.insert(version)
                && let Some(newer) = newer
                && !letters.iter().any(|letter| letter.version == version)
            {
                let what = format!("event {version} was seen for the first time after event {newer}");
                found.push(Disorder { user: user.clone(), what, at_us: seen.at_us });
            }
        }
        found
    }

    /// Why an older state may have been executed after a newer one.
    fn excuse(&self, user: &User, seen: &Seen, version: i64) -> Result<(), String> {
        let steps = self.target.steps.get(user).map_or(&[][..], Vec::as_slice);
        // A letter that is replayed is sent though a newer state is dead, too; an event of an event target, whatever else.
        let letters = self.target.letters.get(user).map_or(&[][..], Vec::as_slice);
        let died = letters.iter().any(|letter| letter.version == version);
        let overtaken = steps.iter().find(|step| step.entry.delivered_version > version);
        let Some(overtaken) = overtaken.filter(|_| !died || self.target.target.coalesces) else {
            return Ok(());
        };
        let requests =
            seen.key.as_deref().and_then(|key| self.by_key.get(key)).map_or(&[][..], Vec::as_slice);
        let mut why = "no such request was seen on the wire".to_owned();
        // An answer comes after what it answers to.
        let may_be_it = |request: &&&Request| {
            request.began_us <= seen.at_us && request.answered_us.is_none_or(|at_us| at_us >= seen.at_us)
        };
        for request in requests.iter().filter(may_be_it) {
            if request.began_us <= overtaken.at_us || self.was_in_hand(request, overtaken.at_us) {
                return Ok(());
            }
            why = format!(
                "{} began to send it {:.3} s after the ledger held version {}",
                request.worker,
                seconds(overtaken.at_us, request.began_us),
                overtaken.entry.delivered_version
            );
        }
        Err(why)
    }

    /// Whether its worker stood still from before `since_us` until just before it was sent.
    fn was_in_hand(&self, request: &Request, since_us: MomentUs) -> bool {
        self.standstills(&request.worker).iter().any(|still| {
            still.from_us <= since_us
                && still.from_us <= request.began_us
                && request.began_us <= still.to_us + THAW_US
        })
    }

    /// Requests of one user that were under way at the same time, as their senders knew.
    fn overlaps(&self) -> Vec<Disorder> {
        let mut by_user: BTreeMap<User, Vec<&Request>> = BTreeMap::new();
        for request in &self.target.requests {
            for (id, _) in &request.users {
                let user = User { tenant: request.tenant.clone(), id: id.clone() };
                by_user.entry(user).or_default().push(request);
            }
        }
        let mut found = Vec::new();
        for (user, mut requests) in by_user {
            requests.sort_by_key(|request| request.began_us);
            for (place, one) in requests.iter().enumerate() {
                let end_us = self.end_us(one);
                let overlapping = requests[place + 1..].iter().take_while(|other| other.began_us < end_us);
                for other in overlapping {
                    let what = format!(
                        "two requests at once: {} began key {} {:.3} s into key {} of {}",
                        other.worker,
                        short(&other.key),
                        seconds(one.began_us, other.began_us),
                        short(&one.key),
                        one.worker
                    );
                    found.push(Disorder { user: user.clone(), what, at_us: other.began_us });
                }
            }
        }
        found
    }

    /// Until when a request was surely under way, in the eyes of a sender that was not standing still.
    fn end_us(&self, request: &Request) -> MomentUs {
        let timeout_us = i64::try_from(REQUEST_TIMEOUT.as_micros()).unwrap_or(i64::MAX);
        let gives_up_us = request.began_us + timeout_us - SLACK_US;
        let stills = self.standstills(&request.worker);
        let still_us = stills
            .iter()
            .filter(|still| request.began_us <= still.to_us)
            .map(|still| still.from_us.max(request.began_us));
        [request.answered_us, request.abandoned_us]
            .into_iter()
            .flatten()
            .chain(still_us)
            .fold(gives_up_us, MomentUs::min)
    }

    fn standstills(&self, process: &str) -> &[Standstill] {
        self.history.standstills.get(process).map_or(&[], Vec::as_slice)
    }
}

/// The beginning of a key, for people.
pub(crate) fn short(key: &str) -> &str {
    key.get(..8).unwrap_or(key)
}
