//! How a state says which one it is: `displayName` and `name` are `v<version>`, the avatar ends in a mark that no other
//! state of any user ever bears.

use serde_json::Value;

/// Everything before a state's mark in its avatar.
pub(crate) const AVATARS: &str = "https://cdn.example.com/";

/// The version a state says it is of.
pub(crate) fn version_of(user: &Value) -> Option<i64> {
    let name = user.get("displayName").or_else(|| user.get("name"))?.as_str()?;
    name.strip_prefix('v')?.parse().ok()
}
