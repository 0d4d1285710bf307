use crate::{
    Cursor, OpenWindow, Saved, Store, StoreError, USER_STATE_STREAM, WindowBounds, cursor, log::page_rows,
};

// A delete keeps the last known data: targets that want more than ids are sent it with the delete. Of a page each user's
// newest row counts, with what the page itself has from before a bare delete.
const PROJECT_USER_STATE: &str = concat!(
    "-- project_user_state
    with page as materialized (",
    page_rows!(),
    "), newest as materialized (
        select distinct on (tenant_id, user_id) *, action = 'deleted' and data = '{}' as bare
        from page order by tenant_id, user_id, version desc
    ), known as (
        select distinct on (p.tenant_id, p.user_id) p.tenant_id, p.user_id, p.data
        from newest as n join page as p on p.tenant_id = n.tenant_id and p.user_id = n.user_id
        where n.bare and not (p.action = 'deleted' and p.data = '{}')
        order by p.tenant_id, p.user_id, p.version desc
    ), projected as (
        insert into postbound.user_state as s
            (tenant_id, user_id, version, action, event_id, origin, logged_at, data, targets)
        select n.tenant_id, n.user_id, n.version, n.action, n.event_id, n.origin, n.logged_at,
               case when e.user_id is null then coalesce(k.data, n.data) else '{}' end, n.targets
        from newest as n
        left join known as k on k.tenant_id = n.tenant_id and k.user_id = n.user_id
        left join postbound.erased_user as e
          on e.tenant_id = n.tenant_id and e.user_id = n.user_id and e.version >= n.version
        on conflict on constraint user_state_pk do update
            set version = excluded.version, action = excluded.action, event_id = excluded.event_id,
                origin = excluded.origin, logged_at = excluded.logged_at, targets = excluded.targets,
                data = case when excluded.action = 'deleted' and excluded.data = '{}' then s.data else excluded.data end
            where s.version < excluded.version
    )
    select max(id) from page"
);

impl Store {
    /// Applies the next rows of the window between a cursor's S1 and a snapshot to `user_state`, `rows_max` at most, and
    /// moves the cursor, in one transaction; what it reads never leaves the server. Gives the cursor as it is then; None:
    /// it is another relay's now, or was rewound, and nothing was written.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn project_user_state(
        &self,
        cursor: &Cursor,
        snapshot: &str,
        bounds: WindowBounds,
        rows_max: u32,
        lease_token: i64,
    ) -> Result<Option<Cursor>, StoreError> {
        let after_id = cursor.open.as_ref().map_or(0, |open| open.confirmed_id).max(bounds.first_id - 1);
        let mut tx = self.pool.begin().await?;
        let read_id: Option<i64> = sqlx::query_scalar(PROJECT_USER_STATE)
            .bind(&cursor.done)
            .bind(snapshot)
            .bind(after_id)
            .bind(bounds.last_id)
            .bind(i64::from(rows_max))
            .bind(bounds.fresh_first_id - 1)
            .fetch_one(&mut *tx)
            .await?;
        let moved = match read_id {
            Some(confirmed_id) if confirmed_id < bounds.last_id => Cursor {
                open: Some(OpenWindow { snapshot: snapshot.to_owned(), confirmed_id }),
                ..cursor.clone()
            },
            _ => Cursor { done: snapshot.to_owned(), open: None, ..cursor.clone() },
        };
        match cursor::save(USER_STATE_STREAM, lease_token, &moved, &mut *tx).await? {
            Saved::Fenced => Ok(None),
            Saved::Yes => {
                tx.commit().await?;
                Ok(Some(moved))
            }
        }
    }
}
