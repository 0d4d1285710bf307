use super::Tag;
use postbound_event::{Action, Event, JobPart};
use postbound_store::Unknown;
use std::cmp::Ordering;
use tokio_util::sync::CancellationToken;

/// A state that waits in its lane.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) event: Event,
    /// What the target was told at the first attempt: it stays so.
    pub(super) send_as: Option<Action>,
    pub(super) tags: Vec<Tag>,
    pub(super) items: Vec<JobPart>,
    /// It is stored with its parked user; so it has no tags.
    pub(super) stored: bool,
    /// It came from the target itself, which held everything before it.
    pub(super) echo: bool,
}

/// What of a lane is under way.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) version: i64,
    /// One for each event that is settled with it, itself and those folded into it.
    pub(super) tags: Vec<Tag>,
    /// Items that joined it under way, with their versions; those it began with, its delivery settles.
    pub(super) late_items: Vec<(JobPart, i64)>,
    /// Versions below it that joined it under way and may have been sent before: it was begun without knowing of them.
    pub(super) late_unknown: Unknown,
    /// It is settled without being sent.
    pub(super) echo: bool,
    /// See [`super::Next::hurry`].
    pub(super) hurry: Option<CancellationToken>,
}

impl Running {
    pub(super) fn of(version: i64, tags: Vec<Tag>) -> Self {
        Self { version, tags, ..Self::default() }
    }

    /// Whether `event` is settled with it: it is the same state, or an older one that needs no step of its own.
    pub(super) fn takes_in(&self, event: &Event, folds: bool) -> bool {
        let is_item = event.job.is_some();
        match event.version.cmp(&self.version) {
            Ordering::Less => folds || !is_item,
            Ordering::Equal => !(self.echo && is_item),
            Ordering::Greater => false,
        }
    }

    /// A live change waits for it.
    pub(super) fn make_haste(&self) {
        if let Some(hurry) = &self.hurry {
            hurry.cancel();
        }
    }
}

/// What gave way to a newer state.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub(super) events: usize,
    pub(super) tags: Vec<Tag>,
    pub(super) items: Vec<(JobPart, i64)>,
}

impl Folded {
    pub(super) fn fold(&mut self, older: Queued, mut newer: Queued) -> Queued {
        if newer.event.action == Action::Deleted && newer.event.data.get() == "{}" {
            // A bare delete is rendered from the ids and the last known state: here it is.
            newer.event.data = older.event.data;
        }
        self.events += 1;
        self.tags.extend(older.tags);
        self.items.extend(older.items.iter().map(|item| (*item, older.event.version)));
        newer
    }
}
