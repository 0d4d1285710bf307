//! What callers of the API may say of a user.

use serde_json::{Map, Value};

use crate::events::check_user;
use crate::problem::Problem;

/// Fields that must be text where they are given.
const TEXTS: [&str; 9] =
    ["email", "username", "displayName", "firstName", "lastName", "name", "phone", "imageUrl", "avatar"];
/// Longest text of these.
const TEXT_BYTES_MAX: usize = 2048;
/// Longest theme.
const THEME_BYTES_MAX: usize = 64;
/// What users may change of themselves; their e-mail address is Clerk's to change.
const OWN: [&str; 4] = ["theme", "firstName", "lastName", "imageUrl"];

/// Takes a text out of the body; null counts as absent.
pub(crate) fn take_text(body: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Problem> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(Problem::malformed(format!("{name} must be a text that is not empty"))),
    }
}

/// Refuses (422) fields that are longer than any of their kind, or not of the schema of a user.
pub(crate) fn check(fields: &Map<String, Value>) -> Result<(), Problem> {
    for (name, value) in fields {
        let fits = match name.as_str() {
            name if TEXTS.contains(&name) => is_text(value, TEXT_BYTES_MAX) || value.is_null(),
            "theme" => is_text(value, THEME_BYTES_MAX) && value != "" || value.is_null(),
            "isActive" | "isAdmin" => value.is_boolean() || value.is_null(),
            "deletedAt" | "reason" => false,
            _ => true,
        };
        if !fits {
            return Err(Problem::unacceptable(format!(
                "{} is of the wrong type, too long or not to be set",
                shown(name)
            )));
        }
    }
    check_user(&Value::Object(fields.clone()), "")
}

/// Refuses (422) what users may not change of themselves.
pub(crate) fn check_own(fields: &Map<String, Value>) -> Result<(), Problem> {
    match fields.keys().find(|name| !OWN.contains(&name.as_str())) {
        Some(name) => {
            let detail = format!("{} is not yours to change; {} are", shown(name), OWN.join(", "));
            Err(Problem::unacceptable(detail))
        }
        None => check(fields),
    }
}

fn is_text(value: &Value, bytes_max: usize) -> bool {
    value.as_str().is_some_and(|text| text.len() <= bytes_max && !text.contains('\0'))
}

/// A name from outside, short enough for a message.
fn shown(name: &str) -> String {
    name.chars().take(40).collect()
}
