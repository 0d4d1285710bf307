//! `/api/sessions`: the login check. A session is made only for a user who is there and active, and ends with them.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use postbound_http::{ApiRouter, read_body, read_object, require_json};
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::{FromRow, PgConnection, PgExecutor};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::Who;
use super::api::{answer, check_may_act, no_such_user};
use super::rows::{self, PageFilter};
use super::{describe, fields};
use crate::Ingress;
use crate::problem::Problem;

/// Longest id of a session.
const ID_BYTES_MAX: usize = 256;

pub(crate) fn router() -> ApiRouter<Arc<Ingress>> {
    ApiRouter::new()
        .post("/api/sessions", sign_in, describe::sign_in())
        .get("/api/sessions/{id}", show, describe::session())
        .delete("/api/sessions/{id}", sign_out, describe::sign_out())
}

/// A session, as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    id: String,
    tenant_id: String,
    user_id: String,
    /// Whether it has not ended, and its user may act.
    active: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
    /// `signed_out`, `user_deleted` or `user_inactive`.
    end_reason: Option<String>,
}

#[derive(Debug, FromRow)]
struct SessionRow {
    session_id: String,
    tenant_id: String,
    user_id: String,
    created_at: OffsetDateTime,
    ended_at: Option<OffsetDateTime>,
    end_reason: Option<String>,
}

/// Who is to be signed in.
struct SignIn {
    tenant: String,
    user: String,
    session: Option<String>,
}

/// A user: with their own session token. A service: `{"userId" or "email", "tenantId"?, "sessionId"?}`. 403 for a user who
/// is deleted or inactive.
async fn sign_in(State(ingress): State<Arc<Ingress>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let wanted = match ingress.directory.identify(&ingress.tokens, &parts.headers).await? {
        Who::User(claims) => SignIn {
            tenant: ingress.settings.directory.tenant.clone(),
            user: claims.sub,
            session: claims.sid,
        },
        Who::Service(caller) => {
            require_json(&parts.headers)?;
            let body = read_body(body, ingress.settings.body_bytes_max).await?;
            let mut body = read_object(&body)?;
            let tenant = fields::take_text(&mut body, "tenantId")?;
            let tenant = tenant.unwrap_or_else(|| ingress.settings.directory.tenant.clone());
            caller.check_tenant(&tenant)?;
            let session = fields::take_text(&mut body, "sessionId")?;
            let user = named_user(&ingress, &tenant, &mut body).await?;
            SignIn { tenant, user, session }
        }
    };
    let session = wanted.session.unwrap_or_else(|| Uuid::new_v4().to_string());
    if session.len() > ID_BYTES_MAX {
        return Err(Problem::unacceptable(format!("a session's id has at most {ID_BYTES_MAX} bytes")));
    }
    let mut tx = ingress.pool.begin().await?;
    let user = rows::user_for_login(&mut tx, &wanted.tenant, &wanted.user).await?.ok_or_else(no_such_user)?;
    check_may_act(&user)?;
    let made = insert(&mut tx, &session, &wanted.tenant, &wanted.user).await?;
    let row = find(&mut *tx, &session).await?.ok_or_else(Problem::internal)?;
    tx.commit().await?;
    if (&row.tenant_id, &row.user_id) != (&wanted.tenant, &wanted.user) {
        return Err(Problem::conflict("session-taken", "the session is another user's"));
    }
    if row.ended_at.is_some() {
        return Err(Problem::forbidden("the session has ended"));
    }
    Ok(answer(if made { StatusCode::CREATED } else { StatusCode::OK }, Session::of(row, true)))
}

async fn show(
    State(ingress): State<Arc<Ingress>>,
    id: SessionId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let row = visible(&ingress, &named(id)?, &headers).await?;
    // A deactivation by another producer ends no session by itself.
    let user = rows::user(&ingress.pool, &row.tenant_id, &row.user_id).await?;
    let may_act = user.is_some_and(|user| check_may_act(&user).is_ok());
    Ok(answer(StatusCode::OK, Session::of(row, may_act)))
}

async fn sign_out(
    State(ingress): State<Arc<Ingress>>,
    id: SessionId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = named(id)?;
    visible(&ingress, &id, &headers).await?;
    sqlx::query(
        "-- directory.sign_out
        update directory.sessions set ended_at = now(), end_reason = 'signed_out' where session_id = $1 and ended_at is null",
    )
    .bind(&id)
    .execute(&ingress.pool)
    .await?;
    let row = find(&ingress.pool, &id).await?.ok_or_else(no_such_session)?;
    Ok(answer(StatusCode::OK, Session::of(row, false)))
}

/// What the path names.
type SessionId = Result<Path<String>, PathRejection>;

fn named(id: SessionId) -> Result<String, Problem> {
    id.map(|Path(id)| id).map_err(|_| Problem::malformed("the path must name the session in UTF-8"))
}

/// The session, if the caller may know of it: else 404.
async fn visible(ingress: &Ingress, id: &str, headers: &HeaderMap) -> Result<SessionRow, Problem> {
    let who = ingress.directory.identify(&ingress.tokens, headers).await?;
    let row = find(&ingress.pool, id).await?.ok_or_else(no_such_session)?;
    let may = match who {
        Who::Service(caller) => caller.admits(&row.tenant_id),
        Who::User(claims) => row.tenant_id == ingress.settings.directory.tenant && row.user_id == claims.sub,
    };
    if may { Ok(row) } else { Err(no_such_session()) }
}

/// The user a service means: by id, or by an e-mail address only one living user has.
async fn named_user(
    ingress: &Ingress,
    tenant: &str,
    body: &mut Map<String, Value>,
) -> Result<String, Problem> {
    let (id, email) = (fields::take_text(body, "userId")?, fields::take_text(body, "email")?);
    if let Some(id) = id {
        return Ok(id);
    }
    let email = email.ok_or_else(|| Problem::malformed("userId or email is required"))?;
    let filter = PageFilter { email: Some(&email), limit: 2, with_deleted: true, ..PageFilter::default() };
    let mut users = rows::page(&ingress.pool, tenant, &filter).await?;
    if users.len() > 1 {
        let filter = PageFilter { with_deleted: false, ..filter };
        users = rows::page(&ingress.pool, tenant, &filter).await?;
    }
    match users.as_slice() {
        [] => Err(no_such_user()),
        [user] => Ok(user.id.clone()),
        _ => Err(Problem::conflict("email-ambiguous", "several users have this e-mail address; give userId")),
    }
}

async fn insert(
    connection: &mut PgConnection,
    session: &str,
    tenant: &str,
    user: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "-- directory.sign_in
        insert into directory.sessions (session_id, tenant_id, user_id) values ($1, $2, $3)
        on conflict on constraint sessions_pk do nothing",
    )
    .bind(session)
    .bind(tenant)
    .bind(user)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn find(executor: impl PgExecutor<'_>, id: &str) -> Result<Option<SessionRow>, sqlx::Error> {
    sqlx::query_as(
        "-- directory.session
        select session_id, tenant_id, user_id, created_at, ended_at, end_reason
        from directory.sessions where session_id = $1",
    )
    .bind(id)
    .fetch_optional(executor)
    .await
}

impl Session {
    fn of(row: SessionRow, user_may_act: bool) -> Self {
        Self {
            id: row.session_id,
            tenant_id: row.tenant_id,
            user_id: row.user_id,
            active: row.ended_at.is_none() && user_may_act,
            created_at: row.created_at,
            ended_at: row.ended_at,
            end_reason: row.end_reason,
        }
    }
}

fn no_such_session() -> Problem {
    Problem::not_found("there is no such session")
}
