//! `/api/users`: the directory over HTTP (seed 004).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use postbound_event::Action;
use postbound_http::{ApiRouter, read_body, read_object, require_json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tower_http::cors::CorsLayer;
use utoipa::IntoParams;

use super::access::Who;
use super::apply::{Applied, DirectoryError, UserChange, apply};
use super::ensure::ensure;
use super::merge::{Says, Word};
use super::rows::{self, PageFilter, UserRow};
use super::session_token::Claims;
use super::{describe, fields, sessions};
use crate::Ingress;
use crate::problem::{Problem, of_emit};

/// How long a browser may remember that it may come.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);
/// Users of a page, unless fewer are asked for.
const PAGE_MAX: i64 = 200;

/// `/api/users` and `/api/sessions`, unless they are turned off.
pub(crate) fn router(ingress: Arc<Ingress>) -> ApiRouter {
    if !ingress.settings.directory.enabled {
        return ApiRouter::new();
    }
    ApiRouter::new()
        .get("/api/users", get_users, describe::get_users())
        .post("/api/users", post_users, describe::post_users())
        .put("/api/users", put_users, describe::put_users())
        .delete("/api/users", delete_users, describe::delete_users())
        .merge(sessions::router())
        .map(|router| {
            router
                // Set here, so that the layer sees what browsers ask before they come.
                .method_not_allowed_fallback(async || Problem::method_not_allowed())
                .layer(cors(&ingress.settings.directory.clerk_authorized_parties))
                .with_state(ingress)
        })
}

/// Pages of the origins that session tokens are made for may ask, with the token as bearer.
fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE)
}

/// Which users a service asks for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Asked {
    /// Their tenant; `ingress.directory.tenant` where left out.
    tenant_id: Option<String>,
    /// This one alone.
    id: Option<String>,
    /// Those of this e-mail address.
    email: Option<String>,
    /// Users after this id: `next` of the page before.
    after: Option<String>,
    /// Users of a page.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Deleted ones, too.
    include_deleted: bool,
}

/// Whom a service deletes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Unwanted {
    /// Their tenant; `ingress.directory.tenant` where left out.
    tenant_id: Option<String>,
    /// The user's id.
    id: String,
    /// Why, for targets that are told.
    reason: Option<String>,
}

/// A user: themselves. A service: one by `id`, those of an `email`, or page by page.
async fn get_users(
    State(ingress): State<Arc<Ingress>>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = match ingress.directory.identify(&ingress.tokens, &headers).await? {
        Who::User(claims) => return Ok(answer(StatusCode::OK, user_body(&own(&ingress, &claims).await?))),
        Who::Service(caller) => caller,
    };
    let asked = asked.map_err(|rejection| Problem::malformed(rejection.body_text()))?.0;
    let tenant = asked.tenant_id.as_deref().unwrap_or(&ingress.settings.directory.tenant);
    caller.check_tenant(tenant)?;
    if let Some(id) = &asked.id {
        let row = rows::user(&ingress.pool, tenant, id).await?.ok_or_else(no_such_user)?;
        return Ok(answer(StatusCode::OK, user_body(&row)));
    }
    let limit = asked.limit.unwrap_or(PAGE_MAX);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::unacceptable(format!("limit must be 1 to {PAGE_MAX}")));
    }
    let filter = PageFilter {
        email: asked.email.as_deref(),
        after: asked.after.as_deref(),
        with_deleted: asked.include_deleted,
        limit: limit + 1,
    };
    let mut page = rows::page(&ingress.pool, tenant, &filter).await?;
    let more = page.len() as i64 > limit;
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = page.last().filter(|_| more).map(|row| row.id.clone());
    let users: Vec<Value> = page.iter().map(user_body).collect();
    Ok(answer(StatusCode::OK, json!({"users": users, "next": next})))
}

