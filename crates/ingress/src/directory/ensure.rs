//! The fallback: a user signs in whose webhook was lost. Their front end posts to `/api/users` with nothing but the
//! session token, and the user is there afterwards.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::api::{change, check_may_act};
use super::apply::UserChange;
use super::clerk_api::ClerkApiError;
use super::merge::{Says, Word};
use super::rows::{self, UserRow};
use super::session_token::Claims;
use crate::Ingress;
use crate::problem::Problem;

/// Claims a session token may be customised with, by the field they tell.
const PROFILE_CLAIMS: [(&str, &[&str]); 5] = [
    ("email", &["email", "primary_email", "primaryEmail", "email_address"]),
    ("firstName", &["first_name", "firstName", "given_name"]),
    ("lastName", &["last_name", "lastName", "family_name"]),
    ("imageUrl", &["image_url", "imageUrl", "picture"]),
    ("username", &["username", "preferred_username"]),
];

/// The user of these claims: as known, else made from the token's profile, else from what Clerk's Backend API says of
/// them, else 422. 201 for one that was made.
pub(crate) async fn ensure(ingress: &Ingress, claims: &Claims) -> Result<(StatusCode, UserRow), Problem> {
    let tenant = ingress.settings.directory.tenant.as_str();
    if let Some(row) = rows::user(&ingress.pool, tenant, &claims.sub).await? {
        check_may_act(&row)?;
        return Ok((StatusCode::OK, row));
    }
    let (fields, says) = match profile(&claims.others) {
        Some(fields) => (fields, Says::Fallback),
        None => ask_clerk(ingress, &claims.sub).await?,
    };
    let user = UserChange {
        tenant_id: tenant,
        user_id: &claims.sub,
        word: Word::Set(fields),
        says,
        origin: None,
        traceparent: None,
    };
    let (applied, row) = change(ingress, &user).await?;
    let row = row.ok_or_else(|| Problem::forbidden("the user is deleted"))?;
    check_may_act(&row)?;
    let made = matches!(applied, super::Applied::Stored { action: postbound_event::Action::Created, .. });
    Ok((if made { StatusCode::CREATED } else { StatusCode::OK }, row))
}

/// The profile a token tells, if it tells the e-mail address at least, and does not say that it is unverified.
fn profile(claims: &Map<String, Value>) -> Option<Map<String, Value>> {
    let told = |names: &[&str]| {
        names.iter().find_map(|name| claims.get(*name)?.as_str().filter(|text| !text.is_empty()))
    };
    let unverified = claims.get("email_verified") == Some(&Value::Bool(false));
    let fields: Map<_, _> = PROFILE_CLAIMS
        .iter()
        .filter_map(|(field, names)| Some(((*field).to_owned(), Value::from(told(names)?))))
        .collect();
    (fields.contains_key("email") && !unverified).then_some(fields)
}

async fn ask_clerk(ingress: &Ingress, user: &str) -> Result<(Map<String, Value>, Says), Problem> {
    let Some(clerk) = &ingress.directory.clerk else {
        let detail =
            "the session token tells no verified e-mail address, and no Backend API is configured to ask";
        return Err(Problem::unacceptable(detail));
    };
    match clerk.user(user).await {
        Ok(user) => Ok((user.fields, Says::Clerk { updated_at: Some(user.updated_at) })),
        Err(ClerkApiError::Unknown) => Err(Problem::unacceptable("Clerk knows no such user")),
        Err(ClerkApiError::Unavailable(problem)) => {
            tracing::warn!(%problem, "ingress.clerk_api.failed");
            Err(Problem::unavailable())
        }
    }
}
