use crate::{Store, StoreError};
use postbound_event::UserKey;
use std::sync::Arc;

/// What the ledger says a target holds of a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Newest version the target took; 0: none.
    pub delivered_version: i64,
    /// Newest version that was dead-lettered; 0: none.
    pub dead_version: i64,
    /// Whether the target holds the user.
    pub present: bool,
}

impl Held {
    /// Events at or below this version are settled: they are not sent again.
    pub fn settled_version(&self) -> i64 {
        self.delivered_version.max(self.dead_version)
    }
}

/// One found entry of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldRow {
    /// Place of the pair in the question, from 0.
    pub index: usize,
    /// What the target holds.
    pub held: Held,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The target took the version.
    Delivered {
        /// Whether it holds the user now: not after a delete.
        present: bool,
        /// The target's own id of the user, if it gave one.
        external_id: Option<String>,
    },
    /// The version is in the dead-letter queue, confirmed.
    Dead {
        /// A class of reasons, never a payload.
        reason: &'static str,
    },
}

/// One user's new entry in the ledger.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The target.
    pub target: Arc<str>,
    /// The user.
    pub key: UserKey,
    /// The version that was settled.
    pub version: i64,
    /// How.
    pub verdict: Verdict,
}

impl Settlement {
    fn external_id(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Delivered { external_id, .. } => external_id.as_deref(),
            Verdict::Dead { .. } => None,
        }
    }
}

impl Store {
    /// What targets hold of users; pairs without an entry are left out.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn held(&self, pairs: &[(Arc<str>, UserKey)]) -> Result<Vec<HeldRow>, StoreError> {
        let rows: Vec<(i64, i64, i64, bool)> = sqlx::query_as(
            "-- held
            select u.place, l.delivered_version, l.dead_version, l.present
            from unnest($1::text[], $2::text[], $3::text[]) with ordinality as u (target, tenant_id, user_id, place)
            join postbound.delivery_ledger as l
              on l.target = u.target collate \"C\" and l.tenant_id = u.tenant_id collate \"C\"
             and l.user_id = u.user_id collate \"C\"",
        )
        .bind(pairs.iter().map(|(target, _)| &**target).collect::<Vec<_>>())
        .bind(pairs.iter().map(|(_, key)| key.tenant.as_str()).collect::<Vec<_>>())
        .bind(pairs.iter().map(|(_, key)| key.user.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(place, delivered_version, dead_version, present)| HeldRow {
                index: usize::try_from(place - 1).unwrap_or(usize::MAX),
                held: Held { delivered_version, dead_version, present },
            })
            .collect())
    }

    /// Writes settlements, of different users each, with the identity links they bring, in one statement.
    /// Versions only grow, so a late write of a worker that lost its lease changes nothing.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was written.
    pub async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        let column = |f: fn(&Settlement) -> &str| settlements.iter().map(f).collect::<Vec<_>>();
        sqlx::query(SETTLE)
            .bind(column(|s| &s.target))
            .bind(column(|s| &s.key.tenant))
            .bind(column(|s| &s.key.user))
            .bind(settlements.iter().map(|s| s.version).collect::<Vec<_>>())
            .bind(settlements.iter().map(|s| reason(&s.verdict)).collect::<Vec<_>>())
            .bind(settlements.iter().map(|s| present(&s.verdict)).collect::<Vec<_>>())
            .bind(settlements.iter().map(Settlement::external_id).collect::<Vec<_>>())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

fn reason(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Dead { reason } => Some(reason),
        Verdict::Delivered { .. } => None,
    }
}

fn present(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Delivered { present: true, .. })
}

// Sorted, so that two workers that write the same users (one of them late) cannot deadlock.
const SETTLE: &str = "-- settle
    with settled as materialized (
        select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::boolean[], $7::text[])
            as s (target, tenant_id, user_id, version, dead_reason, present, external_id)
        order by target, tenant_id, user_id
    ), linked as (
        insert into postbound.identity_link as i (target, tenant_id, user_id, external_id)
        select target, tenant_id, user_id, external_id from settled where external_id is not null
        on conflict on constraint identity_link_pk do update
            set external_id = excluded.external_id, linked_at = now()
            where i.external_id <> excluded.external_id
    )
    insert into postbound.delivery_ledger as l
        (target, tenant_id, user_id, delivered_version, dead_version, present, delivered_at, dead_at, dead_reason)
    select target, tenant_id, user_id,
           case when dead_reason is null then version else 0 end,
           case when dead_reason is null then 0 else version end,
           present,
           case when dead_reason is null then clock_timestamp() end,
           case when dead_reason is not null then clock_timestamp() end,
           dead_reason
    from settled
    on conflict on constraint delivery_ledger_pk do update set
        delivered_version = greatest(l.delivered_version, excluded.delivered_version),
        present = case when excluded.delivered_version > l.delivered_version then excluded.present else l.present end,
        delivered_at = case when excluded.delivered_version > l.delivered_version then excluded.delivered_at else l.delivered_at end,
        dead_version = greatest(l.dead_version, excluded.dead_version),
        dead_at = case when excluded.dead_version > l.dead_version then excluded.dead_at else l.dead_at end,
        dead_reason = case when excluded.dead_version > l.dead_version then excluded.dead_reason else l.dead_reason end
    where excluded.delivered_version > l.delivered_version or excluded.dead_version > l.dead_version";
