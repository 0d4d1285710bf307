//! What a change means for what is known of a user: pure, no IO.

mod recent;

use postbound_event::Action;
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(crate) use recent::{Recent, remember};

/// What is said of a user.
#[derive(Debug, Clone)]
pub(crate) enum Word {
    /// These fields have these values from now on; null clears one. Others stay.
    Set(Map<String, Value>),
    /// The user is gone.
    Delete {
        /// Why, where that was said.
        reason: Option<String>,
    },
}

/// Who says it, and with it how it is ordered among what others say.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Says {
    /// Clerk, whose webhooks come in any order: by its own time. A delete bears none and is final.
    Clerk {
        /// `updated_at` of the user as Clerk told it; None for a delete.
        updated_at: Option<OffsetDateTime>,
    },
    /// A system that is told of changes too and may echo them.
    Peer {
        /// The version the system held when it made its change, where it says so.
        version: Option<i64>,
    },
    /// A user's own front end, after a webhook that never came: counts only where nothing is known.
    Fallback,
    /// Whoever calls the API: it counts as the newest.
    Caller {
        /// Whether a deleted user comes back by it.
        revives: bool,
    },
}

/// What is known of a user, read under the user's lock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// Version of the newest change; 0: there is none.
    pub(crate) version: i64,
    /// Whether the user is gone.
    pub(crate) deleted: bool,
    /// Whether the directory has a row.
    pub(crate) known: bool,
    /// The newest state.
    pub(crate) state: Map<String, Value>,
    /// What Clerk said last, and when.
    pub(crate) clerk: Option<ClerkWord>,
    /// States of the last minutes, newest last.
    pub(crate) recent: Vec<Recent>,
}

/// What Clerk said of a user.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClerkWord {
    pub(crate) updated_at: OffsetDateTime,
    pub(crate) profile: Map<String, Value>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// A new version.
    Store {
        /// The change to emit.
        action: Action,
        /// The whole state to emit.
        state: Map<String, Value>,
        /// What Clerk said, if it was Clerk.
        clerk: Option<ClerkWord>,
    },
    /// No new version, but the directory has to have a row that says so, and what Clerk said last, if it was Clerk.
    Remember(Option<ClerkWord>),
    /// No new version, but the directory has to know that the user is gone.
    Bury,
    /// Clerk has said something newer already.
    Older,
    /// Nothing new is said.
    Echo,
    /// The user is gone, and this does not bring anybody back.
    Deleted,
}

/// Judges what `says` has to say; `origin` is the system's name, where it is one.
pub(crate) fn judge(
    held: &Held,
    word: &Word,
    says: Says,
    origin: Option<&str>,
    now: OffsetDateTime,
) -> Verdict {
    match word {
        Word::Delete { reason } => judge_delete(held, reason.as_deref(), now),
        Word::Set(fields) => judge_set(held, fields, says, origin, now),
    }
}

fn judge_delete(held: &Held, reason: Option<&str>, now: OffsetDateTime) -> Verdict {
    if held.deleted || held.version == 0 {
        // Nobody was ever told of the user, or everybody of the delete: only later words must find the tombstone.
        return Verdict::Bury;
    }
    let mut state = held.state.clone();
    state.insert("isActive".to_owned(), false.into());
    state.insert("deletedAt".to_owned(), now.format(&Rfc3339).unwrap_or_default().into());
    match reason {
        Some(reason) => drop(state.insert("reason".to_owned(), reason.into())),
        None => drop(state.remove("reason")),
    }
    Verdict::Store { action: Action::Deleted, state, clerk: None }
}

fn judge_set(
    held: &Held,
    fields: &Map<String, Value>,
    says: Says,
    origin: Option<&str>,
    now: OffsetDateTime,
) -> Verdict {
    let revived = held.deleted && matches!(says, Says::Caller { revives: true });
    if held.deleted && !revived {
        return Verdict::Deleted;
    }
    let said = clerk_word(fields, says);
    if let (Some(said), Some(known)) = (&said, &held.clerk)
        && said.updated_at < known.updated_at
    {
        return Verdict::Older;
    }
    let Some(news) = news(held, fields, says, origin, now) else { return Verdict::Echo };

    let mut state = held.state.clone();
    if revived {
        for field in ["deletedAt", "reason", "isActive"] {
            state.remove(field);
        }
    }
    merge(&mut state, news);
    if !held.known {
        state.entry("theme").or_insert_with(|| "system".into());
    }
    // The directory may be the first to add the theme to a user others wrote: the default tells targets nothing.
    let is_default = |name: &str, value: &Value| !held.known && name == "theme" && value == "system";
    let unchanged =
        state.iter().all(|(name, value)| same(held.state.get(name), value) || is_default(name, value))
            && held.state.iter().all(|(name, value)| value.is_null() || state.contains_key(name));
    if held.version > 0 && !revived && unchanged {
        let is_news = !held.known || said.is_some() && said != held.clerk;
        return if is_news { Verdict::Remember(said) } else { Verdict::Echo };
    }
    let action = if held.version == 0 || revived { Action::Created } else { Action::Updated };
    Verdict::Store { action, state, clerk: said }
}

