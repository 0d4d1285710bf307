//! What `GET /openapi.json` tells of the routes.

use axum::http::StatusCode;
use postbound_http::{ApiInfo, KEY_PATTERN, Operation};
use serde_json::{Value, json};

use crate::config::{Contract, ReceiverConfig};
use crate::faults::Fault;
use crate::notify::{FIELDS, Removal};
use crate::shape::{self, schema};

/// The shared key, in either header.
const BEARER: &str = "bearer";
const API_KEY: &str = "apiKey";
/// Standard Webhooks' headers, which only count together.
const SIGNATURE: [&str; 3] = ["webhookId", "webhookTimestamp", "webhookSignature"];

/// What the document is of.
pub(crate) fn info() -> ApiInfo<'static> {
    let header = |name: &str| json!({"type": "apiKey", "in": "header", "name": name});
    ApiInfo {
        title: "Postbound's reference receivers",
        description: "A backend and a CRM that make at-least-once delivery effectively once. Refusals are problem \
                      details (RFC 9457) that also bear `success: false` and `error`.",
        security_schemes: json!({
            BEARER: {"type": "http", "scheme": "bearer"},
            API_KEY: header("X-Internal-API-Key"),
            "webhookId": header("webhook-id"),
            "webhookTimestamp": header("webhook-timestamp"),
            "webhookSignature": header("webhook-signature"),
        }),
    }
}

pub(crate) fn health() -> Operation {
    Operation::new("getHealth", "Whether the process answers")
        .tag("operation")
        .answers_text(StatusCode::OK, "it does")
}

pub(crate) fn trigger(config: &ReceiverConfig) -> Operation {
    let input = json!({
        "type": "object", "required": ["customerData", "metadata"],
        "properties": {
            "customerData": schema(shape::CUSTOMER_DATA, &["email"]),
            "metadata": schema(shape::WORKFLOW_METADATA, &["convexUserId"]),
        },
    });
    let body = json!({
        "type": "object", "required": ["trigger", "inputData"],
        "properties": {"trigger": {"const": "user_registration"}, "inputData": input},
    });
    let example = json!({
        "trigger": "user_registration",
        "inputData": {
            "eventType": "account_created", "source": "website",
            "customerData": {"email": "ada@example.com", "firstName": "Ada", "lastName": "Lovelace", "phone": ""},
            "metadata": {"convexUserId": "convex_user_123", "registrationDate": "2025-11-23T06:29:19Z",
                         "platform": "web", "authProvider": "email"},
        },
    });
    let answer = json!({
        "type": "object", "required": ["success", "workflow", "behaviors"],
        "properties": {
            "success": {"type": "boolean"},
            "workflow": {"type": "string"},
            "frontendUserId": {"type": "string"},
            "crmContactId": {"type": "string"},
            "behaviors": {"type": "array", "items": {
                "type": "object", "required": ["type", "status"],
                "properties": {"type": {"type": "string"}, "status": {"enum": ["done", "failed"]}},
            }},
        },
    });
    delivery(Operation::new("triggerWorkflow", "Runs the registration workflow"), config, Contract::S0)
        .tag("backend")
        .takes_as(true, body)
        .example("a registration", example)
        .answers_as(StatusCode::OK, "what the behaviors did", answer)
        .answer_header(StatusCode::OK, "Idempotency-Replayed", REPLAYED, json!({"const": "true"}))
}

