//! Reading `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a structured-field string, so quoted.
//!
//! What is remembered under a key lives in Postgres, in the transaction of the change: `migrations/0002_idempotency.sql`.

/// Longest key accepted, in characters.
const KEY_CHARS_MAX: usize = 255;

/// The text between the quotes, unescaped (RFC 9651, section 4.2.5), or `None` where the header is anything else.
pub(crate) fn parse_key(header: &str) -> Option<String> {
    let inner = header.trim().strip_prefix('"')?.strip_suffix('"')?;
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
        let cases: [(&str, Option<&str>); 10] = [
            (r#""8e03978e-40d5""#, Some("8e03978e-40d5")),
            (r#" "padded" "#, Some("padded")),
            (r#""a\"b\\c""#, Some(r#"a"b\c"#)),
            (r#"8e03978e-40d5"#, None),
            (r#""""#, None),
            (r#"""#, None),
            (r#""a"b""#, None),
            (r#""a\n""#, None),
            (r#""a\""#, None),
            ("\"\u{e9}\"", None),
        ];
        for (header, expected) in cases {
            assert_eq!(parse_key(header).as_deref(), expected, "{header}");
        }
        assert_eq!(parse_key(&format!("\"{}\"", "k".repeat(256))), None);
    }
}
