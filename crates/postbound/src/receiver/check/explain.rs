//! What was answered, and what Postbound does about it, in the words of README's table of failures.

use super::Contract;
use crate::moment::show_span;
use postbound_config::Retry;
use postbound_target::{Failure, FailureClass, Outcome};

/// The answer as people read it.
pub(super) fn answer(outcome: &Outcome, contract: Contract) -> String {
    match outcome {
        Outcome::Delivered { .. } => {
            let success = match contract {
                Contract::CrmBatch => "2xx, a good result",
                Contract::BackendSync | Contract::Webhook | Contract::WorkflowTrigger => "2xx",
            };
            ids(outcome).map_or_else(|| success.to_owned(), |ids| format!("{success}, {ids}"))
        }
        Outcome::Stale { held_version: Some(held) } => format!("refused: it holds version {held}"),
        Outcome::Stale { held_version: None } => "refused: it holds a newer version".to_owned(),
        Outcome::Failed(failure) => refusal(failure),
    }
}

/// The ids that a success told.
pub(super) fn ids(outcome: &Outcome) -> Option<String> {
    let Outcome::Delivered { external_id, links } = outcome else { return None };
    let own = external_id.iter().map(|id| format!("id {id}"));
    let told: Vec<String> =
        own.chain(links.iter().map(|link| format!("{} {}", link.system, link.id))).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

fn refusal(Failure { status, reason, detail, .. }: &Failure) -> String {
    let head = match status {
        Some(status) if reason.starts_with("http_") => status.to_string(),
        Some(status) => format!("{status}, {reason}"),
        None => format!("no answer, {reason}"),
    };
    if detail.is_empty() { head } else { format!("{head}: {detail}") }
}

/// What Postbound would do. `newest` is the newest version it wants there.
pub(super) fn consequence(outcome: &Outcome, version: i64, newest: i64, retry: &Retry) -> String {
    match outcome {
        Outcome::Delivered { external_id, links } => {
            let what = match usize::from(external_id.is_some()) + links.len() {
                0 => "",
                1 => ", and links the id to the user",
                _ => ", and links the ids to the user",
            };
            format!("settles it as delivered{what}")
        }
        Outcome::Stale { held_version } => {
            // As the worker has it: a version it was never to be told of means that both have parted ways.
            let newest = newest.max(version);
            let is_superseded =
                held_version.map_or(version < newest, |held| (version..=newest).contains(&held));
            match is_superseded {
                true => "settles it as superseded".to_owned(),
                false => "dead-letters it as diverged".to_owned(),
            }
        }
        Outcome::Failed(failure) => of_failure(failure, retry),
    }
}

fn of_failure(failure: &Failure, retry: &Retry) -> String {
    let horizon = show_span(retry.horizon);
    match failure.class {
        FailureClass::Transient if failure.bisect => {
            "halves the request until the user at fault stands alone, who is tried again by the schedule"
                .to_owned()
        }
        FailureClass::Transient if failure.bounded => format!(
            "tries it again by the schedule, and dead-letters it after {} failed tries or {horizon}",
            retry.bounded_attempts
        ),
        FailureClass::Transient => {
            format!(
                "tries it again by the schedule, and dead-letters it after {horizon} if others succeed meanwhile"
            )
        }
        FailureClass::Unknown => {
            "parks the user, as nobody knows whether it took effect, and tries again by the schedule"
                .to_owned()
        }
        FailureClass::Permanent if failure.bisect => format!(
            "halves the request until the user at fault stands alone, who is dead-lettered after {} such tries",
            retry.permanent_attempts
        ),
        FailureClass::Permanent => {
            format!(
                "parks the user, and dead-letters the state after {} such tries",
                retry.permanent_attempts
            )
        }
        FailureClass::WholeTarget => {
            let pause = failure.retry_after.map_or_else(
                || "and probed until it answers again".to_owned(),
                |pause| format!("for the {} it asks for", show_span(pause)),
            );
            format!(
                "opens the breaker: the target is closed for everybody, {pause}; nobody's attempts are used up"
            )
        }
    }
}
