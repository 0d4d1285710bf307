//! What a target's refusal says in its body: problem details (RFC 9457), and the shapes of the seeds' samples.

use crate::disposition::STALE_CODES;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A refusal's body, as far as it is JSON. No field must be there, none must be of a certain type.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Problem(Map<String, Value>);

impl Problem {
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// `Some` when it says that a newer version is held, with that version if it is told.
    pub(crate) fn stale(&self) -> Option<Option<i64>> {
        let held = self.0.get("heldVersion").and_then(version);
        let named =
            [self.text("code"), self.slug()].into_iter().flatten().any(|word| STALE_CODES.contains(&word));
        (named || held.is_some()).then_some(held)
    }

    /// Its own words, most specific last. They may quote the user: see [`crate::redaction`].
    pub(crate) fn words(&self) -> String {
        let nested = self.0.get("error").and_then(|error| error.get("message")).and_then(Value::as_str);
        let first_detail = self
            .0
            .get("details")
            .and_then(|details| details.get(0))
            .and_then(|detail| detail.get("message"))
            .and_then(Value::as_str);
        let candidates = [
            self.text("code").or(self.slug()),
            self.text("title"),
            self.text("error").or(nested),
            self.text("message"),
            self.text("detail"),
            first_detail.or(self.text("details")),
        ];
        let mut words: Vec<&str> = Vec::new();
        for candidate in candidates.into_iter().flatten() {
            if !candidate.trim().is_empty() && !words.contains(&candidate) {
                words.push(candidate);
            }
        }
        words.join(": ")
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The last segment of `type`.
    fn slug(&self) -> Option<&str> {
        self.text("type")?.rsplit(['/', '#', ':']).next()
    }
}

/// A version as targets tell it; versions begin at 1.
pub(crate) fn version(value: &Value) -> Option<i64> {
    value.as_i64().filter(|version| *version > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_body_that_says_so_is_stale() {
        let check = |body: &str, stale: Option<Option<i64>>| {
            assert_eq!(Problem::parse(body.as_bytes()).and_then(|problem| problem.stale()), stale, "{body}");
        };
        check(r#"{"type":"/problems/stale-version","heldVersion":7}"#, Some(Some(7)));
        check(r#"{"type":"https://crm.example/problems#stale-version"}"#, Some(None));
        check(r#"{"code":"stale_version","heldVersion":"7"}"#, Some(None));
        check(r#"{"heldVersion":7}"#, Some(Some(7)));
        check(r#"{"type":"/problems/stale-version","heldVersion":null}"#, Some(None));
        check(r#"{"type":"/problems/stale-version","heldVersion":7.5}"#, Some(None));
        check(r#"{"type":"/problems/stale-version","heldVersion":-7}"#, Some(None));
        check(r#"{"heldVersion":0}"#, None);
        check(r#"{"type":"/problems/idempotency-key-in-progress"}"#, None);
        check(r#"{"type":"/problems/stale-version-not"}"#, None);
        check(r#"{"error":"stale version"}"#, None);
        check(r#"["stale_version"]"#, None);
        check("stale_version", None);
    }

    #[test]
    fn words_are_gathered_from_every_shape_once() {
        let check = |body: &str, words: &str| {
            assert_eq!(Problem::parse(body.as_bytes()).unwrap().words(), words, "{body}");
        };
        check(r#"{"error":"Invalid payload"}"#, "Invalid payload");
        check(r#"{"error":{"message":"nested"}}"#, "nested");
        check(
            r#"{"success":false,"error":"bad","details":[{"message":"\"email\" is required"}]}"#,
            "bad: \"email\" is required",
        );
        check(
            r#"{"type":"/problems/not-json","title":"Not JSON","detail":"declare it","error":"declare it"}"#,
            "not-json: Not JSON: declare it",
        );
        check(r#"{"error":7}"#, "");
    }
}
