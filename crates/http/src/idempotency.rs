/// Longest key, in characters.
const KEY_CHARS_MAX: usize = 255;

/// What [`parse_key`] takes, as a regular expression for documents.
pub const KEY_PATTERN: &str = r#"^"([ !#-\[\]-~]|\\["\\])+"$"#;

/// The key in `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): the text between the quotes of a
/// structured-field string (RFC 9651, section 4.2.5), unescaped. None where the header is anything else, or the key is
/// empty or longer than 255 characters.
pub fn parse_key(header: &str) -> Option<String> {
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
        let check = |header: &str, expected: Option<&str>| {
            assert_eq!(parse_key(header).as_deref(), expected, "{header}");
        };
        check(r#""8e03978e-40d5""#, Some("8e03978e-40d5"));
        check(r#" "padded" "#, Some("padded"));
        check(r#""a\"b\\c""#, Some(r#"a"b\c"#));
        for header in ["8e03978e", r#""""#, r#"""#, r#""a"b""#, r#""a\n""#, r#""a\""#, "\"\u{e9}\""] {
            check(header, None);
        }
        let longest = "k".repeat(255);
        check(&format!("\"{longest}\""), Some(&longest));
        check(&format!("\"{longest}k\""), None);
    }
}