pub(crate) fn sync_user(config: &ReceiverConfig) -> Operation {
    let mut body = schema(shape::BACKEND_USER, &["id", "action"]);
    body["properties"]["action"] = json!({"enum": ["created", "updated", "deleted"]});
    let answer = json!({
        "type": "object", "required": ["success", "id"],
        "properties": {"success": {"const": true}, "id": {"type": "string"}, "version": {"type": "integer", "minimum": 1}},
    });
    let example = json!({
        "id": "u-1", "email": "ada@example.com", "username": "ada", "displayName": "Ada", "avatar": null, "role": "user",
        "isActive": true, "action": "created",
    });
    delivery(Operation::new("syncUser", "Takes one user's whole state"), config, Contract::S2)
        .tag("backend")
        .description(
            "A field that is absent or null is empty from then on. A delete needs an id alone, the other \
                      actions an e-mail address.",
        )
        .header(
            "postbound-user-version",
            false,
            "an older one is refused",
            json!({"type": "integer", "minimum": 1, "maximum": i64::MAX}),
        )
        .takes_as(true, body)
        .example("a new user", example)
        .answers_as(StatusCode::OK, "the user is held as told", answer)
        .answer_header(StatusCode::OK, "Idempotency-Replayed", REPLAYED, json!({"const": "true"}))
        .refuses_as(409, "a newer version is held, or a request with the key is being processed")
}

pub(crate) fn sync_users(config: &ReceiverConfig) -> Operation {
    let user = [shape::CRM_USER, shape::CRM_USER_EXTENSIONS].concat();
    let mut tenant = schema(shape::CRM_TENANT, &["id", "name"]);
    tenant["description"] = "`id` is that of the header".into();
    // What is wrong with one user fails that user alone, so that the document asks for no more than the id.
    let users = json!({
        "type": "array", "minItems": 1, "maxItems": config.users_max,
        "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "pattern": r"\S"}},
                  "description": format!("fields: {}", names(&user))},
    });
    let body = json!({
        "type": "object", "required": ["operation", "tenant", "users"],
        "properties": {
            "operation": {"const": "user_sync"}, "tenant": tenant, "users": users, "metadata": {"type": ["object", "null"]},
        },
    });
    let example = json!({
        "operation": "user_sync", "tenant": {"id": "acme", "name": "Acme"},
        "users": [{"id": "u-1", "email": "ada@example.com", "name": "Ada", "isActive": true, "version": 1}],
        "metadata": {"syncTime": "2025-08-19T10:00:00Z", "syncedBy": "postbound", "syncType": "single_user",
                     "applicationCode": "crm"},
    });
    let operation = delivery(Operation::new("syncUsers", "Takes one tenant's users"), config, Contract::S3);
    let text = |example: &str| json!({"type": "string", "pattern": r"\S", "examples": [example]});
    operation
        .tag("crm")
        .header("X-Tenant-ID", true, "as `tenant.id` in the body", text("acme"))
        .header("X-Sync-Source", true, "who sends it", text("postbound"))
        .takes_as(true, body)
        .example("one user", example)
        .answers_as(StatusCode::OK, "what became of each user", batch_answer())
        .answer_header(StatusCode::OK, "Idempotency-Replayed", REPLAYED, json!({"const": "true"}))
        .refuses(&[429])
}

pub(crate) fn change_user(config: &ReceiverConfig) -> Operation {
    let mut body = schema(shape::BACKEND_USER, &[]);
    if let Some(properties) = body["properties"].as_object_mut() {
        properties.retain(|name, _| FIELDS.contains(&name.as_str()));
    }
    body["additionalProperties"] = false.into();
    administration("changeUser", "Changes a user in the backend itself", config)
        .takes_as(true, body)
        .example("a new name", json!({"displayName": "Ada"}))
        .answers_nothing(StatusCode::NO_CONTENT, "changed, and told by webhook")
        .refuses(&[413, 415])
}

pub(crate) fn remove_user(config: &ReceiverConfig) -> Operation {
    administration("removeUser", "Deletes a user in the backend itself", config)
        .query::<Removal>()
        .answers_nothing(StatusCode::NO_CONTENT, "deleted, and told by webhook")
}

pub(crate) fn put_faults() -> Operation {
    let fault = json!({"$ref": "#/components/schemas/Fault"});
    // Names the schemas a fault is made of, before the body that may be one or several.
    of_faults("putFaults", "Tells the receiver how to misbehave")
        .takes::<Fault>(true)
        .takes_as(true, json!({"anyOf": [fault, {"type": "array", "items": fault}]}))
        .answers_nothing(StatusCode::NO_CONTENT, "in force")
        .refuses(&[400, 413, 415])
}

