use crate::moment::{show as show_moment, show_if};
use postbound_store::{Standing, UserAtTarget};

/// Where a user stands, in one or two words.
pub(super) fn words(standing: Standing) -> &'static str {
    match standing {
        Standing::InSync => "in sync",
        Standing::NotForThisTarget => "not for it",
        Standing::OnItsWay => "on its way",
        Standing::Parked => "parked",
        Standing::HeldBack => "held back",
        Standing::Dead => "dead letter",
    }
}

/// Why it stands so, and what comes next. `way` tells of changes on their way.
pub(super) fn why(row: &UserAtTarget, standing: Standing, way: &str) -> String {
    let mut why = match standing {
        Standing::InSync => format!("since {}", show_if(row.held_since)),
        Standing::NotForThisTarget => "the newest change is not for this target".to_owned(),
        Standing::OnItsWay => way.to_owned(),
        Standing::Parked => parked(row),
        Standing::HeldBack => held_back(row),
        Standing::Dead => format!(
            "letter {}: {}{}; send it again with: postbound users retry",
            row.open_letter.unwrap_or_default(),
            row.letter_reason.as_deref().unwrap_or_default(),
            said(row.letter_detail.as_ref()),
        ),
    };
    if let Some(due) = row.doubt_until {
        why.push_str(&format!(
            "; an older request ended without anyone knowing how, the newest state is sent once more at {}",
            show_moment(due)
        ));
    }
    why
}

fn parked(row: &UserAtTarget) -> String {
    let next = show_if(row.next_attempt_at);
    match row.attempts {
        None | Some(0) => format!("no attempt counted yet; next at {next}"),
        Some(attempts) => format!(
            "attempt {attempts} failed: {}{}; next at {next}",
            row.parked_reason.as_deref().unwrap_or_default(),
            said(row.parked_detail.as_ref()),
        ),
    }
}

fn held_back(row: &UserAtTarget) -> String {
    let since = show_if(row.closed_since);
    match &row.paused_by {
        Some(by) => {
            format!(
                "the target is paused by {by} since {since}: {}",
                row.pause_reason.as_deref().unwrap_or_default()
            )
        }
        None => format!(
            "the target failed since {since}: {}; next probe {}",
            row.closed_reason.as_deref().unwrap_or_default(),
            show_if(row.probe_at)
        ),
    }
}

fn said(detail: Option<&String>) -> String {
    detail.filter(|detail| !detail.is_empty()).map_or_else(String::new, |detail| format!(" ({detail})"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use time::macros::datetime;

    pub(in super::super) fn row() -> UserAtTarget {
        UserAtTarget {
            target: "crm".into(),
            newest_version: 7,
            wanted: Some(true),
            held_version: 5,
            present: true,
            held_since: Some(datetime!(2026-11-21 20:00 UTC)),
            external_id: Some("crm-1".into()),
            links: Default::default(),
            dead_version: 0,
            dead_reason: None,
            open_letter: None,
            letter_version: None,
            letter_reason: None,
            letter_detail: None,
            attempts: None,
            parked_reason: None,
            parked_status: None,
            parked_detail: None,
            last_failed_at: None,
            next_attempt_at: None,
            closed_since: None,
            closed_reason: None,
            probe_at: None,
            paused_by: None,
            pause_reason: None,
            doubt_until: None,
        }
    }

    pub(in super::super) fn parked_row() -> UserAtTarget {
        UserAtTarget {
            attempts: Some(3),
            parked_reason: Some("http_503".into()),
            parked_detail: Some("maintenance".into()),
            next_attempt_at: Some(datetime!(2026-11-21 22:05 UTC)),
            ..row()
        }
    }

    fn check(row: &UserAtTarget, standing: Standing, because: &str) {
        assert_eq!(Standing::of(row), standing, "{row:?}");
        assert_eq!(why(row, standing, "in the queue"), because);
    }

    #[test]
    fn every_standing_says_why() {
        let at = datetime!(2026-11-21 22:00 UTC);
        check(&UserAtTarget { held_version: 7, ..row() }, Standing::InSync, "since 2026-11-21 20:00:00Z");
        check(&row(), Standing::OnItsWay, "in the queue");
        check(&UserAtTarget { wanted: None, ..row() }, Standing::OnItsWay, "in the queue");
        check(
            &UserAtTarget { wanted: Some(false), ..row() },
            Standing::NotForThisTarget,
            "the newest change is not for this target",
        );
        check(
            &parked_row(),
            Standing::Parked,
            "attempt 3 failed: http_503 (maintenance); next at 2026-11-21 22:05:00Z",
        );
        check(
            &UserAtTarget { closed_since: Some(at), closed_reason: Some("timeout".into()), ..parked_row() },
            Standing::HeldBack,
            "the target failed since 2026-11-21 22:00:00Z: timeout; next probe -",
        );
        check(
            &UserAtTarget {
                closed_since: Some(at),
                paused_by: Some("ada".into()),
                pause_reason: Some("migration".into()),
                ..row()
            },
            Standing::HeldBack,
            "the target is paused by ada since 2026-11-21 22:00:00Z: migration",
        );
        let dead = UserAtTarget {
            open_letter: Some(9),
            letter_version: Some(7),
            letter_reason: Some("http_422".into()),
            letter_detail: Some(String::new()),
            ..row()
        };
        check(&dead, Standing::Dead, "letter 9: http_422; send it again with: postbound users retry");
        check(&UserAtTarget { letter_version: Some(6), ..dead.clone() }, Standing::OnItsWay, "in the queue");
        assert_eq!(
            Standing::of(&UserAtTarget { wanted: Some(false), letter_version: Some(6), ..dead }),
            Standing::Dead,
            "an older change the target wants died, and nothing newer will overtake it"
        );
    }

    #[test]
    fn doubt_is_told_beside_the_standing() {
        let doubted =
            UserAtTarget { held_version: 7, doubt_until: Some(datetime!(2026-11-21 22:00 UTC)), ..row() };
        assert!(why(&doubted, Standing::of(&doubted), "").contains("sent once more at 2026-11-21 22:00:00Z"));
    }
}
