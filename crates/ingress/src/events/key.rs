//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a structured-field string, so quoted.

use axum::http::HeaderMap;

use crate::body::single;
use crate::problem::Problem;

/// Longest key, in characters.
const KEY_CHARS_MAX: usize = 255;

/// The key; 400 where there is none, or anything else under its name.
pub(super) fn of_request(headers: &HeaderMap) -> Result<String, Problem> {
    let refused = |detail: &str| Problem::malformed(detail).with("header", "Idempotency-Key");
    let header = single(headers, "idempotency-key")?.ok_or_else(|| {
        refused(
            "header Idempotency-Key is required: draw a UUID per change, and send it again with every retry",
        )
    })?;
    parse(header)
        .ok_or_else(|| refused("header Idempotency-Key must be a quoted string of at most 255 characters"))
}

/// The text between the quotes, unescaped (RFC 9651, section 4.2.5).
fn parse(header: &str) -> Option<String> {
    let inner = header.strip_prefix('"')?.strip_suffix('"')?;
    let mut key = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => key.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            '"' => return None,
            ' '..='~' => key.push(c),
            _ => return None,
        }
    }
    (!key.is_empty() && key.len() <= KEY_CHARS_MAX).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quoted_string_is_a_key() {
        let check = |header: &str, expected: Option<&str>| {
            assert_eq!(parse(header).as_deref(), expected, "{header}");
        };
        check(r#""8e03978e-40d5""#, Some("8e03978e-40d5"));
        check(r#""a\"b\\c""#, Some(r#"a"b\c"#));
        for header in ["8e03978e", r#""""#, r#"""#, r#""a"b""#, r#""a\n""#, r#""a\""#] {
            check(header, None);
        }
        check(&format!("\"{}\"", "k".repeat(256)), None);
    }
}
