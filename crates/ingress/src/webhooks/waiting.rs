//! Changes of users whom nobody knows yet: kept, and tried again until a link names the user.
//!
//! The sender's id is locked while it is looked up, kept or applied, so that of two messages of one user the older is
//! never applied after the newer.

use axum::http::HeaderMap;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use super::Source;
use super::inbound::{Inbound, InboundChange};
use super::take::{Message, TakeError, Taken, apply_to, record};
use super::whom::{Whom, lock_id, whom};
use crate::Ingress;

/// Ids tried in one go.
const RETRY_BATCH: i64 = 100;
/// Changes of one id that are applied in one transaction, and read at once.
const APPLIED_MAX: i64 = 100;
/// The reason of a change that could not be applied yet because too many older ones of its user are.
pub(super) const BEHIND: &str = "behind older ones";
/// The reason of a change that is not tried again: the outbox refused it.
const REFUSED: &str = "refused";

/// Keeps a change until its user is known.
pub(super) async fn keep(
    connection: &mut PgConnection,
    source: &Source,
    message: &Message<'_>,
    change: &InboundChange,
    reason: &str,
) -> Result<(), TakeError> {
    if !source.lets_one_more_wait() {
        return Err(TakeError::Full);
    }
    sqlx::query(
        "-- inbound_keep
        insert into postbound.inbound_waiting
            (source, message_id, tenant_id, target, system, external_id, body, reason)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict on constraint inbound_waiting_once do nothing",
    )
    .bind(source.name())
    .bind(&message.id)
    .bind(&change.tenant)
    .bind(source.settings.link_target.as_deref().unwrap_or_default())
    .bind(source.settings.link_system.as_deref().unwrap_or_default())
    .bind(&change.id)
    .bind(message.body)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Kept {
    waiting_id: i64,
    message_id: String,
    body: Value,
}

/// What became of the changes that waited for one id.
#[derive(Debug, Default)]
pub(super) struct CaughtUp {
    pub(super) applied: usize,
    /// Whether there may be more of them.
    pub(super) more: bool,
}

/// Applies what waits for a user who is known now, in the order it came, as far as one transaction goes. The sender's id
/// is locked.
pub(super) async fn apply_waiting(
    connection: &mut PgConnection,
    source: &Source,
    external_id: &str,
    user: (&str, &str),
) -> Result<CaughtUp, TakeError> {
    let waiting = kept_of(connection, source.name(), external_id, user.0).await?;
    let mut caught_up = CaughtUp { applied: 0, more: waiting.len() as i64 == APPLIED_MAX };
    for kept in waiting {
        let Ok(Inbound::Change(change)) = Inbound::read(source, &HeaderMap::new(), &kept.body) else {
            // The source's settings are others now; whoever changed them sees it in the list.
            refuse(connection, kept.waiting_id).await?;
            continue;
        };
        // A refusal takes back this change alone.
        let mut savepoint = connection.begin().await?;
        match apply_to(&mut savepoint, source, &change, user).await {
            Ok(taken) => {
                settle(&mut savepoint, source.name(), &kept, taken).await?;
                savepoint.commit().await?;
                caught_up.applied += 1;
            }
            Err(error) if error.class() == REFUSED => {
                savepoint.rollback().await?;
                tracing::error!(
                    source = source.name(),
                    waiting_id = kept.waiting_id,
                    "ingress.waiting.refused"
                );
                refuse(connection, kept.waiting_id).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(caught_up)
}

#[derive(sqlx::FromRow)]
struct Due {
    source: String,
    external_id: String,
    tenant_id: Option<String>,
}

/// Tries again what is due; gives how many changes were applied.
pub(crate) async fn retry_due(ingress: &Ingress) -> Result<usize, sqlx::Error> {
    let sources: Vec<&str> = ingress.sources.iter().map(|source| source.name()).collect();
    let due: Vec<Due> = sqlx::query_as(
        "-- inbound_due
        select w.source, w.external_id, w.tenant_id from postbound.inbound_waiting as w
        where w.due_at <= clock_timestamp() and w.source = any($1) and w.reason <> 'refused'
        group by w.source, w.external_id, w.tenant_id order by min(w.due_at) limit $2",
    )
    .bind(sources)
    .bind(RETRY_BATCH)
    .fetch_all(&ingress.pool)
    .await?;
    let mut applied = 0;
    for Due { source, external_id, tenant_id } in due {
        let Some(source) = ingress.sources.iter().find(|known| known.name() == source) else { continue };
        let id = (external_id.as_str(), tenant_id.as_deref());
        match retry(ingress, source, id).await {
            Ok(count) => applied += count,
            Err(error) => {
                tracing::warn!(source = source.name(), class = error.class(), "ingress.waiting.failed");
                postpone(&mut *ingress.pool.acquire().await?, source.name(), id, error.class()).await?;
            }
        }
    }
    Ok(applied)
}

/// Tries the changes of one id and tenant again: None, where they name no tenant.
async fn retry(ingress: &Ingress, source: &Source, id: (&str, Option<&str>)) -> Result<usize, TakeError> {
    let mut transaction = ingress.pool.begin().await?;
    lock_id(&mut transaction, source.name(), id.0).await?;
    let Some(first) = oldest_of(&mut transaction, source.name(), id).await? else { return Ok(0) };
    let mut applied = 0;
    match Inbound::read(source, &HeaderMap::new(), &first.body) {
        Ok(Inbound::Change(change)) => match whom(&mut transaction, source, &change).await? {
            Whom::Known { tenant_id, user_id } => {
                let user = (tenant_id.as_str(), user_id.as_str());
                applied = apply_waiting(&mut transaction, source, id.0, user).await?.applied;
            }
            Whom::Unknown { reason } => postpone(&mut transaction, source.name(), id, reason).await?,
        },
        _ => refuse(&mut transaction, first.waiting_id).await?,
    }
    transaction.commit().await?;
    Ok(applied)
}

async fn oldest_of(
    connection: &mut PgConnection,
    source: &str,
    (external_id, tenant): (&str, Option<&str>),
) -> Result<Option<Kept>, sqlx::Error> {
    sqlx::query_as(
        "-- inbound_oldest
        select waiting_id, message_id, body from postbound.inbound_waiting
        where source = $1 and external_id = $2 and tenant_id is not distinct from $3 and reason <> 'refused'
        order by waiting_id limit 1",
    )
    .bind(source)
    .bind(external_id)
    .bind(tenant)
    .fetch_optional(connection)
    .await
}

/// What waits for a user of this tenant, the oldest first. Another tenant may know another user by the same id.
async fn kept_of(
    connection: &mut PgConnection,
    source: &str,
    external_id: &str,
    tenant: &str,
) -> Result<Vec<Kept>, sqlx::Error> {
    sqlx::query_as(
        "-- inbound_kept
        select waiting_id, message_id, body from postbound.inbound_waiting
        where source = $1 and external_id = $2 and (tenant_id is null or tenant_id = $3) and reason <> 'refused'
        order by waiting_id limit $4",
    )
    .bind(source)
    .bind(external_id)
    .bind(tenant)
    .bind(APPLIED_MAX)
    .fetch_all(connection)
    .await
}

async fn settle(
    connection: &mut PgConnection,
    source: &str,
    kept: &Kept,
    taken: Taken,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- inbound_settle
        with settled as (delete from postbound.inbound_waiting where waiting_id = $1)
        update postbound.inbound_message set outcome = 'applied' where source = $2 and message_id = $3",
    )
    .bind(kept.waiting_id)
    .bind(source)
    .bind(&kept.message_id)
    .execute(&mut *connection)
    .await?;
    record(connection, source, &kept.message_id, taken).await
}

async fn refuse(connection: &mut PgConnection, waiting_id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- inbound_refuse
        update postbound.inbound_waiting
        set reason = 'refused', tries = tries + 1, tried_at = clock_timestamp() where waiting_id = $1",
    )
    .bind(waiting_id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Comes back later: after 1 s, 2 s, 4 s ... a minute.
async fn postpone(
    connection: &mut PgConnection,
    source: &str,
    (external_id, tenant): (&str, Option<&str>),
    reason: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- inbound_postpone
        update postbound.inbound_waiting
        set tries = tries + 1, tried_at = clock_timestamp(), reason = $3,
            due_at = clock_timestamp() + least(60, 2 ^ least(tries, 6)) * interval '1 second'
        where source = $1 and external_id = $2 and tenant_id is not distinct from $4 and reason <> 'refused'",
    )
    .bind(source)
    .bind(external_id)
    .bind(reason)
    .bind(tenant)
    .execute(connection)
    .await?;
    Ok(())
}
