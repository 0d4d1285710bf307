//! Identity links: which id a user has in the systems at and behind a target, and whose an id is. Workers write them with
//! the ledger (`ledger`); here they are read.

use crate::{Store, StoreError};
use postbound_event::UserKey;
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;

/// An id a target told of a user, with its answer to a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLink {
    /// Which of the systems behind the target it is of; empty: the target itself.
    pub system: Arc<str>,
    /// The id there.
    pub external_id: String,
}

/// A link, with what the ledger knows of the user at that target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LinkRow {
    /// The target that told it.
    pub target: String,
    /// Which of the systems behind the target the id is of; empty: the target itself.
    pub system: String,
    /// Tenant of the user.
    pub tenant_id: String,
    /// Our id of the user.
    pub user_id: String,
    /// The id there.
    pub external_id: String,
    /// When the target first answered with this id.
    #[serde(with = "time::serde::rfc3339")]
    pub linked_at: OffsetDateTime,
    /// When the target last took a state of the user.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_synced_at: Option<OffsetDateTime>,
    /// The version it took then; 0: none.
    pub held_version: i64,
    /// Whether the target holds the user, by the ledger.
    pub present: bool,
    /// Whether the user's newest change is a delete.
    pub deleted: bool,
}

/// What of the links a check looks at.
#[derive(Debug, Clone, Default)]
pub struct LinkCheckFilter {
    /// One target; None: all in use.
    pub target: Option<String>,
    /// One tenant; None: all.
    pub tenant: Option<String>,
    /// Systems known to be told by targets, as pairs, beside those that any link tells of.
    pub expected: Vec<(String, String)>,
    /// A deleted user a target still holds is looked at only so long after the delete.
    pub older_than: Duration,
    /// Findings of each kind that are listed at most; all are counted.
    pub limit: i64,
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum LinkFault {
    /// The target holds the user and tells ids, but none is known.
    Missing,
    /// The id is linked to more than one user.
    Doubled,
    /// Nobody has written the user, or the user was erased.
    Stray,
    /// The user was deleted, but the target still holds it, and has for a while.
    Outlived,
}

/// One finding of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LinkFinding {
    /// What is wrong.
    pub fault: LinkFault,
    /// The target.
    pub target: String,
    /// Which of the systems behind it; empty: the target itself.
    pub system: String,
    /// Tenant of the user.
    pub tenant_id: String,
    /// Our id of the user.
    pub user_id: String,
    /// The id there; None where it is missing.
    pub external_id: Option<String>,
    /// How many findings there are of this fault, listed or not.
    pub found: i64,
}

/// Users a target holds and has told no id of, though it tells ids.
const MISSING: &str = "-- links_missing
    with expected as (
        select e.target collate \"C\" as target, e.system collate \"C\" as system
        from unnest($4::text[], $5::text[]) as e (target, system)
        union
        select distinct i.target, i.system from postbound.identity_link as i
    )
    select 'missing' as fault, l.target, e.system, l.tenant_id, l.user_id, null::text as external_id,
           count(*) over () as found
    from expected as e
    join postbound.target as t on t.name = e.target and t.retired_at is null
    join postbound.delivery_ledger as l on l.target = e.target and l.present
    left join postbound.identity_link as i
      on i.target = l.target and i.tenant_id = l.tenant_id and i.user_id = l.user_id and i.system = e.system
    where i.user_id is null and ($1::text is null or l.target = $1) and ($2::text is null or l.tenant_id = $2)
    order by l.target, e.system, l.tenant_id, l.user_id limit $3";

/// Ids that more than one user has.
const DOUBLED: &str = "-- links_doubled
    select 'doubled' as fault, d.target, d.system, d.tenant_id, d.user_id, d.external_id, count(*) over () as found
    from (
        select i.target, i.system, i.tenant_id, i.user_id, i.external_id,
               count(*) over (partition by i.target, i.system, i.external_id) as times
        from postbound.identity_link as i
        join postbound.target as t on t.name = i.target and t.retired_at is null
        where ($1::text is null or i.target = $1) and ($2::text is null or i.tenant_id = $2)
    ) as d
    where d.times > 1
    order by d.target, d.system, d.external_id, d.tenant_id, d.user_id limit $3";

/// Links of users who are not, or no longer, ours to speak of.
const STRAY: &str = "-- links_stray
    select 'stray' as fault, i.target, i.system, i.tenant_id, i.user_id, i.external_id, count(*) over () as found
    from postbound.identity_link as i
    join postbound.target as t on t.name = i.target and t.retired_at is null
    left join postbound.user_head as h on h.tenant_id = i.tenant_id and h.user_id = i.user_id and h.version > 0
    left join postbound.erased_user as e on e.tenant_id = i.tenant_id and e.user_id = i.user_id
    where (h.user_id is null or e.version >= h.version)
      and ($1::text is null or i.target = $1) and ($2::text is null or i.tenant_id = $2)
    order by i.target, i.system, i.tenant_id, i.user_id limit $3";

