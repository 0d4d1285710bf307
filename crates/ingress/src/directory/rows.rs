//! The directory's tables: every query on them.

use serde_json::{Map, Value};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgExecutor};
use time::OffsetDateTime;

use super::merge::{ClerkWord, Held, Recent};

/// A row to be written after its state was emitted.
pub(crate) struct NewRow<'a> {
    /// Tenant and user.
    pub(crate) key: (&'a str, &'a str),
    /// Version the state was emitted as.
    pub(crate) version: i64,
    pub(crate) recent: &'a [Recent],
    pub(crate) state: &'a Map<String, Value>,
    /// Set for a delete, with its reason.
    pub(crate) deleted: Option<Option<&'a str>>,
    /// What Clerk said, if it was Clerk.
    pub(crate) clerk: Option<&'a ClerkWord>,
}

/// A user as the directory has it, with the state of whoever wrote last.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct UserRow {
    pub(crate) tenant_id: String,
    pub(crate) id: String,
    pub(crate) state: Json<Map<String, Value>>,
    pub(crate) version: i64,
    pub(crate) deleted_at: Option<OffsetDateTime>,
    pub(crate) delete_reason: Option<String>,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) updated_at: OffsetDateTime,
    /// Another producer has deleted the user since.
    pub(crate) gone: bool,
}

/// Which users a page holds.
#[derive(Debug, Default)]
pub(crate) struct PageFilter<'a> {
    pub(crate) email: Option<&'a str>,
    /// Ids after this one.
    pub(crate) after: Option<&'a str>,
    pub(crate) with_deleted: bool,
    pub(crate) limit: i64,
}

impl UserRow {
    /// Appearance the user chose; `system` unless chosen.
    pub(crate) fn theme(&self) -> &str {
        self.state.get("theme").and_then(Value::as_str).unwrap_or("system")
    }

    /// Whether the user may sign in, if not deleted.
    pub(crate) fn is_active(&self) -> bool {
        self.state.get("isActive") != Some(&Value::Bool(false))
    }
}

/// Locks a user until the transaction ends and reads what is known.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tenant: &str,
    user: &str,
) -> Result<Held, sqlx::Error> {
    #[derive(FromRow)]
    struct Locked {
        head_version: i64,
        head_deleted: bool,
        newest: Json<Map<String, Value>>,
        known: bool,
        row_version: i64,
        tombstone: bool,
        clerk_updated_at: Option<OffsetDateTime>,
        clerk_profile: Option<Json<Map<String, Value>>>,
        recent: Value,
    }
    let locked: Locked = sqlx::query_as(
        "-- directory.lock_user
        select head_version, head_deleted, newest, known, row_version, tombstone, clerk_updated_at, clerk_profile, recent
        from directory.lock_user($1, $2)",
    )
    .bind(tenant)
    .bind(user)
    .fetch_one(connection)
    .await?;
    let clerk = locked.clerk_updated_at.zip(locked.clerk_profile);
    Ok(Held {
        version: locked.head_version,
        // Whoever wrote last decides: another producer may have brought the user back, or deleted it.
        deleted: if locked.head_version > locked.row_version {
            locked.head_deleted
        } else {
            locked.tombstone
        },
        known: locked.known,
        state: locked.newest.0,
        clerk: clerk.map(|(updated_at, profile)| ClerkWord { updated_at, profile: profile.0 }),
        recent: serde_json::from_value(locked.recent).unwrap_or_default(),
    })
}

/// States of the last minutes as the log has them: those that other producers wrote are nowhere else. Unless a version is
/// asked for, none if the newest state is older than echoes are late. Looks back 20,000 changes of all users: the log
/// has no index by user, which would cost every producer.
pub(crate) async fn logged(
    connection: &mut PgConnection,
    (tenant, user): (&str, &str),
    newest: i64,
    asked: Option<i64>,
) -> Result<Vec<Recent>, sqlx::Error> {
    type State = (i64, OffsetDateTime, Option<String>, Json<Map<String, Value>>);
    let states: Vec<State> = sqlx::query_as(
        "-- directory.logged_states
        select l.version, l.logged_at, l.origin, l.data from (
            select c.version, c.logged_at, c.tenant_id, c.user_id, c.action, c.origin, c.data
            from postbound.change_log as c order by c.id desc limit 20000
        ) as l
        where l.tenant_id = $1 and l.user_id = $2 and l.action <> 'deleted' and l.logged_at > now() - interval '10 minutes'
          and ($4 or not exists (select from postbound.user_state as s
                                 where s.tenant_id = $1 and s.user_id = $2 and s.version = $3
                                   and s.logged_at < now() - interval '1 minute'))
        order by l.version desc limit 16",
    )
    .bind(tenant)
    .bind(user)
    .bind(newest)
    .bind(asked.is_some())
    .fetch_all(connection)
    .await?;
    let recent = |(version, since, origin, Json(state))| Recent { version, since, origin, state };
    Ok(states.into_iter().map(recent).collect())
}

