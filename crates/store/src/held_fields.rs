//! What targets hold of the fields they watch.

use crate::{Store, StoreError};
use postbound_event::UserKey;
use std::sync::Arc;

/// A version of a user at a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldVersion {
    /// The target.
    pub target: Arc<str>,
    /// The user.
    pub key: UserKey,
    /// The version.
    pub version: i64,
}

impl Store {
    /// The digests of the fields targets watch, of the versions they hold of users, in the order asked for; None: it is
    /// not known.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn held_fields(&self, asked: &[HeldVersion]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        Ok(sqlx::query_scalar(
            "-- held_fields
            select f.digest
            from unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) with ordinality
                as u (target, tenant_id, user_id, version, place)
            left join postbound.held_fields as f
              on f.target = u.target collate \"C\" and f.tenant_id = u.tenant_id collate \"C\"
             and f.user_id = u.user_id collate \"C\" and f.version = u.version
            order by u.place",
        )
        .bind(asked.iter().map(|held| &*held.target).collect::<Vec<_>>())
        .bind(asked.iter().map(|held| held.key.tenant.as_str()).collect::<Vec<_>>())
        .bind(asked.iter().map(|held| held.key.user.as_str()).collect::<Vec<_>>())
        .bind(asked.iter().map(|held| held.version).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await?)
    }

    /// Keeps digests for versions the ledger has. An older version is not written over a newer one.
    ///
    /// # Errors
    /// When Postgres refuses; then none was kept.
    pub async fn keep_held_fields(&self, kept: &[(HeldVersion, Vec<u8>)]) -> Result<(), StoreError> {
        sqlx::query(
            "-- keep_held_fields
            insert into postbound.held_fields as f (target, tenant_id, user_id, version, digest)
            select distinct on (target, tenant_id, user_id) target, tenant_id, user_id, version, digest
            from (select target collate \"C\" as target, tenant_id collate \"C\" as tenant_id,
                         user_id collate \"C\" as user_id, version, digest
                  from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[])
                      as k (target, tenant_id, user_id, version, digest)) as kept
            order by target, tenant_id, user_id, version desc
            on conflict on constraint held_fields_pk do update
                set version = excluded.version, digest = excluded.digest
                where f.version < excluded.version",
        )
        .bind(kept.iter().map(|(held, _)| &*held.target).collect::<Vec<_>>())
        .bind(kept.iter().map(|(held, _)| held.key.tenant.as_str()).collect::<Vec<_>>())
        .bind(kept.iter().map(|(held, _)| held.key.user.as_str()).collect::<Vec<_>>())
        .bind(kept.iter().map(|(held, _)| held.version).collect::<Vec<_>>())
        .bind(kept.iter().map(|(_, digest)| digest.as_slice()).collect::<Vec<_>>())
        .execute(self.pool())
        .await?;
        Ok(())
    }
}
