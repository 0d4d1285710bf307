//! Makes of a target's own words what may stand in logs and dead letters.
//!
//! Targets quote what they were sent: "email max@example.com is already taken". Whatever word of the users' data comes
//! back is masked, and so are secrets, addresses and long numbers; what is left is the target's own.

use crate::Delivery;
use serde_json::Value;
use std::collections::HashSet;

/// Longest detail, in characters.
pub(crate) const DETAIL_CHARS_MAX: usize = 300;

const MASK: &str = "***";
/// A number this long may be a telephone's.
const DIGITS_MAX: usize = 6;
/// A word of the data this long is masked within longer words too.
const INNER_WORD_BYTES: usize = 4;
const SECRET_BYTES_MIN: usize = 4;

/// Fields whose words tell nothing about a person, and often stand in messages.
static IMPERSONAL: &[&str] = &[
    "id",
    "role",
    "roles",
    "permissions",
    "allowedApplications",
    "subscriptionTier",
    "theme",
    "platform",
    "source",
    "authProvider",
    "locale",
];

/// The users' words and the secrets of one request.
pub(crate) struct Redactor {
    words: HashSet<String>,
    ids: HashSet<String>,
    secrets: Vec<String>,
}

impl Redactor {
    /// Parses the data of the users: only made once there is something to mask.
    pub(crate) fn new<'a>(deliveries: &[&Delivery], secrets: impl Iterator<Item = &'a str>) -> Self {
        let mut words = HashSet::new();
        let mut ids = HashSet::new();
        for delivery in deliveries {
            ids.extend(words_of(&delivery.key.user));
            if let Ok(Value::Object(user)) = serde_json::from_str(delivery.data.get()) {
                for (name, value) in &user {
                    let is_id = value.as_str() == Some(&delivery.key.user);
                    if !is_id && !IMPERSONAL.contains(&name.as_str()) {
                        gather(value, &mut words);
                    }
                }
            }
        }
        let secrets = secrets.filter(|secret| secret.len() >= SECRET_BYTES_MIN).map(str::to_owned).collect();
        Self { words, ids, secrets }
    }

    /// The text on one line, masked, at most [`DETAIL_CHARS_MAX`] characters.
    pub(crate) fn excerpt(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), MASK);
        }
        let mut line = String::new();
        for chunk in
            text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|chunk| !chunk.is_empty())
        {
            if !line.is_empty() {
                line.push(' ');
            }
            self.push_chunk(&mut line, chunk);
            if line.len() > DETAIL_CHARS_MAX * 4 {
                break;
            }
        }
        shorten(&line)
    }

    /// Text between two blanks, masked word by word.
    fn push_chunk(&self, line: &mut String, chunk: &str) {
        let mut rest = chunk;
        while let Some(c) = rest.chars().next() {
            let is_part = |c: char| c.is_alphanumeric() || matches!(c, '@' | '.' | '_' | '-' | '+' | '%');
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            if end == 0 {
                line.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            let (part, after) = rest.split_at(end);
            if part.contains('@') {
                line.push_str(MASK);
            } else {
                self.push_part(line, part);
            }
            rest = after;
        }
    }

    fn push_part(&self, line: &mut String, part: &str) {
        for piece in part.split_inclusive(|c: char| !c.is_alphanumeric()) {
            let word = piece.trim_end_matches(|c: char| !c.is_alphanumeric());
            line.push_str(if self.is_personal(word) { MASK } else { word });
            line.push_str(&piece[word.len()..]);
        }
    }

    fn is_personal(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        if digits > DIGITS_MAX && digits == word.len() && !self.ids.contains(&word) {
            return true;
        }
        self.words.contains(&word)
            || (word.len() > INNER_WORD_BYTES
                && !self.ids.contains(&word)
                && self
                    .words
                    .iter()
                    .any(|known| known.len() >= INNER_WORD_BYTES && word.contains(known.as_str())))
    }
}

/// The first [`DETAIL_CHARS_MAX`] characters, for text that needs no masking.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(DETAIL_CHARS_MAX) {
        None => text.to_owned(),
        Some(_) => text.chars().take(DETAIL_CHARS_MAX - 1).chain(['…']).collect(),
    }
}

fn gather(value: &Value, words: &mut HashSet<String>) {
    match value {
        Value::String(text) => words.extend(words_of(text).filter(|word| word.chars().count() > 1)),
        Value::Number(number) => words.extend(words_of(&number.to_string()).filter(|word| word.len() > 1)),
        Value::Array(items) => items.iter().for_each(|item| gather(item, words)),
        Value::Object(fields) => fields.values().for_each(|field| gather(field, words)),
        Value::Null | Value::Bool(_) => {}
    }
}

fn words_of(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}