/// Writes the row of a user, and ends the sessions of one who may have none.
pub(crate) async fn store(connection: &mut PgConnection, row: &NewRow<'_>) -> Result<(), sqlx::Error> {
    let (tenant, user) = row.key;
    sqlx::query(
        "-- directory.store_user
        insert into directory.users as u
            (tenant_id, id, state, version, deleted_at, delete_reason, clerk_updated_at, clerk_profile, recent)
        values ($1, $2, $3, $4, case when $5 then now() end, $6, $7, $8, $9)
        on conflict on constraint users_pk do update
            set state = excluded.state, version = excluded.version, deleted_at = excluded.deleted_at,
                delete_reason = excluded.delete_reason,
                clerk_updated_at = coalesce(excluded.clerk_updated_at, u.clerk_updated_at),
                clerk_profile = coalesce(excluded.clerk_profile, u.clerk_profile),
                recent = excluded.recent, updated_at = now()",
    )
    .bind(tenant)
    .bind(user)
    .bind(Json(row.state))
    .bind(row.version)
    .bind(row.deleted.is_some())
    .bind(row.deleted.flatten())
    .bind(row.clerk.map(|word| word.updated_at))
    .bind(row.clerk.map(|word| Json(&word.profile)))
    .bind(Json(row.recent))
    .execute(&mut *connection)
    .await?;
    if row.deleted.is_some() {
        end_sessions(connection, row.key, "user_deleted").await?;
    } else if row.state.get("isActive") == Some(&Value::Bool(false)) {
        end_sessions(connection, row.key, "user_inactive").await?;
    }
    Ok(())
}

/// Sees to it that there is a row, and that it has what Clerk said last, where that changes nothing.
pub(crate) async fn remember(
    connection: &mut PgConnection,
    (tenant, user): (&str, &str),
    held: &Held,
    word: Option<&ClerkWord>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- directory.remember
        insert into directory.users as u (tenant_id, id, state, version, clerk_updated_at, clerk_profile)
        values ($1, $2, $3, $4, $5, $6)
        on conflict on constraint users_pk do update
            set clerk_updated_at = coalesce(excluded.clerk_updated_at, u.clerk_updated_at),
                clerk_profile = coalesce(excluded.clerk_profile, u.clerk_profile)",
    )
    .bind(tenant)
    .bind(user)
    .bind(Json(&held.state))
    .bind(held.version)
    .bind(word.map(|word| word.updated_at))
    .bind(word.map(|word| Json(&word.profile)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Leaves a tombstone of a user whom nobody knows, or of whose delete everybody was told by another producer.
pub(crate) async fn bury(
    connection: &mut PgConnection,
    key: (&str, &str),
    held: &Held,
    reason: Option<&str>,
) -> Result<(), sqlx::Error> {
    let mut state = held.state.clone();
    state.insert("isActive".to_owned(), false.into());
    sqlx::query(
        "-- directory.bury
        insert into directory.users as u (tenant_id, id, state, version, deleted_at, delete_reason)
        values ($1, $2, $3, $4, now(), $5)
        on conflict on constraint users_pk do update
            set state = excluded.state, version = excluded.version, deleted_at = excluded.deleted_at,
                delete_reason = excluded.delete_reason, updated_at = now()
            where u.deleted_at is null",
    )
    .bind(key.0)
    .bind(key.1)
    .bind(Json(&state))
    .bind(held.version)
    .bind(reason)
    .execute(&mut *connection)
    .await?;
    end_sessions(connection, key, "user_deleted").await
}

async fn end_sessions(
    connection: &mut PgConnection,
    (tenant, user): (&str, &str),
    reason: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- directory.end_sessions
        update directory.sessions set ended_at = now(), end_reason = $3
        where tenant_id = $1 and user_id = $2 and ended_at is null",
    )
    .bind(tenant)
    .bind(user)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(())
}

/// A user's row, with the state of whoever wrote last.
macro_rules! user_rows {
    () => {
        "select u.tenant_id, u.id, n.state, greatest(u.version, s.version) as version,
                case when s.version > u.version and s.action <> 'deleted' then null else u.deleted_at end as deleted_at,
                u.delete_reason, u.created_at, greatest(u.updated_at, s.logged_at) as updated_at,
                h.deleted and h.version > u.version as gone
         from directory.users as u
         join postbound.user_head as h on h.tenant_id = u.tenant_id and h.user_id = u.id
         left join postbound.user_state as s on s.tenant_id = u.tenant_id and s.user_id = u.id
         cross join lateral (select case when s.version > u.version then s.data else u.state end as state) as n"
    };
}

/// A user, deleted ones included.
pub(crate) async fn user(
    executor: impl PgExecutor<'_>,
    tenant: &str,
    user: &str,
) -> Result<Option<UserRow>, sqlx::Error> {
    sqlx::query_as(concat!("-- directory.user\n", user_rows!(), " where u.tenant_id = $1 and u.id = $2"))
        .bind(tenant)
        .bind(user)
        .fetch_optional(executor)
        .await
}

/// The same, kept from changing until the transaction ends.
pub(crate) async fn user_for_login(
    connection: &mut PgConnection,
    tenant: &str,
    id: &str,
) -> Result<Option<UserRow>, sqlx::Error> {
    sqlx::query(
        "-- directory.hold_user
        select from directory.users where tenant_id = $1 and id = $2 for share",
    )
    .bind(tenant)
    .bind(id)
    .execute(&mut *connection)
    .await?;
    user(connection, tenant, id).await
}

/// Users of a tenant by id, at most `limit` of them.
pub(crate) async fn page(
    executor: impl PgExecutor<'_>,
    tenant: &str,
    filter: &PageFilter<'_>,
) -> Result<Vec<UserRow>, sqlx::Error> {
    sqlx::query_as(concat!(
        "-- directory.page\n",
        user_rows!(),
        // By index, and then by what is true: another producer may have given the user another address.
        " where u.tenant_id = $1 and u.id > coalesce($2, '')
                and ($3::text is null or lower(u.email) = lower($3)
                     and (s.action is not distinct from 'deleted' or lower(n.state ->> 'email') = lower($3)))
                and ($4 or u.deleted_at is null and not (h.deleted and h.version > u.version))
              order by u.id limit $5"
    ))
    .bind(tenant)
    .bind(filter.after)
    .bind(filter.email)
    .bind(filter.with_deleted)
    .bind(filter.limit)
    .fetch_all(executor)
    .await
}
