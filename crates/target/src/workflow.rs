//! Seeds 000 and 001: a registration starts a workflow of the backend, whose answer tells the ids the user got there.
//!
//! An event target: what is sent is that something happened, so a request is a trigger, whatever states follow. The body
//! is a function of the event, so that a retry is the same request under the same key.

use crate::canonical_user::{CanonicalUser, Field, filled};
use crate::settings::WorkflowSettings;
use crate::{Delivery, ExternalLink, external_id};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use time::format_description::well_known::Rfc3339;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trigger<'a> {
    trigger: &'a str,
    input_data: InputData<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InputData<'a> {
    event_type: &'a str,
    source: Field<'a>,
    customer_data: CustomerData<'a>,
    metadata: Metadata<'a>,
}

/// As the seed's client sends it: what is not known is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CustomerData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<Field<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_name: Option<Field<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_name: Option<Field<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<Field<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    convex_user_id: Field<'a>,
    registration_date: Field<'a>,
    platform: Field<'a>,
    auth_provider: Field<'a>,
}

/// Renders the body. Unless the data says otherwise, the user's id is that of the auth store, and the registration is as
/// old as the event.
pub(crate) fn render(settings: &WorkflowSettings, delivery: &Delivery, user: &CanonicalUser<'_>) -> Vec<u8> {
    let logged_at = delivery.logged_at.format(&Rfc3339).unwrap_or_default();
    let body = Trigger {
        trigger: &settings.trigger,
        input_data: InputData {
            event_type: &settings.event_type,
            source: filled(user.source).unwrap_or(Field::text(&settings.source)),
            customer_data: CustomerData {
                email: filled(user.email),
                first_name: filled(user.first_name),
                last_name: filled(user.last_name),
                phone: filled(user.phone),
            },
            metadata: Metadata {
                convex_user_id: filled(user.convex_user_id).unwrap_or(Field::text(&delivery.key.user)),
                registration_date: filled(user.registration_date).unwrap_or(Field::text(&logged_at)),
                platform: filled(user.platform).unwrap_or(Field::text(&settings.platform)),
                auth_provider: filled(user.auth_provider).unwrap_or(Field::text(&settings.auth_provider)),
            },
        },
    };
    serde_json::to_vec(&body).expect("strings and raw JSON always serialize")
}

/// The ids that the answer tells, as far as it does.
pub(crate) fn links(settings: &WorkflowSettings, answer: &[u8]) -> Vec<ExternalLink> {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return Vec::new() };
    let link = |(system, pointer): &(Arc<str>, String)| {
        Some(ExternalLink { system: system.clone(), id: external_id::at(&answer, pointer)? })
    };
    settings.links.iter().filter_map(link).collect()
}

/// Whether the answer says that the workflow failed, under whichever status.
pub(crate) fn says_failed(answer: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Said {
        success: Option<Value>,
    }
    serde_json::from_slice::<Said>(answer).is_ok_and(|said| said.success == Some(Value::Bool(false)))
}
