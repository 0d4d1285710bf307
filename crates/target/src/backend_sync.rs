//! Seed 002: one user a request, exactly the fields of the contract, any 2xx is success.

use crate::Delivery;
use crate::canonical_user::{CanonicalUser, Field, filled};
use postbound_event::Action;
use serde::Serialize;

/// The payload of seed 002. Its receivers are structs of plain strings, so an absent field is an empty string.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendUser<'a> {
    id: &'a str,
    email: Field<'a>,
    username: Field<'a>,
    display_name: Field<'a>,
    avatar: Field<'a>,
    role: Field<'a>,
    is_active: Field<'a>,
    action: &'a str,
}

/// Renders the body. The id is the event's, not the data's: it is what the ledger and the order go by.
pub(crate) fn render(delivery: &Delivery, user: &CanonicalUser<'_>) -> Vec<u8> {
    let empty = || Field::text("");
    let display_name = filled(user.display_name)
        .or_else(|| filled(user.name))
        .or_else(|| user.full_name())
        .or_else(|| filled(user.username));
    let is_active = match delivery.action {
        Action::Deleted => Field::Flag(false),
        Action::Created | Action::Updated => user.is_active.map_or(Field::Flag(true), Field::Raw),
    };
    let body = BackendUser {
        id: &delivery.key.user,
        email: user.email.map_or_else(empty, Field::Raw),
        username: user.username.map_or_else(empty, Field::Raw),
        display_name: display_name.unwrap_or_else(empty),
        avatar: user.picture().unwrap_or_else(empty),
        role: user.role.map_or(Field::text("user"), Field::Raw),
        is_active,
        action: delivery.action.as_str(),
    };
    serde_json::to_vec(&body).expect("strings and raw JSON always serialize")
}
