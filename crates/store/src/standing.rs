use crate::UserAtTarget;
use serde::Serialize;

/// Where a user stands at a target. Pure: it follows from the row alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The target has the newest change.
    InSync,
    /// The newest change is not for this target, and nothing older waits.
    NotForThisTarget,
    /// Published, being sent, or still in the log.
    OnItsWay,
    /// It failed, and is tried again.
    Parked,
    /// Nothing is sent to the target, or for the tenant, for now.
    HeldBack,
    /// It was given up.
    Dead,
}

impl Standing {
    /// Where the user of this row stands.
    pub fn of(row: &UserAtTarget) -> Self {
        if row.held_version >= row.newest_version {
            Self::InSync
        } else if row.attempts.is_some() || row.closed_since.is_some() && row.wanted != Some(false) {
            match row.closed_since {
                Some(_) => Self::HeldBack,
                None => Self::Parked,
            }
        } else if row.letter_version.is_some_and(|letter| letter >= row.newest_version)
            || row.wanted == Some(false) && row.open_letter.is_some()
        {
            Self::Dead
        } else if row.wanted == Some(false) {
            Self::NotForThisTarget
        } else {
            Self::OnItsWay
        }
    }

    /// Whether nobody has to wait for, or do, anything.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::InSync | Self::NotForThisTarget)
    }
}
