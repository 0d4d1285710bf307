//! Clerk's words: the user object of its webhooks and its Backend API, and what it means here.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A user as Clerk tells it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClerkUser {
    /// Clerk's id (`user_...`), ours too.
    pub(crate) id: String,
    /// Clerk's time of the change, which orders what it tells.
    pub(crate) updated_at: OffsetDateTime,
    /// Fields of the canonical user; null where Clerk has nothing. Never any metadata: it may be private.
    pub(crate) fields: Map<String, Value>,
}

/// What is wrong with a user object. Holds nothing of the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ClerkUserError(&'static str);

impl ClerkUser {
    /// Reads the object `data` of `user.created` and `user.updated`, or the Backend API's answer.
    ///
    /// # Errors
    /// When it names no user or no time.
    pub(crate) fn read(data: &Value) -> Result<Self, ClerkUserError> {
        let id = text(data, "id").ok_or(ClerkUserError("data.id is missing"))?.to_owned();
        let updated_at = moment(data, "updated_at")
            .ok_or(ClerkUserError("data.updated_at is not a time in milliseconds"))?;
        let or_null = |value: Option<&str>| value.map_or(Value::Null, Value::from);
        let banned = data.get("banned").and_then(Value::as_bool).unwrap_or(false);
        let created = moment(data, "created_at").and_then(|at| at.format(&Rfc3339).ok());
        let fields = [
            ("email", or_null(primary_email(data))),
            ("username", or_null(text(data, "username"))),
            ("firstName", or_null(text(data, "first_name"))),
            ("lastName", or_null(text(data, "last_name"))),
            ("imageUrl", or_null(text(data, "image_url"))),
            ("isActive", Value::Bool(!banned)),
            ("createdAt", created.map_or(Value::Null, Value::from)),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Self { id, updated_at, fields })
    }
}

/// The address whose id is `primary_email_address_id`; none is not replaced by another: it may be unverified.
fn primary_email(data: &Value) -> Option<&str> {
    let primary = text(data, "primary_email_address_id")?;
    let addresses = data.get("email_addresses")?.as_array()?;
    let address = addresses.iter().find(|address| text(address, "id") == Some(primary))?;
    text(address, "email_address")
}

fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// Unix milliseconds.
fn moment(value: &Value, name: &str) -> Option<OffsetDateTime> {
    let milliseconds = value.get(name)?.as_i64()?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(data: &Value, field: &str, expected: &Value) {
        let user = ClerkUser::read(data).unwrap();
        assert_eq!(&user.fields[field], expected, "{field} of {data}");
    }

    #[test]
    fn the_primary_address_is_found_by_its_id_and_never_guessed() {
        let addresses = json!([
            {"id": "idn_1", "email_address": "old@example.com"}, {"id": "idn_2", "email_address": "new@example.com"}
        ]);
        let user = |primary: Value| json!({"id": "user_1", "updated_at": 1_700_000_000_123_i64, "email_addresses": addresses, "primary_email_address_id": primary});
        check(&user(json!("idn_2")), "email", &json!("new@example.com"));
        check(&user(json!("idn_9")), "email", &Value::Null);
        check(&user(Value::Null), "email", &Value::Null);
    }

    #[test]
    fn a_banned_user_is_inactive_and_metadata_stays_with_clerk() {
        let user = json!({
            "id": "user_1", "updated_at": 1_700_000_000_123_i64, "created_at": 1_600_000_000_000_i64, "banned": true,
            "first_name": "Ada", "private_metadata": {"secret": 1}, "public_metadata": {"role": "x"}
        });
        check(&user, "isActive", &json!(false));
        check(&user, "createdAt", &json!("2020-09-13T12:26:40Z"));
        let read = ClerkUser::read(&user).unwrap();
        assert_eq!(read.updated_at.unix_timestamp_nanos() / 1_000_000, 1_700_000_000_123);
        assert!(!read.fields.keys().any(|name| name.contains("etadata")), "{read:?}");
    }

    #[test]
    fn a_user_without_id_or_time_is_refused() {
        for data in [
            json!({}),
            json!({"id": "", "updated_at": 1}),
            json!({"id": "u"}),
            json!({"id": "u", "updated_at": "soon"}),
            json!(null),
        ] {
            assert!(ClerkUser::read(&data).is_err(), "{data}");
        }
    }
}
