use crate::{Cursor, LogRow, Saved, Store, StoreError, USER_STATE_STREAM, cursor::SAVE_CURSOR};
use postbound_event::UserKey;
use std::collections::HashMap;

impl Store {
    /// Applies rows of the log to `user_state` and moves the stream's cursor, in one transaction.
    ///
    /// A delete keeps the last known data: targets that want more than ids are sent it with the delete.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn project_user_state(
        &self,
        rows: &[LogRow],
        cursor: &Cursor,
        lease_token: i64,
    ) -> Result<Saved, StoreError> {
        let mut tx = self.pool.begin().await?;
        let moved = sqlx::query(SAVE_CURSOR)
            .bind(USER_STATE_STREAM)
            .bind(lease_token)
            .bind(&cursor.done)
            .bind(cursor.open.as_ref().map(|open| &open.snapshot))
            .bind(cursor.open.as_ref().map(|open| open.confirmed_id))
            .bind(cursor.rewinds)
            .execute(&mut *tx)
            .await?;
        if moved.rows_affected() == 0 {
            return Ok(Saved::Fenced);
        }
        if !rows.is_empty() {
            upsert(&mut tx, rows).await?;
        }
        tx.commit().await?;
        Ok(Saved::Yes)
    }
}

impl Store {
    /// The last known data of a user, once the projection has got to the state before `version`; None while it is
    /// behind.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn last_known_data(&self, key: &UserKey, version: i64) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "-- last_known_data
            select data::text from postbound.user_state
            where tenant_id = $1 and user_id = $2 and version >= $3 - 1",
        )
        .bind(&key.tenant)
        .bind(&key.user)
        .bind(version)
        .fetch_optional(&self.pool)
        .await?)
    }
}

async fn upsert(tx: &mut sqlx::PgConnection, rows: &[LogRow]) -> Result<(), sqlx::Error> {
    // One row per user and statement: the newest, but with the data of the newest that is not an empty delete.
    let mut newest: HashMap<(&str, &str), (&LogRow, Option<&str>)> = HashMap::with_capacity(rows.len());
    for row in rows {
        let carries_data = row.action != "deleted" || row.data != "{}";
        let entry = newest.entry((&row.tenant_id, &row.user_id)).or_insert((row, None));
        entry.0 = row;
        if carries_data {
            entry.1 = Some(&row.data);
        }
    }
    let newest: Vec<_> = newest.into_values().collect();
    sqlx::query(
        "-- project_user_state
        insert into postbound.user_state as s (tenant_id, user_id, version, action, event_id, origin, logged_at, data)
        select n.tenant_id, n.user_id, n.version, n.action, n.event_id, n.origin, n.logged_at,
               coalesce(n.data::jsonb, '{}')
        from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::uuid[], $6::text[], $7::timestamptz[], $8::text[])
            as n (tenant_id, user_id, version, action, event_id, origin, logged_at, data)
        on conflict on constraint user_state_pk do update
            set version = excluded.version, action = excluded.action, event_id = excluded.event_id,
                origin = excluded.origin, logged_at = excluded.logged_at,
                data = case when excluded.action = 'deleted' and excluded.data = '{}' then s.data else excluded.data end
            where s.version < excluded.version",
    )
    .bind(newest.iter().map(|(row, _)| row.tenant_id.as_str()).collect::<Vec<_>>())
    .bind(newest.iter().map(|(row, _)| row.user_id.as_str()).collect::<Vec<_>>())
    .bind(newest.iter().map(|(row, _)| row.version).collect::<Vec<_>>())
    .bind(newest.iter().map(|(row, _)| row.action.as_str()).collect::<Vec<_>>())
    .bind(newest.iter().map(|(row, _)| row.event_id).collect::<Vec<_>>())
    .bind(newest.iter().map(|(row, _)| row.origin.as_deref()).collect::<Vec<_>>())
    .bind(newest.iter().map(|(row, _)| row.logged_at).collect::<Vec<_>>())
    .bind(newest.iter().map(|(_, data)| *data).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
