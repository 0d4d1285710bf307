use axum::http::StatusCode;
use postbound_http::Operation;
use serde_json::{Value, json};

use super::api::{Asked, Unwanted};
use super::sessions::Session;
use crate::openapi::{of_services, of_users, user_schema};

const TAG: &str = "directory";

pub(super) fn get_users() -> Operation {
    let page = json!({
        "type": "object", "required": ["users", "next"],
        "properties": {
            "users": {"type": "array", "items": reference("DirectoryUser")},
            "next": {"type": ["string", "null"], "description": "`after` of the next page"},
        },
    });
    with_users(of_users("getUsers", "The caller, one user, or a page of them"))
        .description(
            "A user is shown themselves, a service one user by `id`, those of an `email`, or page by page.",
        )
        .query::<Asked>()
        .schema("UserPage", page)
        .answers_as(
            StatusCode::OK,
            "the user asked for, or a page",
            json!({"anyOf": [reference("UserPage"), reference("DirectoryUser")]}),
        )
        .refuses(&[404, 422])
}

pub(super) fn post_users() -> Operation {
    let made = "the user was made";
    let operation = of_users("postUser", "Makes sure a user is there").description(
        "A user sends no body: they are made of their token, where their webhook was lost. A service names \
                      the user; a deleted one comes back.",
    );
    change(operation, false).answers_as(StatusCode::CREATED, made, reference("DirectoryUser"))
}

pub(super) fn put_users() -> Operation {
    let operation = of_users("putUser", "Changes the fields that are given; null clears one");
    change(operation, true).refuses_as(409, "the user is deleted")
}

pub(super) fn delete_users() -> Operation {
    with_users(of_services("deleteUser", "Deletes a user softly and ends their sessions"))
        .query::<Unwanted>()
        .answers_as(StatusCode::OK, "the user as deleted", reference("DirectoryUser"))
        .refuses(&[404, 409, 422])
}

pub(super) fn sign_in() -> Operation {
    let text = json!({"type": ["string", "null"], "minLength": 1});
    let named = |by: &str| json!({"required": [by], "properties": {by: {"type": "string", "minLength": 1}}});
    let body = json!({
        "type": "object",
        "description": "of a service; a user sends none",
        "properties": {"userId": text, "email": text, "tenantId": text, "sessionId": text},
        "anyOf": [named("userId"), named("email")],
    });
    of_users("signIn", "The login check")
        .tag(TAG)
        .takes_as(false, body)
        .example("by id", json!({"userId": "u-1"}))
        .answers::<Session>(StatusCode::CREATED, "the session was made")
        .answers::<Session>(StatusCode::OK, "the session was there")
        .refuses(&[404, 413, 415, 422])
        .refuses_as(403, "the user is deleted or inactive, or the caller may not sign them in")
        .refuses_as(409, "the session is another user's, or several users have the e-mail address")
}

pub(super) fn session() -> Operation {
    of_session("getSession", "Whether a session is active, since when, and why it ended")
}

pub(super) fn sign_out() -> Operation {
    of_session("signOut", "Ends a session")
}

fn of_session(id: &str, summary: &str) -> Operation {
    of_users(id, summary)
        .tag(TAG)
        .segment("id", "the session's id")
        .answers::<Session>(StatusCode::OK, "the session")
        .refuses(&[404, 422])
}

fn change(operation: Operation, required: bool) -> Operation {
    let named = json!({
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1, "description": "whom a service means"},
            "tenantId": {"type": ["string", "null"], "minLength": 1},
            "theme": {"type": ["string", "null"], "minLength": 1, "maxLength": 64},
        },
    });
    with_users(operation)
        .takes_as(required, json!({"allOf": [reference("User"), named]}))
        .example("a user", json!({"id": "u-1", "email": "ada@example.com", "firstName": "Ada"}))
        .answers_as(StatusCode::OK, "the user as they are now", reference("DirectoryUser"))
        .refuses(&[404, 409, 413, 415, 422])
}

fn with_users(operation: Operation) -> Operation {
    let own = json!({
        "type": "object",
        "required": ["id", "tenantId", "email", "firstName", "lastName", "imageUrl", "theme", "isActive", "createdAt",
                     "updatedAt", "version"],
        "properties": {
            "id": {"type": "string"},
            "tenantId": {"type": "string"},
            "theme": {"type": "string"},
            "isActive": {"type": "boolean"},
            "updatedAt": {"type": "string", "format": "date-time"},
            "version": {"type": "integer", "minimum": 0},
        },
    });
    let shown =
        json!({"description": "a user as the directory shows them", "allOf": [reference("User"), own]});
    operation.tag(TAG).schema("User", user_schema()).schema("DirectoryUser", shown)
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