/// Links of deleted users whom the target holds nevertheless.
const OUTLIVED: &str = "-- links_outlived
    select 'outlived' as fault, i.target, i.system, i.tenant_id, i.user_id, i.external_id, count(*) over () as found
    from postbound.identity_link as i
    join postbound.target as t on t.name = i.target and t.retired_at is null
    join postbound.delivery_ledger as l
      on l.target = i.target and l.tenant_id = i.tenant_id and l.user_id = i.user_id and l.present
    join postbound.user_state as s on s.tenant_id = i.tenant_id and s.user_id = i.user_id and s.action = 'deleted'
    where s.logged_at < clock_timestamp() - $4 * interval '1 second'
      and ($1::text is null or i.target = $1) and ($2::text is null or i.tenant_id = $2)
    order by i.target, i.system, i.tenant_id, i.user_id limit $3";

macro_rules! link_rows {
    () => {
        "select i.target, i.system, i.tenant_id, i.user_id, i.external_id, i.linked_at, l.delivered_at as last_synced_at,
                coalesce(l.delivered_version, 0) as held_version, coalesce(l.present, false) as present,
                coalesce(h.deleted, false) as deleted
         from postbound.identity_link as i
         left join postbound.delivery_ledger as l
           on l.target = i.target and l.tenant_id = i.tenant_id and l.user_id = i.user_id
         left join postbound.user_head as h on h.tenant_id = i.tenant_id and h.user_id = i.user_id"
    };
}

impl Store {
    /// The ids of a user, at all targets ever registered.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn links_of_user(&self, tenant: &str, user: &str) -> Result<Vec<LinkRow>, StoreError> {
        // Every target by the primary key: there is no index by user alone.
        Ok(sqlx::query_as(concat!(
            "-- links_of_user\n",
            link_rows!(),
            " where i.target = any(array(select name from postbound.target)) and i.tenant_id = $1 and i.user_id = $2
              order by i.target, i.system"
        ))
        .bind(tenant)
        .bind(user)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Whose an id of a target is, in one of its systems and of these tenants where they are given. More than one user: the
    /// target gave the id twice.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn users_of_link(
        &self,
        (target, external_id): (&str, &str),
        system: Option<&str>,
        tenants: Option<&[String]>,
        limit: i64,
    ) -> Result<Vec<LinkRow>, StoreError> {
        Ok(sqlx::query_as(concat!(
            "-- users_of_link\n",
            link_rows!(),
            " where i.target = $1 and i.external_id = $2 and ($3::text is null or i.system = $3)
                and ($4::text[] is null or i.tenant_id = any($4))
              order by i.tenant_id, i.user_id, i.system limit $5"
        ))
        .bind(target)
        .bind(external_id)
        .bind(system)
        .bind(tenants)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Of each user at a target, in their order, the newest version whose delivery told the target's ids; None: no link
    /// exists, so the target has not heard of the user. A target that tells no ids has heard of those the ledger knows.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn linked(&self, users: &[(Arc<str>, UserKey)]) -> Result<Vec<Option<i64>>, StoreError> {
        Ok(sqlx::query_scalar(
            "-- linked
            select case when postbound.has_heard_of(u.target, u.tenant_id, u.user_id) then coalesce(
                       (select max(i.version) from postbound.identity_link as i
                        where i.target = u.target collate \"C\" and i.tenant_id = u.tenant_id collate \"C\"
                          and i.user_id = u.user_id collate \"C\"),
                       (select l.delivered_version from postbound.delivery_ledger as l
                        where l.target = u.target collate \"C\" and l.tenant_id = u.tenant_id collate \"C\"
                          and l.user_id = u.user_id collate \"C\"))
                   end
            from unnest($1::text[], $2::text[], $3::text[]) with ordinality as u (target, tenant_id, user_id, place)
            order by u.place",
        )
        .bind(users.iter().map(|(target, _)| &**target).collect::<Vec<_>>())
        .bind(users.iter().map(|(_, key)| key.tenant.as_str()).collect::<Vec<_>>())
        .bind(users.iter().map(|(_, key)| key.user.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?)
    }

    /// What is missing, doubled or left over among the links. Goes through all links and the ledgers of targets that tell
    /// ids.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn check_links(&self, filter: &LinkCheckFilter) -> Result<Vec<LinkFinding>, StoreError> {
        let (targets, systems): (Vec<&str>, Vec<&str>) =
            filter.expected.iter().map(|(target, system)| (target.as_str(), system.as_str())).unzip();
        let search = |statement: &'static str| {
            sqlx::query_as::<_, LinkFinding>(statement)
                .bind(filter.target.as_deref())
                .bind(filter.tenant.as_deref())
                .bind(filter.limit)
        };
        let searches = [
            search(MISSING).bind(targets).bind(systems),
            search(DOUBLED),
            search(STRAY),
            search(OUTLIVED).bind(filter.older_than.as_secs_f64()),
        ];
        let mut findings = Vec::new();
        for search in searches {
            findings.extend(search.fetch_all(&self.pool).await?);
        }
        Ok(findings)
    }
}
