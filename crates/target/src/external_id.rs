//! Ids that a target's answer tells: what may be kept of them.

use serde_json::Value;

/// Longest id of a target that is kept, in bytes.
pub(crate) const BYTES_MAX: usize = 512;

/// Whether the id can be kept.
pub(crate) fn is_usable(id: &str) -> bool {
    !id.is_empty() && id.len() <= BYTES_MAX && !id.chars().any(char::is_control)
}

/// The id at a JSON pointer: a string, or a whole number as it is written.
pub(crate) fn at(answer: &Value, pointer: &str) -> Option<String> {
    let id = match answer.pointer(pointer)? {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return None,
    };
    is_usable(&id).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_text_or_a_whole_number_that_can_be_kept_is_an_id() {
        let check = |id: Value, expected: Option<&str>| {
            assert_eq!(at(&json!({ "a": { "id": id } }), "/a/id").as_deref(), expected);
        };
        check(json!("u-1"), Some("u-1"));
        check(json!(u64::MAX), Some("18446744073709551615"));
        check(json!(-3), Some("-3"));
        check(json!("x".repeat(512)), Some(&"x".repeat(512)));
        for none in [
            json!(""),
            json!("x".repeat(513)),
            json!("a\nb"),
            json!(1.5),
            json!(null),
            json!(true),
            json!(["a"]),
        ] {
            check(none, None);
        }
        assert_eq!(at(&json!({ "id": "u" }), "/other"), None);
    }
}
