//! Any endpoint: one state a request, as a CloudEvent (1.0, structured JSON) or as the configuration's template says.

use crate::settings::{AdapterSettings, WebhookBody};
use crate::template::TextTemplate;
use crate::{Delivery, TenantInfo};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use time::format_description::well_known::Rfc3339;

/// <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>. Names of extension attributes
/// are lower-case letters and digits; the version is a string, since an Integer has 32 bits there.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: String,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    tenantid: &'a str,
    userversion: String,
    data: &'a RawValue,
}

/// Renders the body, and the values of the headers that are templates, in their order.
pub(crate) fn render(
    body: &WebhookBody,
    headers: &[(String, TextTemplate)],
    delivery: &Delivery,
    tenant: &TenantInfo,
) -> (Vec<u8>, Vec<String>) {
    let document = match (body, headers) {
        (WebhookBody::CloudEvents { .. }, []) => Value::Null,
        _ => document(delivery, tenant),
    };
    let bytes = match body {
        WebhookBody::CloudEvents { source, type_prefix } => cloud_event(source, type_prefix, delivery),
        WebhookBody::Template(template) => template.render(&document),
    };
    (bytes, headers.iter().map(|(_, template)| template.render(&document)).collect())
}

/// The id under which receivers know duplicates: the event's, and for a resend, which is none, one of its own.
pub(crate) fn message_id(delivery: &Delivery) -> String {
    match delivery {
        Delivery { event_id, resend: 0, .. } => event_id.to_string(),
        Delivery { event_id, resend, .. } => format!("{event_id}-{resend}"),
    }
}

/// A digest of the fields a target watches, each a name or a JSON pointer. Equal digests mean equal values; the other way
/// round it need not be, as values are compared as they are written: no number is too long for that. Null counts as
/// absent.
pub(crate) fn fingerprint(fields: &[String], data: &RawValue) -> Option<[u8; 32]> {
    // Data that cannot be read is always news.
    members(data)?;
    let mut digest = Sha256::new();
    for field in fields {
        let value = match field.strip_prefix('/') {
            Some(pointer) => pointer
                .split('/')
                .try_fold(data, |value, token| member(value, &token.replace("~1", "/").replace("~0", "~"))),
            None => member(data, field),
        };
        let value = value.map_or("null", RawValue::get);
        for part in [field.as_str(), value] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
    }
    Some(digest.finalize().into())
}

/// A field of an object, or an item of an array.
fn member<'a>(value: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    if value.get().starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
        return items.get(name.parse::<usize>().ok()?).copied();
    }
    members(value)?.get(name).copied()
}

fn members(value: &RawValue) -> Option<HashMap<String, &RawValue>> {
    serde_json::from_str(value.get()).ok()
}

/// The fields whose change matters to the target; none: all of them.
pub(crate) fn watched_fields(adapter: &AdapterSettings) -> &[String] {
    match adapter {
        AdapterSettings::Webhook { changed_fields, .. } => changed_fields,
        _ => &[],
    }
}

fn cloud_event(source: &str, type_prefix: &str, delivery: &Delivery) -> Vec<u8> {
    let event = CloudEvent {
        specversion: "1.0",
        id: &message_id(delivery),
        source,
        r#type: format!("{type_prefix}{}", delivery.action.as_str()),
        subject: &delivery.key.user,
        time: time(delivery),
        datacontenttype: "application/json",
        tenantid: &delivery.key.tenant,
        userversion: delivery.version.to_string(),
        data: &delivery.data,
    };
    serde_json::to_vec(&event).expect("strings and raw JSON always serialize")
}

/// What placeholders point into; its fields are `template::ROOTS`.
fn document(delivery: &Delivery, tenant: &TenantInfo) -> Value {
    json!({
        "id": message_id(delivery),
        "action": delivery.action.as_str(),
        "version": delivery.version,
        "time": time(delivery),
        "user": delivery.key.user,
        "tenant": {
            "id": tenant.id,
            "name": tenant.name,
            "subdomain": tenant.subdomain,
            "kindeOrgId": tenant.kinde_org_id,
        },
        "data": serde_json::from_str::<Value>(delivery.data.get()).unwrap_or_default(),
    })
}

/// When the change was made, never when it is sent: a retry sends the same bytes.
fn time(delivery: &Delivery) -> String {
    delivery.logged_at.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_changes_with_the_watched_fields_and_with_nothing_else() {
        let fields = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let of = |names: &[&str], data: &str| {
            fingerprint(&fields(names), &RawValue::from_string(data.to_owned()).unwrap())
        };
        let watched = ["email", "/plan/name"];
        let base = of(&watched, r#"{"email": "a", "plan": {"name": "x", "seats": 1}, "title": "t"}"#);
        assert!(base.is_some());
        for same in [
            r#"{"plan":{"seats":2,"name":"x"},"email":"a"}"#,
            r#"{"email": "a", "plan": {"name": "x"}, "title": null}"#,
        ] {
            assert_eq!(of(&watched, same), base, "{same}");
        }
        for other in [
            r#"{"email": "b", "plan": {"name": "x"}}"#,
            r#"{"email": "a", "plan": {"name": "y"}}"#,
            r#"{"email": "a"}"#,
            r#"{"email": null, "plan": {"name": "x"}}"#,
        ] {
            assert_ne!(of(&watched, other), base, "{other}");
        }
        assert_eq!(of(&watched, r#"{"email": null}"#), of(&watched, "{}"));
        let long = |digit: u8| format!(r#"{{"email": 1234567890123456789012345678{digit}}}"#);
        assert_ne!(of(&watched, &long(1)), of(&watched, &long(2)), "no float is as exact");
        let item = |second: &str| of(&["/a~1b/1"], &format!(r#"{{"a/b": [1, {second}]}}"#));
        assert_eq!(item("2"), item("2"));
        assert_ne!(item("2"), item("3"));
        assert_ne!(of(&["email"], r#"{"email": "a"}"#), of(&["name"], r#"{"name": "a"}"#));
        assert_eq!(of(&watched, "[1]"), None);
    }

    #[test]
    fn the_document_has_what_templates_may_point_at() {
        let delivery = Delivery {
            event_id: uuid::Uuid::nil(),
            key: postbound_event::UserKey::new("t", "u"),
            version: 1,
            action: postbound_event::Action::Created,
            logged_at: ::time::OffsetDateTime::UNIX_EPOCH,
            traceparent: None,
            data: RawValue::from_string("{}".to_owned()).unwrap().into(),
            resend: 0,
            full_sync: false,
        };
        let document = document(&delivery, &TenantInfo::unknown("t"));
        let mut fields: Vec<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
        let mut roots = crate::template::ROOTS.to_vec();
        fields.sort_unstable();
        roots.sort_unstable();
        assert_eq!(fields, roots);
    }
}