pub(crate) fn get_faults() -> Operation {
    let schema = json!({"type": "array", "items": {"$ref": "#/components/schemas/Fault"}});
    of_faults("getFaults", "The faults in force").answers_as(StatusCode::OK, "all of them", schema)
}

pub(crate) fn delete_faults() -> Operation {
    of_faults("deleteFaults", "Behaves again").answers_nothing(StatusCode::NO_CONTENT, "no fault is in force")
}

const REPLAYED: &str = "`true`: the key was answered before, and nothing was done";

/// What every contract's request may bear, and be refused for.
fn delivery(operation: Operation, config: &ReceiverConfig, contract: Contract) -> Operation {
    let key = json!({"type": "string", "pattern": KEY_PATTERN, "examples": ["\"8e03978e-40d5\""]});
    let text = json!({"type": "string"});
    let mut operation = secured(operation, config, contract)
        .header("Idempotency-Key", false, "a repeated one is answered as before", key)
        .header("postbound-event-id", false, "for the log", text.clone());
    if contract != Contract::S3 {
        operation =
            operation.header("postbound-tenant", false, "the user's tenant; `default` without it", text);
    }
    operation
        .refuses(&[400, 413, 415, 500, 503])
        .refuses_as(409, "a request with the key is being processed")
        .refuses_as(422, "the content is not acceptable, or the key was used with another body")
}

fn administration(id: &str, summary: &str, config: &ReceiverConfig) -> Operation {
    let operation = Operation::new(id, summary).tag("administration");
    let keys: &[&[&str]] = &[&[BEARER], &[API_KEY]];
    let operation = match config.backend_api_key {
        Some(_) => operation.security(keys).refuses(&[401]),
        None => operation,
    };
    operation
        .segment("tenant", "the user's tenant")
        .segment("user", "the user's id")
        .refuses(&[400, 404, 422, 500, 503])
}

fn of_faults(id: &str, summary: &str) -> Operation {
    Operation::new(id, summary).tag("faults").description("For tests and demonstrations.")
}

/// The key and the signature, where they are asked for.
fn secured(operation: Operation, config: &ReceiverConfig, contract: Contract) -> Operation {
    let keys: &[&str] = match contract {
        Contract::S3 if config.api_key.is_some() => &[API_KEY],
        Contract::S0 | Contract::S2 if config.backend_api_key.is_some() => &[BEARER, API_KEY],
        _ => &[],
    };
    let signed: &[&str] =
        if contract == Contract::S3 || config.signing_secrets.is_empty() { &[] } else { &SIGNATURE };
    let mut alternatives: Vec<Vec<&str>> = keys.iter().map(|key| [&[*key], signed].concat()).collect();
    if alternatives.is_empty() && !signed.is_empty() {
        alternatives.push(signed.to_vec());
    }
    if alternatives.is_empty() {
        return operation;
    }
    let alternatives: Vec<&[&str]> = alternatives.iter().map(Vec::as_slice).collect();
    operation.security(&alternatives).refuses(&[401])
}

fn batch_answer() -> Value {
    let count = json!({"type": "integer", "minimum": 0});
    let text = json!({"type": "string"});
    json!({
        "type": "object", "required": ["success", "message", "results", "tenant", "metadata"],
        "properties": {
            "success": {"const": true},
            "message": text,
            "results": {"type": "array", "items": {
                "type": "object", "required": ["userId", "status"],
                "properties": {
                    "userId": text, "status": {"enum": ["created", "updated", "failed"]}, "crmUserId": text, "message": text,
                    "error": text, "code": text, "heldVersion": {"type": "integer"},
                },
            }},
            "tenant": {"type": "object", "required": ["id", "name"], "properties": {"id": text, "name": text}},
            "metadata": {
                "type": "object", "required": ["operation", "syncedAt", "totalUsers", "successful", "failed"],
                "properties": {
                    "operation": {"const": "user_sync"}, "syncedAt": {"type": "string", "format": "date-time"},
                    "totalUsers": count, "successful": count, "failed": count,
                },
            },
        },
    })
}

fn names(fields: &shape::Fields) -> String {
    fields.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