/// What of the fields is a change by who says so; None: it repeats a state it was told.
fn news<'f>(
    held: &Held,
    fields: &'f Map<String, Value>,
    says: Says,
    origin: Option<&str>,
    now: OffsetDateTime,
) -> Option<Vec<(&'f String, &'f Value)>> {
    let fields = fields.iter().filter(|(name, _)| !is_reserved(name, says));
    let differing = |base: &Map<String, Value>| {
        let differs = |name: &str, value: &Value| match says {
            Says::Peer { .. } => !renders_as(base, name, value),
            _ => !same(base.get(name), value),
        };
        fields.clone().filter(|(name, value)| differs(name, value)).collect::<Vec<_>>()
    };
    match says {
        // A sign-in changes Clerk's time and nothing else: it must not undo what others have changed since.
        Says::Clerk { .. } => Some(match &held.clerk {
            Some(known) => differing(&known.profile),
            None => fields.collect(),
        }),
        Says::Peer { version } => {
            if let Some(base) = version.and_then(|version| held.held_by(origin, version)) {
                return Some(differing(&base)).filter(|news| !news.is_empty());
            }
            let late =
                version.is_none() && held.echoable(now).any(|recent| differing(&recent.state).is_empty());
            (!late).then(|| differing(&held.state))
        }
        // Others may know the user better than a token does.
        Says::Fallback if held.known => None,
        Says::Fallback => Some(fields.filter(|(name, _)| !held.state.contains_key(*name)).collect()),
        Says::Caller { .. } => Some(fields.collect()),
    }
}

fn clerk_word(fields: &Map<String, Value>, says: Says) -> Option<ClerkWord> {
    let Says::Clerk { updated_at: Some(updated_at) } = says else { return None };
    Some(ClerkWord { updated_at, profile: fields.clone() })
}

fn merge(state: &mut Map<String, Value>, news: Vec<(&String, &Value)>) {
    for (name, value) in news {
        if value.is_null() {
            state.remove(name);
        } else {
            state.insert(name.clone(), value.clone());
        }
    }
}

/// Null counts as absent, as the canonical user says.
fn same(known: Option<&Value>, said: &Value) -> bool {
    known.unwrap_or(&Value::Null) == said
}

/// Whether a target that was sent the state may hold the field so: with the value it has, or with the one that targets
/// are sent where there is none (docs/producers.md, "What a user must carry"). Taken for a change it would be kept, and
/// stand in the way when what it was made of changes.
fn renders_as(state: &Map<String, Value>, name: &str, value: &Value) -> bool {
    let known = state.get(name).filter(|known| !known.is_null());
    if let Some(known) = known {
        return known == value;
    }
    let text = |name: &str| state.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let full_name = || {
        let parts: Vec<&str> = ["firstName", "lastName"].into_iter().filter_map(text).collect();
        Some(parts.join(" ")).filter(|full_name| !full_name.is_empty())
    };
    match value {
        Value::Null => true,
        Value::String(said) if said.is_empty() => true,
        Value::Array(said) => said.is_empty(),
        Value::Object(said) => said.is_empty(),
        Value::Bool(said) => *said == (name == "isActive"),
        Value::String(said) => match name {
            "displayName" | "name" => {
                ["displayName", "name", "username", "email"]
                    .into_iter()
                    .filter_map(text)
                    .any(|known| known == said)
                    || full_name().as_deref() == Some(said)
            }
            "avatar" => text("imageUrl") == Some(said),
            "imageUrl" => text("avatar") == Some(said),
            "role" => said == "user",
            _ => false,
        },
        Value::Number(_) => false,
    }
}

/// Fields that are the directory's own, and no webhook's theme.
fn is_reserved(name: &str, says: Says) -> bool {
    match name {
        "id" | "deletedAt" | "reason" => true,
        "theme" => matches!(says, Says::Clerk { .. } | Says::Peer { .. }),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
