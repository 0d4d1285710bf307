//! The forms of the contracts' JSON objects: which fields they have, of which type.
//!
//! Null counts as absent: senders differ in which of the two they write.

use serde_json::{Map, Value, json};

/// What a field may hold besides null.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A string.
    Text,
    /// A boolean.
    Flag,
    /// An array of strings.
    Texts,
    /// A whole number from 1 that fits a bigint.
    Version,
}

/// Field names with their kinds.
pub(crate) type Fields = [(&'static str, Kind)];

/// The body of S2.
pub(crate) const BACKEND_USER: &Fields = &[
    ("id", Kind::Text),
    ("email", Kind::Text),
    ("username", Kind::Text),
    ("displayName", Kind::Text),
    ("avatar", Kind::Text),
    ("role", Kind::Text),
    ("isActive", Kind::Flag),
    ("action", Kind::Text),
];

/// `inputData.customerData` in S0.
pub(crate) const CUSTOMER_DATA: &Fields =
    &[("email", Kind::Text), ("firstName", Kind::Text), ("lastName", Kind::Text), ("phone", Kind::Text)];

/// `inputData.metadata` in S0.
pub(crate) const WORKFLOW_METADATA: &Fields = &[
    ("convexUserId", Kind::Text),
    ("registrationDate", Kind::Text),
    ("platform", Kind::Text),
    ("authProvider", Kind::Text),
];

/// `tenant` in S3.
pub(crate) const CRM_TENANT: &Fields =
    &[("id", Kind::Text), ("name", Kind::Text), ("subdomain", Kind::Text), ("kindeOrgId", Kind::Text)];

/// An entry of `users` in S3, as the document has it.
pub(crate) const CRM_USER: &Fields = &[
    ("id", Kind::Text),
    ("kindeUserId", Kind::Text),
    ("email", Kind::Text),
    ("name", Kind::Text),
    ("avatar", Kind::Text),
    ("isActive", Kind::Flag),
    ("isAdmin", Kind::Flag),
    ("department", Kind::Text),
    ("title", Kind::Text),
    ("lastActiveAt", Kind::Text),
    ("roles", Kind::Texts),
    ("permissions", Kind::Texts),
    ("allowedApplications", Kind::Texts),
    ("subscriptionTier", Kind::Text),
];

/// What the guarded CRM understands in a user beyond the document.
pub(crate) const CRM_USER_EXTENSIONS: &Fields = &[("version", Kind::Version), ("deleted", Kind::Flag)];

/// `metadata` in S3.
pub(crate) const CRM_METADATA: &Fields = &[
    ("syncTime", Kind::Text),
    ("syncedBy", Kind::Text),
    ("syncType", Kind::Text),
    ("applicationCode", Kind::Text),
];

/// A sentence about the first field of another type than it should have.
pub(crate) fn wrong_type(object: &Map<String, Value>, fields: &Fields) -> Option<String> {
    fields.iter().find_map(|(name, kind)| {
        let value = object.get(*name).filter(|value| !value.is_null())?;
        let (fits, wanted) = match kind {
            Kind::Text => (value.is_string(), "a string"),
            Kind::Flag => (value.is_boolean(), "true or false"),
            Kind::Texts => (
                value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
                "an array of strings",
            ),
            Kind::Version => (value.as_i64().is_some_and(|n| n > 0), "a positive integer"),
        };
        (!fits).then(|| format!("{name} must be {wanted}"))
    })
}

/// What JSON Schema says of an object with these fields, of which the `required` must be texts that are not blank.
pub(crate) fn schema(fields: &Fields, required: &[&str]) -> Value {
    let of_field = |(name, kind): &(&'static str, Kind)| {
        let schema = match kind {
            Kind::Text if required.contains(name) => json!({"type": "string", "pattern": r"\S"}),
            Kind::Text => json!({"type": ["string", "null"]}),
            Kind::Flag => json!({"type": ["boolean", "null"]}),
            Kind::Texts => json!({"type": ["array", "null"], "items": {"type": "string"}}),
            Kind::Version => json!({"type": ["integer", "null"], "minimum": 1, "maximum": i64::MAX}),
        };
        ((*name).to_owned(), schema)
    };
    let properties: Map<String, Value> = fields.iter().map(of_field).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// The first field that is not among `fields`.
pub(crate) fn unknown<'o>(object: &'o Map<String, Value>, fields: &Fields) -> Option<&'o str> {
    object.keys().map(String::as_str).find(|key| !fields.iter().any(|(name, _)| name == key))
}

/// A field's text where it is a string that is not blank.
pub(crate) fn text<'o>(object: &'o Map<String, Value>, name: &str) -> Option<&'o str> {
    object.get(name).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
}

/// Whether Postgres can hold the value as jsonb, which has no room for the character NUL.
pub(crate) fn is_storable(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains('\0'),
        Value::Array(items) => items.iter().all(is_storable),
        Value::Object(fields) => {
            fields.iter().all(|(name, value)| !name.contains('\0') && is_storable(value))
        }
        _ => true,
    }
}
