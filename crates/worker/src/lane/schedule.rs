use postbound_store::{NextAttempt, ParkedSchedule, Unknown};
use std::time::Duration;

/// When a parked user is tried next.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) parked: ParkedSchedule,
    pub(super) due: bool,
}

/// Whether the last try was refused for the state's content.
pub(super) fn is_refused(schedule: &ParkedSchedule) -> bool {
    schedule.class == "permanent"
}

/// What failed was an older state.
pub(super) fn clean_slate(schedule: ParkedSchedule) -> ParkedSchedule {
    ParkedSchedule {
        attempts: 0,
        repeats: 0,
        first_failed_at: None,
        recent_failures: Vec::new(),
        ..held_back(Some(schedule))
    }
}

/// The schedule of a user the target was closed to: no attempt failed, the next is due as soon as it opens.
pub(crate) fn held_back(schedule: Option<ParkedSchedule>) -> ParkedSchedule {
    let next_attempt = NextAttempt::In(Duration::ZERO);
    match schedule {
        Some(schedule) => ParkedSchedule { next_attempt, ..schedule },
        None => ParkedSchedule {
            attempts: 0,
            repeats: 0,
            next_attempt,
            first_failed_at: None,
            last_failed_at: None,
            reason: "target_closed".to_owned(),
            class: "held".to_owned(),
            status: None,
            detail: String::new(),
            unknown: Unknown::default(),
            recent_failures: Vec::new(),
        },
    }
}
