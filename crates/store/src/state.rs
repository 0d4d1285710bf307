use crate::{Cursor, LogRow, Saved, Store, StoreError, USER_STATE_STREAM, cursor};
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
        if cursor::save(USER_STATE_STREAM, lease_token, cursor, &mut *tx).await? == Saved::Fenced {
            return Ok(Saved::Fenced);
        }
        if !rows.is_empty() {
            upsert(&mut tx, rows).await?;
        }
        tx.commit().await?;
        Ok(Saved::Yes)
    }
}

async fn upsert(tx: &mut sqlx::PgConnection, rows: &[LogRow]) -> Result<(), sqlx::Error> {
    // One row per user and statement: the newest. Within a page, it has the data of a bare delete already.
    let newest: HashMap<_, _> = rows.iter().map(|row| ((&*row.tenant_id, &*row.user_id), row)).collect();
    let newest: Vec<&LogRow> = newest.into_values().collect();
    sqlx::query(
        "-- project_user_state
        insert into postbound.user_state as s
            (tenant_id, user_id, version, action, event_id, origin, logged_at, data, targets)
        select n.tenant_id, n.user_id, n.version, n.action, n.event_id, n.origin, n.logged_at,
               case when e.user_id is null then n.data::jsonb else '{}' end, string_to_array(n.targets, ',')
        from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::uuid[], $6::text[], $7::timestamptz[], $8::text[], $9::text[])
            as n (tenant_id, user_id, version, action, event_id, origin, logged_at, data, targets)
        left join postbound.erased_user as e
          on e.tenant_id = n.tenant_id collate \"C\" and e.user_id = n.user_id collate \"C\" and e.version >= n.version
        on conflict on constraint user_state_pk do update
            set version = excluded.version, action = excluded.action, event_id = excluded.event_id,
                origin = excluded.origin, logged_at = excluded.logged_at, targets = excluded.targets,
                data = case when excluded.action = 'deleted' and excluded.data = '{}' then s.data else excluded.data end
            where s.version < excluded.version",
    )
    .bind(newest.iter().map(|row| row.tenant_id.as_str()).collect::<Vec<_>>())
    .bind(newest.iter().map(|row| row.user_id.as_str()).collect::<Vec<_>>())
    .bind(newest.iter().map(|row| row.version).collect::<Vec<_>>())
    .bind(newest.iter().map(|row| row.action.as_str()).collect::<Vec<_>>())
    .bind(newest.iter().map(|row| row.event_id).collect::<Vec<_>>())
    .bind(newest.iter().map(|row| row.origin.as_deref()).collect::<Vec<_>>())
    .bind(newest.iter().map(|row| row.logged_at).collect::<Vec<_>>())
    .bind(newest.iter().map(|row| row.data.as_str()).collect::<Vec<_>>())
    // An array per row cannot be bound; names of targets have no comma.
    .bind(newest.iter().map(|row| row.targets.as_ref().map(|names| names.join(","))).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
