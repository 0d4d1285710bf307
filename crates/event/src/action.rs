use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What happened to the user. The words are those of seed 002 and of the `action` column of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The user came into being, or came back after a delete.
    Created,
    /// The user's fields changed.
    Updated,
    /// The user is gone; targets soft-delete.
    Deleted,
}

impl Action {
    /// All actions, in the order of a user's life.
    pub const ALL: [Self; 3] = [Self::Created, Self::Updated, Self::Deleted];

    /// The action as it stands in the outbox and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }

    /// The CloudEvents `type` of a change with this action.
    pub fn event_type(self) -> &'static str {
        match self {
            Self::Created => "user.created",
            Self::Updated => "user.updated",
            Self::Deleted => "user.deleted",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no action.
#[derive(Debug, thiserror::Error)]
#[error("unknown action {0:?}; known actions are created, updated and deleted")]
pub struct UnknownAction(pub String);

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        Self::ALL
            .into_iter()
            .find(|action| text == action.as_str() || text == action.event_type())
            .ok_or_else(|| UnknownAction(text.to_owned()))
    }
}