/// A user without a body: the fallback. A service: upsert by id; a deleted user comes back.
async fn post_users(State(ingress): State<Arc<Ingress>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let who = ingress.directory.identify(&ingress.tokens, &parts.headers).await?;
    let body = read_body(body, ingress.settings.body_bytes_max).await?;
    match who {
        Who::User(claims) => {
            let (status, row) = ensure(&ingress, &claims).await?;
            if body.is_empty() {
                return Ok(answer(status, user_body(&row)));
            }
            require_json(&parts.headers)?;
            let row = set_own(&ingress, &claims, read_object(&body)?).await?;
            Ok(answer(status, user_body(&row)))
        }
        Who::Service(caller) => {
            require_json(&parts.headers)?;
            let (tenant, user, fields) = named(&ingress, &body)?;
            caller.check_tenant(&tenant)?;
            fields::check(&fields)?;
            let says = Says::Caller { revives: true };
            let (applied, row) =
                change(&ingress, &spoken(&tenant, &user, Word::Set(fields), says, &parts.headers)).await?;
            let made = matches!(applied, Applied::Stored { action: Action::Created, .. });
            let status = if made { StatusCode::CREATED } else { StatusCode::OK };
            Ok(answer(status, user_body(&row.ok_or_else(no_such_user)?)))
        }
    }
}

/// Changes the fields that are given; null clears one.
async fn put_users(State(ingress): State<Arc<Ingress>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let who = ingress.directory.identify(&ingress.tokens, &parts.headers).await?;
    let body = read_body(body, ingress.settings.body_bytes_max).await?;
    require_json(&parts.headers)?;
    let row = match who {
        Who::User(claims) => {
            own(&ingress, &claims).await?;
            set_own(&ingress, &claims, read_object(&body)?).await?
        }
        Who::Service(caller) => {
            let (tenant, user, fields) = named(&ingress, &body)?;
            caller.check_tenant(&tenant)?;
            fields::check(&fields)?;
            rows::user(&ingress.pool, &tenant, &user).await?.ok_or_else(no_such_user)?;
            let says = Says::Caller { revives: false };
            let (applied, row) =
                change(&ingress, &spoken(&tenant, &user, Word::Set(fields), says, &parts.headers)).await?;
            if applied == Applied::Deleted {
                return Err(Problem::conflict("user-deleted", "the user is deleted; POST brings them back"));
            }
            row.ok_or_else(no_such_user)?
        }
    };
    Ok(answer(StatusCode::OK, user_body(&row)))
}

/// Soft-deletes a user: `?id=&reason=`. Services only: users delete their account at Clerk, which then tells us.
async fn delete_users(
    State(ingress): State<Arc<Ingress>>,
    asked: Result<Query<Unwanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Who::Service(caller) = ingress.directory.identify(&ingress.tokens, &headers).await? else {
        return Err(Problem::forbidden("accounts are deleted at the identity provider"));
    };
    let asked = asked.map_err(|rejection| Problem::malformed(rejection.body_text()))?.0;
    let tenant = asked.tenant_id.as_deref().unwrap_or(&ingress.settings.directory.tenant);
    caller.check_tenant(tenant)?;
    let id = asked.id;
    rows::user(&ingress.pool, tenant, &id).await?.ok_or_else(no_such_user)?;
    let word = Word::Delete { reason: asked.reason };
    let (_, row) =
        change(&ingress, &spoken(tenant, &id, word, Says::Caller { revives: false }, &headers)).await?;
    Ok(answer(StatusCode::OK, user_body(&row.ok_or_else(no_such_user)?)))
}

/// The caller's own row, if they may act.
async fn own(ingress: &Ingress, claims: &Claims) -> Result<UserRow, Problem> {
    let tenant = &ingress.settings.directory.tenant;
    let row = rows::user(&ingress.pool, tenant, &claims.sub).await?.ok_or_else(no_such_user)?;
    check_may_act(&row)?;
    Ok(row)
}

