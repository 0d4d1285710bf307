use postbound_event::{Action, Event};
use postbound_store::Held;
use std::collections::VecDeque;

/// Names a message of the partition's consumer.
pub(crate) type Tag = u64;

/// One user's events at one target: they run one after the other, while other users' run beside them.
///
/// Architecture invariant: a lane has at most one delivery under way, and the next starts only when the ledger has
/// the last. A crash between the two then sends the newest state again, never an older one after it.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    held: Held,
    /// By version, each once, none settled.
    queue: VecDeque<Queued>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Queued {
    event: Event,
    tags: Vec<Tag>,
}

#[derive(Debug)]
struct Running {
    version: i64,
    /// One for each event the delivery settles, itself and those folded into it.
    tags: Vec<Tag>,
}

/// The state a lane wants to deliver next.
#[derive(Debug)]
pub(crate) struct Next {
    /// The event that holds the state.
    pub(crate) event: Event,
    /// What the target is to do: `created` while it does not hold the user, else `updated`; `deleted` stays.
    pub(crate) action: Action,
    /// Events that were folded into this one.
    pub(crate) folded: usize,
}

/// What became of an event that entered its lane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It waits, or is the same as one that does; its message stays unacknowledged.
    Waits,
    /// The target holds it, a newer one, or it was dead-lettered: nothing to do.
    Settled,
}

impl Lane {
    pub(crate) fn new(held: Held) -> Self {
        Self { held, ..Self::default() }
    }

    /// Adds an event by its version; one that arrives twice (a redelivery, a relay's takeover) is one event.
    pub(crate) fn enter(&mut self, event: Event, tag: Tag) -> Entered {
        if event.version <= self.held.settled_version() {
            return Entered::Settled;
        }
        if let Some(running) = &mut self.running
            && event.version <= running.version
        {
            running.tags.push(tag);
            return Entered::Waits;
        }
        match self.queue.binary_search_by_key(&event.version, |queued| queued.event.version) {
            Ok(same) => self.queue[same].tags.push(tag),
            Err(place) => self.queue.insert(place, Queued { event, tags: vec![tag] }),
        }
        Entered::Waits
    }

    /// Starts the next delivery, if none is under way. With `fold`, states that wait give way to the newest, up to
    /// and including the next delete: a delete is never folded away, and what follows it is a step of its own.
    pub(crate) fn start(&mut self, fold: bool) -> Option<Next> {
        if self.running.is_some() {
            return None;
        }
        let Queued { mut event, mut tags } = self.queue.pop_front()?;
        let mut folded = 0;
        while fold && event.action != Action::Deleted {
            let Some(mut newer) = self.queue.pop_front() else { break };
            if newer.event.action == Action::Deleted && newer.event.data.get() == "{}" {
                // A bare delete is rendered from the ids and the last known state: here it is.
                newer.event.data = event.data;
            }
            event = newer.event;
            tags.extend(newer.tags);
            folded += 1;
        }
        self.running = Some(Running { version: event.version, tags });
        let action = match (event.action, self.held.present) {
            (Action::Deleted, _) => Action::Deleted,
            (_, true) => Action::Updated,
            (_, false) => Action::Created,
        };
        Some(Next { event, action, folded })
    }

    /// The delivery under way is in the ledger: `held` is what that says now. Gives the message of every event it
    /// settled, once for each.
    pub(crate) fn settled(&mut self, held: Held) -> Vec<Tag> {
        self.held = held;
        let mut tags = self.running.take().map(|running| running.tags).unwrap_or_default();
        // A target that is ahead of us settles what waits below its version, too.
        while self.queue.front().is_some_and(|queued| queued.event.version <= held.settled_version()) {
            tags.extend(self.queue.pop_front().into_iter().flat_map(|queued| queued.tags));
        }
        tags
    }

