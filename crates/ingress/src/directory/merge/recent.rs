//! States a user was in a moment ago. By them an echo is told from a change: systems repeat what they were sent, and they
//! do so late.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use super::Held;

/// How long after a state was replaced a system may still echo it without saying which version it speaks of. A change
/// back to that very state within this time is taken for an echo, unless it names its version.
pub(super) const ECHO_WINDOW: Duration = Duration::seconds(60);
/// How long states are kept to be compared with.
pub(super) const RECENT_FOR: Duration = Duration::minutes(10);
/// How many of them.
pub(super) const RECENT_MAX: usize = 8;
/// Larger states are not kept.
pub(super) const RECENT_BYTES_MAX: usize = 16 << 10;

/// A state the user was in a moment ago.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Recent {
    #[serde(rename = "v")]
    pub(crate) version: i64,
    /// Since when.
    #[serde(rename = "t", with = "time::serde::timestamp::milliseconds")]
    pub(crate) since: OffsetDateTime,
    /// The system that brought it about, where that is known.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
    #[serde(rename = "s")]
    pub(crate) state: Map<String, Value>,
}

impl Held {
    /// Whether states that might be echoed now are not known: other producers write past the directory. `version` is the
    /// one the echo would be of, where it says so.
    pub(crate) fn lacks_states(&self, version: Option<i64>, now: OffsetDateTime) -> bool {
        if let Some(version) = version {
            return version < self.version && self.recent.iter().all(|recent| recent.version != version);
        }
        // No more than these are kept, however many there were.
        let oldest = self.recent.first().filter(|_| self.recent.len() >= RECENT_MAX);
        let mut before = oldest.map_or(0, |oldest| oldest.version - 1);
        for recent in &self.recent {
            if recent.version > before + 1 && now - recent.since < ECHO_WINDOW {
                return true;
            }
            before = recent.version;
        }
        self.version > before + 1
    }

    /// Adds states that were found elsewhere.
    pub(crate) fn learn(&mut self, found: Vec<Recent>) {
        let known = std::mem::take(&mut self.recent);
        let by_version: BTreeMap<i64, Recent> =
            known.into_iter().chain(found).map(|recent| (recent.version, recent)).collect();
        self.recent = by_version.into_values().collect();
    }

    /// What a system holds that was sent this version last: that state, and on it what it has changed itself since, as it
    /// is not sent its own changes. None: that version is not known any more.
    pub(super) fn held_by(&self, origin: Option<&str>, version: i64) -> Option<Map<String, Value>> {
        let mut later = self.recent.iter().skip_while(|recent| recent.version != version);
        let mut before = later.next()?;
        let mut state = before.state.clone();
        for after in later {
            let is_own = origin.is_some() && after.origin.as_deref() == origin;
            if is_own && after.version == before.version + 1 {
                change_likewise(&mut state, &before.state, &after.state);
            }
            before = after;
        }
        Some(state)
    }

    /// States that were replaced so short a time ago that an echo of them may still come.
    pub(super) fn echoable(&self, now: OffsetDateTime) -> impl Iterator<Item = &Recent> {
        let replaced = self.recent.iter().skip(1).map(|next| next.since);
        let recent = self.recent.iter().zip(replaced);
        recent.filter(move |(_, replaced)| now - *replaced < ECHO_WINDOW).map(|(recent, _)| recent)
    }
}

/// The states to be compared with from now on: those there were, and the one that version is in.
pub(crate) fn remember(
    held: &Held,
    version: i64,
    state: &Map<String, Value>,
    origin: Option<&str>,
    now: OffsetDateTime,
) -> Vec<Recent> {
    let mut recent = held.recent.clone();
    let newest = recent.last().map_or(0, |newest| newest.version);
    let states = [(held.version, &held.state, None), (version, state, origin)];
    for (version, state, origin) in states.into_iter().filter(|(version, ..)| *version > newest) {
        recent.push(Recent { version, since: now, origin: origin.map(str::to_owned), state: state.clone() });
    }
    // A state is of use for as long as it may be echoed: since the next one replaced it.
    let replaced: Vec<_> = recent.iter().skip(1).map(|next| next.since).chain([now]).collect();
    let small = |recent: &Recent| {
        serde_json::to_string(&recent.state).is_ok_and(|text| text.len() <= RECENT_BYTES_MAX)
    };
    let mut kept: Vec<_> = recent
        .into_iter()
        .zip(replaced)
        .filter(|(recent, replaced)| now - *replaced <= RECENT_FOR && small(recent))
        .map(|(recent, _)| recent)
        .collect();
    kept.drain(..kept.len().saturating_sub(RECENT_MAX));
    kept
}

/// Changes a state as another one was changed.
fn change_likewise(state: &mut Map<String, Value>, before: &Map<String, Value>, after: &Map<String, Value>) {
    for (name, value) in after.iter().filter(|(name, value)| before.get(*name) != Some(*value)) {
        state.insert(name.clone(), value.clone());
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        state.remove(name);
    }
}
