use postbound_client::{EmitError, emit};
use sqlx::PgConnection;
use uuid::Uuid;

use super::body::{EventAction, EventBody};
use crate::Ingress;
use crate::problem::{Problem, of_emit};

/// How often a transaction is run that another one got in the way of.
const ATTEMPTS_MAX: u32 = 4;

/// A change that is written.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) tenant_id: String,
    pub(super) user_id: String,
    pub(super) event_id: Uuid,
    pub(super) version: i64,
    pub(super) action: EventAction,
    /// The only targets it is for; None: all.
    pub(super) targets: Option<Vec<String>>,
    /// Whether it had been written under this key before.
    pub(super) replayed: bool,
}

impl Written {
    /// Where its delivery can be followed.
    pub(super) fn status_path(&self) -> String {
        format!("/v1/users/{}/{}/sync", segment(&self.tenant_id), segment(&self.user_id))
    }
}

/// Writes the change, unless its key was used before: then gives what was written under it. `key` is the caller, the key
/// and the sha256 of the body.
pub(super) async fn write(
    ingress: &Ingress,
    key: (&str, &str, &[u8; 32]),
    event: &EventBody,
    traceparent: Option<&str>,
) -> Result<Written, Problem> {
    let mut attempt = 1;
    loop {
        match write_once(ingress, key, event, traceparent).await {
            Err(WriteError::Emit(error)) if error.is_retryable() && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(WriteError::Emit(error)) => return Err(of_emit(error)),
            Err(WriteError::Problem(problem)) => return Err(problem),
            Ok(written) => return Ok(written),
        }
    }
}

enum WriteError {
    Emit(EmitError),
    Problem(Problem),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Problem(error.into())
    }
}

async fn write_once(
    ingress: &Ingress,
    key: (&str, &str, &[u8; 32]),
    event: &EventBody,
    traceparent: Option<&str>,
) -> Result<Written, WriteError> {
    let (caller, key, digest) = key;
    let mut transaction = ingress.pool.begin().await?;
    if !lock_key(&mut transaction, caller, key).await? {
        return Err(WriteError::Problem(key_in_progress()));
    }
    let targets = event.targets().map(<[String]>::to_vec);
    if let Some(answer) = answered(&mut transaction, caller, key).await? {
        // Dropped, it would be rolled back some time later, and the caller's next request find the key in use.
        transaction.rollback().await?;
        if answer.digest != digest {
            return Err(WriteError::Problem(key_reused()));
        }
        let Answered { tenant_id, user_id, event_id, version, .. } = answer;
        let action = event.action;
        return Ok(Written { tenant_id, user_id, event_id, version, action, targets, replayed: true });
    }
    let change = event.change(traceparent).map_err(WriteError::Problem)?;
    let emitted = emit(&mut transaction, &change).await.map_err(WriteError::Emit)?;
    let written = Written {
        tenant_id: event.tenant().to_owned(),
        user_id: event.user_id.clone(),
        event_id: emitted.event_id,
        version: emitted.version,
        action: event.action,
        targets,
        replayed: false,
    };
    remember(&mut transaction, (caller, key, digest), &written).await?;
    postbound_failpoint::pass("ingress.event_written");
    transaction.commit().await?;
    Ok(written)
}

/// Until the transaction ends, the key is in use; false: it is already.
async fn lock_key(connection: &mut PgConnection, caller: &str, key: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "-- events_lock_key
        select pg_try_advisory_xact_lock(hashtextextended('postbound.events:' || $1 || chr(31) || $2, 0))",
    )
    .bind(caller)
    .bind(key)
    .fetch_one(connection)
    .await
}

#[derive(sqlx::FromRow)]
struct Answered {
    digest: Vec<u8>,
    tenant_id: String,
    user_id: String,
    event_id: Uuid,
    version: i64,
}

async fn answered(
    connection: &mut PgConnection,
    caller: &str,
    key: &str,
) -> Result<Option<Answered>, sqlx::Error> {
    sqlx::query_as(
        "-- events_answered
        select digest, tenant_id, user_id, event_id, version from postbound.inbound_answer
        where caller = $1 and key = $2",
    )
    .bind(caller)
    .bind(key)
    .fetch_optional(connection)
    .await
}

async fn remember(
    connection: &mut PgConnection,
    (caller, key, digest): (&str, &str, &[u8; 32]),
    written: &Written,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- events_remember
        insert into postbound.inbound_answer (caller, key, digest, tenant_id, user_id, event_id, version)
        values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(caller)
    .bind(key)
    .bind(digest.as_slice())
    .bind(&written.tenant_id)
    .bind(&written.user_id)
    .bind(written.event_id)
    .bind(written.version)
    .execute(connection)
    .await?;
    Ok(())
}

fn key_in_progress() -> Problem {
    let detail = "a request with this idempotency key is being processed; send it again later";
    Problem::conflict("idempotency-key-in-progress", detail).retry_after(std::time::Duration::from_secs(1))
}

fn key_reused() -> Problem {
    Problem::new(
        axum::http::StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
        "The idempotency key was reused",
        "this idempotency key was used with another body",
    )
}

/// One segment of a path: all but unreserved characters (RFC 3986) as %XX.
fn segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}
