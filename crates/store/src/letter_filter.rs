use serde::Serialize;
use sqlx::{Arguments as _, error::BoxDynError, postgres::PgArguments};
use time::OffsetDateTime;

/// Which dead letters are meant; an empty one means all.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LetterFilter {
    /// The target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Tenant of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Why it died (`http_422`, ...).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Class of the failure (`permanent`, ...).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// HTTP status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Failed last then or later.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub since: Option<OffsetDateTime>,
    /// Failed last before then.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub until: Option<OffsetDateTime>,
    /// Part of the target's own words, upper or lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// These letters only; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub letters: Vec<i64>,
}

impl LetterFilter {
    /// Whether it means all letters.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The first ten parameters of every query over letters.
    pub(crate) fn arguments(&self) -> Result<PgArguments, sqlx::Error> {
        let mut arguments = PgArguments::default();
        self.add_to(&mut arguments).map_err(sqlx::Error::Encode)?;
        Ok(arguments)
    }

    fn add_to(&self, arguments: &mut PgArguments) -> Result<(), BoxDynError> {
        for text in [&self.target, &self.tenant, &self.user, &self.reason, &self.class] {
            arguments.add(text.as_deref())?;
        }
        arguments.add(self.status)?;
        arguments.add(self.since)?;
        arguments.add(self.until)?;
        arguments.add(self.text.as_deref().map(like_pattern))?;
        arguments.add((!self.letters.is_empty()).then_some(&self.letters[..]))
    }
}

/// A pattern for `ilike` that finds `text` as it is, anywhere.
fn like_pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for character in text.chars() {
        if ['%', '_', '\\'].contains(&character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

/// The predicate of a [`LetterFilter`] over a letter `d`, parameters 1 to 10.
macro_rules! letter_matches {
    () => {
        "($1::text is null or d.target = $1) and ($2::text is null or d.tenant_id = $2)
            and ($3::text is null or d.user_id = $3) and ($4::text is null or d.reason = $4)
            and ($5::text is null or d.class = $5) and ($6::integer is null or d.status = $6)
            and ($7::timestamptz is null or d.last_failed_at >= $7)
            and ($8::timestamptz is null or d.last_failed_at < $8)
            and ($9::text is null or d.detail ilike $9)
            and ($10::bigint[] is null or d.letter_id = any($10))"
    };
}
pub(crate) use letter_matches;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_looked_for_as_it_is() {
        assert_eq!(like_pattern(r"50%_a\b"), r"%50\%\_a\\b%");
    }

    #[test]
    fn a_filter_without_a_condition_means_all_and_says_so() {
        assert!(LetterFilter::default().is_empty());
        assert!(!LetterFilter { status: Some(422), ..LetterFilter::default() }.is_empty());
        let filter = LetterFilter { target: Some("crm".into()), ..LetterFilter::default() };
        assert_eq!(serde_json::to_value(filter).unwrap(), serde_json::json!({ "target": "crm" }));
    }
}