async fn set_own(
    ingress: &Ingress,
    claims: &Claims,
    mut fields: Map<String, Value>,
) -> Result<UserRow, Problem> {
    if fields::take_text(&mut fields, "id")?.is_some_and(|id| id != claims.sub) {
        return Err(Problem::forbidden("this is another user"));
    }
    fields::check_own(&fields)?;
    let tenant = &ingress.settings.directory.tenant;
    let says = Says::Caller { revives: false };
    let (applied, row) =
        change(ingress, &spoken(tenant, &claims.sub, Word::Set(fields), says, &HeaderMap::new())).await?;
    match row {
        Some(row) if applied != Applied::Deleted => Ok(row),
        _ => Err(Problem::forbidden("the user is deleted")),
    }
}

/// Tenant, user and fields of a service's body.
fn named(ingress: &Ingress, body: &[u8]) -> Result<(String, String, Map<String, Value>), Problem> {
    let mut fields = read_object(body)?;
    let tenant = fields::take_text(&mut fields, "tenantId")?;
    let tenant = tenant.unwrap_or_else(|| ingress.settings.directory.tenant.clone());
    let user = fields::take_text(&mut fields, "id")?.ok_or_else(|| Problem::malformed("id is required"))?;
    Ok((tenant, user, fields))
}

fn spoken<'a>(
    tenant_id: &'a str,
    user_id: &'a str,
    word: Word,
    says: Says,
    headers: &'a HeaderMap,
) -> UserChange<'a> {
    let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    UserChange { tenant_id, user_id, word, says, origin: None, traceparent }
}

/// Applies a change in a transaction of its own, and gives the row after it.
pub(crate) async fn change(
    ingress: &Ingress,
    change: &UserChange<'_>,
) -> Result<(Applied, Option<UserRow>), Problem> {
    let mut tx = ingress.pool.begin().await?;
    let applied = apply(&mut tx, change).await?;
    let row = rows::user(&mut *tx, change.tenant_id, change.user_id).await?;
    tx.commit().await?;
    if let Applied::Stored { action, version, .. } = applied {
        tracing::info!(
            tenant.id = change.tenant_id,
            user.id = change.user_id,
            user.version = version,
            action = action.as_str(),
            "ingress.user.changed"
        );
    }
    Ok((applied, row))
}

/// Refuses (403) a user who is deleted or inactive.
pub(crate) fn check_may_act(row: &UserRow) -> Result<(), Problem> {
    if row.deleted_at.is_some() || row.gone {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "user-deleted",
            "The user is deleted",
            "the user is deleted",
        ));
    }
    if !row.is_active() {
        let detail = "the user is not active";
        return Err(Problem::new(StatusCode::FORBIDDEN, "user-inactive", "The user is not active", detail));
    }
    Ok(())
}

/// A user as the API shows it: the whole state, and what the directory knows beside it.
fn user_body(row: &UserRow) -> Value {
    let mut body = row.state.0.clone();
    for field in ["email", "firstName", "lastName", "imageUrl"] {
        body.entry(field).or_insert(Value::Null);
    }
    let gone = row.deleted_at.is_some() || row.gone;
    body.entry("createdAt").or_insert_with(|| moment(row.created_at));
    let own = [
        ("id", Value::from(row.id.as_str())),
        ("tenantId", row.tenant_id.as_str().into()),
        ("theme", row.theme().into()),
        ("isActive", (row.is_active() && !gone).into()),
        ("updatedAt", moment(row.updated_at)),
        ("version", row.version.into()),
    ];
    body.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
    if let Some(deleted_at) = row.deleted_at {
        body.insert("deletedAt".to_owned(), moment(deleted_at));
    }
    if let Some(reason) = &row.delete_reason {
        body.insert("reason".to_owned(), reason.as_str().into());
    }
    Value::Object(body)
}

fn moment(at: OffsetDateTime) -> Value {
    at.format(&Rfc3339).map_or(Value::Null, Value::from)
}

pub(crate) fn answer(status: StatusCode, body: impl Serialize) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn no_such_user() -> Problem {
    Problem::not_found("there is no such user")
}

impl From<DirectoryError> for Problem {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Database(error) => error.into(),
            DirectoryError::Emit(error) => of_emit(error),
        }
    }
}
