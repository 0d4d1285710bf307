//! What `GET /openapi.json` says beside the operations, and what these have in common.

use postbound_config::{IngressSource, Verification};
use postbound_http::{ApiInfo, Operation};
use serde_json::{Value, json};

use crate::Ingress;

/// Bearer tokens of services.
const TOKEN: &str = "token";
/// Clerk's session tokens, as bearer and as cookie.
const SESSION: &str = "session";
const SESSION_COOKIE: &str = "sessionCookie";
/// Standard Webhooks' headers under either name.
const SIGNED: [&[&str]; 2] =
    [&["webhookId", "webhookTimestamp", "webhookSignature"], &["svixId", "svixTimestamp", "svixSignature"]];

/// The canonical user.
const USER_SCHEMA: &str = include_str!("../../../schemas/user.schema.json");

/// What the document is of.
pub(crate) fn info(ingress: &Ingress) -> ApiInfo<'static> {
    let mut schemes = json!({
        TOKEN: {"type": "http", "scheme": "bearer", "description": "a token of `[ingress.tokens]`"},
        SESSION: {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "Clerk's session token: a user asks about themselves",
        },
        SESSION_COOKIE: {
            "type": "apiKey", "in": "cookie", "name": "__session",
            "description": "the same, for pages of the same origin",
        },
    });
    let headers = [
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "svix-id",
        "svix-timestamp",
        "svix-signature",
    ];
    for (scheme, header) in SIGNED.concat().into_iter().zip(headers) {
        schemes[scheme] =
            header_scheme(header, "Standard Webhooks: one of three headers that only count together");
    }
    for source in &ingress.sources {
        if source.settings.verification == Verification::HeaderHmac {
            let description = "HMAC-SHA256 of the raw body";
            schemes[hmac_scheme(&source.settings)] =
                header_scheme(&source.settings.signature_header, description);
        }
    }
    ApiInfo {
        title: "Postbound ingress",
        description: "The way in for changes of users, the user directory and the sync status. Refusals are problem \
                      details (RFC 9457).",
        security_schemes: schemes,
    }
}

/// An operation of services, which their tokens open.
pub(crate) fn of_services(id: &str, summary: &str) -> Operation {
    Operation::new(id, summary).security(&[&[TOKEN]]).refuses(&[400, 401, 403, 500, 503])
}

/// An operation of services and of users.
pub(crate) fn of_users(id: &str, summary: &str) -> Operation {
    of_services(id, summary).security(&[&[TOKEN], &[SESSION], &[SESSION_COOKIE]])
}

/// A source's operation, which a signature opens.
pub(crate) fn of_source(source: &IngressSource, id: &str, summary: &str) -> Operation {
    let operation = Operation::new(id, summary).refuses(&[400, 401, 500, 503]);
    match source.verification {
        Verification::StandardWebhooks => operation.security(&SIGNED),
        Verification::HeaderHmac => operation.security(&[&[hmac_scheme(source).as_str()]]),
    }
}

/// A user's data.
pub(crate) fn user_schema() -> Value {
    let mut schema: Value = serde_json::from_str(USER_SCHEMA).unwrap_or_default();
    if let Value::Object(members) = &mut schema {
        // Within the document it has no name and no dialect of its own.
        members.retain(|name, _| !name.starts_with('$'));
    }
    schema
}

fn hmac_scheme(source: &IngressSource) -> String {
    format!("hmac-{}", source.name)
}

fn header_scheme(header: &str, description: &str) -> Value {
    json!({"type": "apiKey", "in": "header", "name": header, "description": description})
}
