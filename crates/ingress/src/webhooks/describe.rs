use axum::http::StatusCode;
use postbound_config::{InboundKind, IngressSource};
use postbound_http::Operation;
use serde_json::{Value, json};

use super::WebhookTaken;
use crate::openapi::of_source;

pub(super) fn post(source: &IngressSource) -> Operation {
    let (schema, example) = match source.kind {
        InboundKind::Clerk => clerk(),
        InboundKind::BackendSync => backend_sync(),
    };
    of_source(
        source,
        &format!("postWebhook-{}", source.name),
        &format!("Takes a webhook of `{}` in", source.name),
    )
    .tag("webhooks")
    .description(
        "Verified over its raw bytes before one of them is parsed. What is answered 2xx is committed; a \
                      sender sends again what was not.",
    )
    .takes_as(true, schema)
    .example("an update", example)
    .answers::<WebhookTaken>(StatusCode::OK, "it is committed, or there was nothing to be done")
    .answers::<WebhookTaken>(
        StatusCode::ACCEPTED,
        "nobody is known by that id yet: it is kept and tried again",
    )
    .refuses(&[409, 413, 422, 429])
    .refuses_as(401, "no signature, a wrong one, or one out of time")
}

/// Events that are none of ours are taken and ignored, whatever they hold: the schemas ask for no more than that.
fn clerk() -> (Value, Value) {
    let schema =
        body("type", "`user.created`, `user.updated` or `user.deleted`; others are ignored", "Clerk's user");
    let data = json!({
        "id": "user_29w83sxmDNGwOuEthce5gg56FcC", "first_name": "Ada", "last_name": "Lovelace",
        "email_addresses": [{"id": "idn_1", "email_address": "ada@example.com"}], "primary_email_address_id": "idn_1",
        "created_at": 1_654_012_591_514_i64, "updated_at": 1_654_012_591_835_i64,
    });
    (schema, json!({"type": "user.updated", "object": "event", "data": data}))
}

fn backend_sync() -> (Value, Value) {
    let data = "`frontendUserId` names the user; `reason` is of a delete; `updatedAt`, RFC 3339 or Unix milliseconds, \
                orders changes; `version` is ours that was changed; others are the user's new values, and null clears one";
    let schema = body("event", "`user.updated` or `user.deleted`; others are ignored", data);
    (
        schema,
        json!({"event": "user.updated", "data": {"frontendUserId": "frontend_user_456", "displayName": "Ada"}}),
    )
}

fn body(event: &str, events: &str, data: &str) -> Value {
    json!({
        "type": "object", "required": [event, "data"],
        "properties": {
            event: {"type": "string", "description": events}, "data": {"type": "object", "description": data},
        },
    })
}