    pub(crate) fn held(&self) -> Held {
        self.held
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbound_event::UserKey;
    use serde_json::value::RawValue;
    use time::OffsetDateTime;
    use uuid::Uuid;

    fn event(version: i64, action: Action) -> Event {
        Event {
            id: Uuid::nil(),
            log_id: version,
            key: UserKey::new("t", "u"),
            version,
            action,
            origin: None,
            traceparent: None,
            logged_at: OffsetDateTime::UNIX_EPOCH,
            data: RawValue::from_string("{}".to_owned()).unwrap(),
        }
    }

    fn delivered(version: i64, present: bool) -> Held {
        Held { delivered_version: version, dead_version: 0, present }
    }

    /// Enters events of these actions as versions 1, 2, ..., message `version * 10`, and delivers all of them.
    /// Gives what was sent: version and action.
    fn sent(fold: bool, actions: &[Action]) -> Vec<(i64, Action)> {
        let mut lane = Lane::default();
        for (index, action) in actions.iter().enumerate() {
            let version = index as i64 + 1;
            assert_eq!(lane.enter(event(version, *action), version as Tag * 10), Entered::Waits);
        }
        let mut sent = Vec::new();
        let mut acked = Vec::new();
        while let Some(next) = lane.start(fold) {
            assert!(lane.start(fold).is_none(), "one at a time");
            sent.push((next.event.version, next.action));
            acked.extend(lane.settled(delivered(next.event.version, next.action != Action::Deleted)));
        }
        assert!(lane.is_idle());
        assert_eq!(acked, (1..=actions.len() as Tag).map(|version| version * 10).collect::<Vec<_>>());
        sent
    }

    use Action::{Created, Deleted, Updated};

    #[test]
    fn without_folding_every_event_is_sent_in_order() {
        assert_eq!(
            sent(false, &[Created, Updated, Updated, Deleted, Created]),
            [(1, Created), (2, Updated), (3, Updated), (4, Deleted), (5, Created)]
        );
    }

    #[test]
    fn folding_sends_the_newest_state_but_never_folds_a_delete_away() {
        assert_eq!(sent(true, &[Created, Updated, Updated]), [(3, Created)]);
        assert_eq!(sent(true, &[Created, Updated, Deleted]), [(3, Deleted)]);
        assert_eq!(sent(true, &[Updated, Deleted, Created, Updated]), [(2, Deleted), (4, Created)]);
        assert_eq!(sent(true, &[Deleted, Deleted, Created]), [(1, Deleted), (2, Deleted), (3, Created)]);
    }

    #[test]
    fn a_bare_delete_takes_the_state_folded_into_it() {
        let mut lane = Lane::default();
        let mut created = event(1, Created);
        created.data = RawValue::from_string(r#"{"email":"a@example.com"}"#.to_owned()).unwrap();
        lane.enter(created, 1);
        lane.enter(event(2, Deleted), 2);
        assert_eq!(lane.start(true).unwrap().event.data.get(), r#"{"email":"a@example.com"}"#);
    }

    #[test]
    fn what_the_ledger_has_is_not_sent_again() {
        let mut lane = Lane::new(Held { delivered_version: 3, dead_version: 5, present: true });
        assert_eq!(lane.enter(event(3, Updated), 1), Entered::Settled);
        assert_eq!(lane.enter(event(5, Updated), 2), Entered::Settled);
        assert_eq!(lane.enter(event(6, Created), 3), Entered::Waits);
        assert_eq!(lane.start(true).unwrap().action, Updated, "the target holds the user already");
    }

    #[test]
    fn an_event_that_comes_twice_is_sent_once_and_acknowledges_both_messages() {
        let mut lane = Lane::default();
        lane.enter(event(1, Created), 1);
        lane.enter(event(2, Updated), 2);
        let first = lane.start(false).unwrap();
        assert_eq!(first.event.version, 1);
        lane.enter(event(1, Created), 3);
        lane.enter(event(2, Updated), 4);
        assert_eq!(lane.settled(delivered(1, true)), [1, 3]);
        assert_eq!(lane.start(false).unwrap().event.version, 2);
        assert_eq!(lane.settled(delivered(2, true)), [2, 4]);
        assert!(lane.is_idle());
    }

    #[test]
    fn a_target_that_is_ahead_settles_all_it_has_passed() {
        let mut lane = Lane::default();
        for version in 1..=4 {
            lane.enter(event(version, Updated), version as Tag);
        }
        lane.start(false).unwrap();
        assert_eq!(lane.settled(delivered(3, true)), [1, 2, 3]);
        assert_eq!(lane.start(false).unwrap().event.version, 4);
    }
}
