use crate::filter::Filter;
use postbound_store::LogRow;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How long a bare delete holds up its target's stream for the state before it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the projection `user_state` has caught up with the log.
#[derive(Clone, Default)]
pub(crate) struct ProjectionRounds(Arc<AtomicU64>);

impl ProjectionRounds {
    /// The projection has applied all that its snapshot saw.
    pub(crate) fn caught_up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// From 1.
    fn current(&self) -> u64 {
        self.0.load(Ordering::Relaxed) + 1
    }
}

/// What a target's stream does about bare deletes that reach it before the projection has the state before them: it
/// waits, but not for a projection that is stuck or far behind.
pub(crate) struct LastStates {
    target: String,
    wanted: Filter,
    rounds: ProjectionRounds,
    /// The round of the projection in which waiting was given up; 0: never. It is no use again before the next one.
    given_up: AtomicU64,
}

impl LastStates {
    pub(crate) fn new(target: String, wanted: Filter, rounds: ProjectionRounds) -> Self {
        Self { target, wanted, rounds, given_up: AtomicU64::new(0) }
    }

    /// Place of the first row the target wants that has to be read again.
    pub(crate) fn first_awaiting(&self, rows: &[LogRow]) -> Option<usize> {
        if self.given_up.load(Ordering::Relaxed) == self.rounds.current() {
            return None;
        }
        rows.iter().position(|row| row.awaits_state && self.wanted.wants(row))
    }

    /// Whether to go on waiting, after having waited since then.
    pub(crate) fn is_worth_waiting(&self, since: Instant) -> bool {
        if since.elapsed() < PATIENCE {
            return true;
        }
        self.given_up.store(self.rounds.current(), Ordering::Relaxed);
        tracing::warn!(
            target.name = %self.target,
            "user_state is behind; until it has caught up, deletes without data are published without the last known state"
        );
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbound_event::Action;
    use postbound_store::Registration;
    use time::OffsetDateTime;
    use uuid::Uuid;

    fn row(action: &str, awaits_state: bool) -> LogRow {
        LogRow {
            id: 1,
            logged_at: OffsetDateTime::UNIX_EPOCH,
            version: 2,
            event_id: Uuid::nil(),
            tenant_id: "t".into(),
            user_id: "u".into(),
            action: action.into(),
            origin: None,
            targets: None,
            traceparent: None,
            data: "{}".into(),
            awaits_state,
        }
    }

    fn last_states(actions: &[Action]) -> LastStates {
        let target = Registration {
            name: "crm".into(),
            adapter: "crm-batch".into(),
            actions: actions.to_vec(),
            origin: "crm".into(),
            fold: true,
            config_hash: String::new(),
            settings: Default::default(),
            partitions: 16,
        };
        LastStates::new(target.name.clone(), Filter::of(&target), ProjectionRounds::default())
    }

    #[test]
    fn only_a_delete_that_the_target_wants_is_waited_for() {
        let rows = [row("updated", false), row("deleted", false), row("deleted", true)];
        assert_eq!(last_states(&[Action::Deleted]).first_awaiting(&rows), Some(2));
        assert_eq!(last_states(&[Action::Deleted]).first_awaiting(&rows[..2]), None);
        assert_eq!(last_states(&[Action::Created]).first_awaiting(&rows), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_projection_that_was_waited_for_in_vain_is_not_waited_for_until_it_has_caught_up() {
        let (states, rows) = (last_states(&[Action::Deleted]), [row("deleted", true)]);
        let since = Instant::now();
        tokio::time::advance(PATIENCE - Duration::from_millis(1)).await;
        assert!(states.is_worth_waiting(since));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!states.is_worth_waiting(since));
        assert_eq!(states.first_awaiting(&rows), None);
        states.rounds.caught_up();
        assert_eq!(states.first_awaiting(&rows), Some(0));
    }
}
