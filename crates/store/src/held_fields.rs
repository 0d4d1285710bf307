//! What targets hold of the fields they watch.

use crate::{Store, StoreError};
use postbound_event::UserKey;

impl Store {
    /// The digest of the fields that a target watches, of the version it holds of a user; None: it is not known.
    pub async fn held_fields(
        &self,
        target: &str,
        key: &UserKey,
        version: i64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let digest = sqlx::query_scalar(
            "-- held_fields
            select digest from postbound.held_fields
            where target = $1 and tenant_id = $2 and user_id = $3 and version = $4",
        )
        .bind(target)
        .bind(&key.tenant)
        .bind(&key.user)
        .bind(version)
        .fetch_optional(self.pool())
        .await?;
        Ok(digest)
    }

    /// Keeps that digest for a version the ledger has. An older version is not written over a newer one.
    pub async fn keep_held_fields(
        &self,
        target: &str,
        key: &UserKey,
        version: i64,
        digest: &[u8],
    ) -> Result<(), StoreError> {
        sqlx::query(
            "-- keep_held_fields
            insert into postbound.held_fields as f (target, tenant_id, user_id, version, digest)
            values ($1, $2, $3, $4, $5)
            on conflict on constraint held_fields_pk do update
                set version = excluded.version, digest = excluded.digest
                where f.version < excluded.version",
        )
        .bind(target)
        .bind(&key.tenant)
        .bind(&key.user)
        .bind(version)
        .bind(digest)
        .execute(self.pool())
        .await?;
        Ok(())
    }
}
