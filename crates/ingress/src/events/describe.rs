use std::borrow::Cow;

use axum::http::StatusCode;
use postbound_http::{KEY_PATTERN, Operation};
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::EventTaken;
use super::body::EventBody;
use crate::openapi::{of_services, user_schema};

/// Stands for the data of a user, whose schema is in `schemas/`.
pub(super) struct User;

impl ToSchema for User {
    fn name() -> Cow<'static, str> {
        "User".into()
    }
}

impl PartialSchema for User {
    fn schema() -> RefOr<Schema> {
        Schema::Object(Object::new()).into()
    }
}

pub(super) fn post() -> Operation {
    let text = json!({"type": "string"});
    let key = json!({"type": "string", "pattern": KEY_PATTERN, "examples": ["\"8e03978e-40d5-43e8-bc93-6894a57f9324\""]});
    let wait = json!({"type": "string", "examples": ["wait=3"]});
    let example = json!({
        "userId": "u-1", "action": "updated", "data": {"email": "ada@example.com", "displayName": "Ada"},
    });
    of_services("postEvent", "Takes a change of a user in")
        .tag("events")
        .description("For producers that cannot reach Postgres. It is written when the answer is 2xx; a caller without \
                      an answer sends the same request again.")
        .header("Idempotency-Key", true, "a quoted string of at most 255 characters, drawn per change", key)
        .header("Prefer", false, "`wait=3`: answer when all targets have it, at most so many seconds later", wait)
        .header("traceparent", false, "W3C trace context of the change", text.clone())
        .takes::<EventBody>(true)
        .example("an update", example)
        .answers::<EventTaken>(StatusCode::OK, "the caller waited, and all targets have it")
        .answers::<EventTaken>(StatusCode::ACCEPTED, "it is written")
        .schema("User", user_schema())
        .refuses(&[413, 415])
        .refuses_as(409, "the first request with the key is not done, the user is deleted, or the event id was used")
        .refuses_as(422, "the content is not acceptable, or the key was used with another body")
        .answer_header(StatusCode::ACCEPTED, "Location", "where its delivery is followed", text.clone())
        .answer_header(StatusCode::OK, "Location", "where its delivery is followed", text.clone())
        .answer_header(StatusCode::OK, "Preference-Applied", "how long the caller waited at most", text.clone())
        .answer_header(StatusCode::ACCEPTED, "Preference-Applied", "how long the caller waited at most", text.clone())
        .answer_header(StatusCode::OK, "Idempotency-Replayed", "`true`: it was written before", text.clone())
        .answer_header(StatusCode::ACCEPTED, "Idempotency-Replayed", "`true`: it was written before", text)
}
