use axum::http::StatusCode;
use postbound_http::Operation;

use super::{links, retry, sync};
use crate::openapi;

const TAG: &str = "sync status";

pub(super) fn show() -> Operation {
    of_user("getUserSync", "Where a user stands at each target")
        .answers::<sync::UserSync>(StatusCode::OK, "as it is now")
}

pub(super) fn retry() -> Operation {
    of_user("retryUserSync", "Tries a user again who is not synced")
        .query::<retry::Asked>()
        .answers::<retry::Retried>(StatusCode::ACCEPTED, "it is tried again")
        .refuses_as(429, "the last try has failed only just now")
}

pub(super) fn links() -> Operation {
    openapi::of_services("findLinks", "Whose an id of a target is")
        .tag(TAG)
        .query::<links::Asked>()
        .answers::<links::Links>(StatusCode::OK, "users of tenants the token is for")
        .refuses(&[422])
}

fn of_user(id: &str, summary: &str) -> Operation {
    openapi::of_services(id, summary)
        .tag(TAG)
        .segment("tenant", "the user's tenant")
        .segment("user", "the user's id")
        .refuses_as(404, "nobody has written this user, or there is no such target")
        .refuses(&[422])
}
