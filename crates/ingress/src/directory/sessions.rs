//! `/api/sessions`: the login check. A session is made only for a user who is there and active, and ends with them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Map, Value, json};
use sqlx::{FromRow, PgConnection, PgExecutor};
use time::OffsetDateTime;
use uuid::Uuid;

use super::access::Who;
use super::api::{answer, check_may_act, moment, no_such_user};
use super::fields;
use super::rows::{self, PageFilter};
use crate::Ingress;
use crate::body::{read_body, require_json};
use crate::problem::Problem;

/// Longest id of a session.
const ID_BYTES_MAX: usize = 256;

pub(crate) fn router() -> Router<Arc<Ingress>> {
    Router::new()
        .route("/api/sessions", post(sign_in))
        .route("/api/sessions/{id}", get(show).delete(sign_out))
}

#[derive(Debug, FromRow)]
struct SessionRow {
    session_id: String,
    tenant_id: String,
    user_id: String,
    created_at: OffsetDateTime,
    ended_at: Option<OffsetDateTime>,
    end_reason: Option<String>,
    /// Whether the user may still act; another producer's delete ends no session by itself.
    user_may_act: bool,
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
            let mut body = fields::object(&body)?;
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
    Ok(answer(if made { StatusCode::CREATED } else { StatusCode::OK }, body_of(&row)))
}

async fn show(
    State(ingress): State<Arc<Ingress>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let row = visible(&ingress, &id, &headers).await?;
    Ok(answer(StatusCode::OK, body_of(&row)))
}

async fn sign_out(
    State(ingress): State<Arc<Ingress>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    visible(&ingress, &id, &headers).await?;
    sqlx::query(
        "-- directory.sign_out
        update directory.sessions set ended_at = now(), end_reason = 'signed_out' where session_id = $1 and ended_at is null",
    )
    .bind(&id)
    .execute(&ingress.pool)
    .await?;
    let row = find(&ingress.pool, &id).await?.ok_or_else(no_such_session)?;
    Ok(answer(StatusCode::OK, body_of(&row)))
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
    if let Some(id) = fields::take_text(body, "userId")? {
        return Ok(id);
    }
    let email =
        fields::take_text(body, "email")?.ok_or_else(|| Problem::malformed("userId or email is required"))?;
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
        select s.session_id, s.tenant_id, s.user_id, s.created_at, s.ended_at, s.end_reason,
               u.is_active and u.deleted_at is null and not (h.deleted and h.version > u.version) as user_may_act
        from directory.sessions as s
        join directory.users as u on u.tenant_id = s.tenant_id and u.id = s.user_id
        join postbound.user_head as h on h.tenant_id = s.tenant_id and h.user_id = s.user_id
        where s.session_id = $1",
    )
    .bind(id)
    .fetch_optional(executor)
    .await
}

fn body_of(row: &SessionRow) -> Value {
    json!({
        "id": row.session_id,
        "tenantId": row.tenant_id,
        "userId": row.user_id,
        "active": row.ended_at.is_none() && row.user_may_act,
        "createdAt": moment(row.created_at),
        "endedAt": row.ended_at.map_or(Value::Null, moment),
        "endReason": row.end_reason,
    })
}

fn no_such_session() -> Problem {
    Problem::not_found("there is no such session")
}
