use crate::{
    Lease, NewLink, Store, StoreError,
    doubt::{Doubt, write_doubts},
    worker_lease::is_held,
};
use postbound_event::{JobPart, UserKey};
use serde_json::Value;
use std::sync::Arc;
use time::OffsetDateTime;

/// What the ledger says a target holds of a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Newest version the target took; 0: none.
    pub delivered_version: i64,
    /// Newest version that was dead-lettered; 0: none.
    pub dead_version: i64,
    /// Whether the target holds the user.
    pub present: bool,
    /// Whether the user is parked for the target.
    pub parked: bool,
    /// Until when a request of unknown outcome may still put an older state over the newest; None: there is no doubt.
    pub doubt_until: Option<OffsetDateTime>,
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
        /// The ids of the user its answer told, no two of one system; most answers tell none or one.
        links: Vec<NewLink>,
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
    /// What else is to be written with it; None for nearly all.
    pub aftermath: Option<Box<Aftermath>>,
    /// The lease it was sent under: once another worker has it, nothing is written. None: the target refuses older
    /// versions itself, and a late write does no harm.
    pub under: Option<Lease>,
}

/// What a settlement changes beyond the ledger, in the same transaction.
#[derive(Debug, Clone, Default)]
pub struct Aftermath {
    /// Whether states up to the version are to be taken out of the parked ones.
    pub unparks: bool,
    /// What it does to the doubt about what the target holds.
    pub doubt: Option<Doubt>,
    /// Items of jobs that were settled with it, and as what.
    pub items: Vec<(JobPart, ItemOutcome)>,
}

/// What became of an item of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemOutcome {
    /// The target took its state.
    Delivered,
    /// The target holds it, or a newer one is on its way.
    Superseded,
    /// It went to the dead-letter queue.
    Dead {
        /// A class of reasons.
        reason: &'static str,
    },
}

impl ItemOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Superseded => "superseded",
            Self::Dead { .. } => "dead",
        }
    }

    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Dead { reason } => Some(reason),
            Self::Delivered | Self::Superseded => None,
        }
    }
}

impl Settlement {
    /// The ids its answer told as a JSON object, by system: a settlement may have several, and an array per row cannot be
    /// bound. None for most.
    fn links(&self) -> Option<String> {
        let Verdict::Delivered { links, .. } = &self.verdict else { return None };
        let ids = || links.iter().map(|link| (&*link.system, link.external_id.as_str().into()));
        (!links.is_empty())
            .then(|| Value::Object(ids().map(|(system, id)| (system.to_owned(), id)).collect()).to_string())
    }
}

impl Store {
    /// What targets hold of users; pairs without an entry are left out.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn held(&self, pairs: &[(&str, &UserKey)]) -> Result<Vec<HeldRow>, StoreError> {
        let rows: Vec<HeldColumns> = sqlx::query_as(
            "-- held
            select u.place, coalesce(l.delivered_version, 0), coalesce(l.dead_version, 0), coalesce(l.present, false),
                   p.user_id is not null, d.due_at
            from unnest($1::text[], $2::text[], $3::text[]) with ordinality as u (target, tenant_id, user_id, place)
            left join postbound.delivery_ledger as l
              on l.target = u.target collate \"C\" and l.tenant_id = u.tenant_id collate \"C\"
             and l.user_id = u.user_id collate \"C\"
            left join postbound.parked_user as p
              on p.target = u.target collate \"C\" and p.tenant_id = u.tenant_id collate \"C\"
             and p.user_id = u.user_id collate \"C\"
            left join postbound.doubt as d
              on d.target = u.target collate \"C\" and d.tenant_id = u.tenant_id collate \"C\"
             and d.user_id = u.user_id collate \"C\"
            where l.user_id is not null or p.user_id is not null",
        )
        .bind(pairs.iter().map(|(target, _)| *target).collect::<Vec<_>>())
        .bind(pairs.iter().map(|(_, key)| key.tenant.as_str()).collect::<Vec<_>>())
        .bind(pairs.iter().map(|(_, key)| key.user.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(place, delivered_version, dead_version, present, parked, doubt_until)| HeldRow {
                index: usize::try_from(place - 1).unwrap_or(usize::MAX),
                held: Held { delivered_version, dead_version, present, parked, doubt_until },
            })
            .collect())
    }

    /// Writes settlements, of different users each, with the identity links they bring and their aftermath, in one
    /// statement, or one transaction. Says of each whether it was written: not if its lease is another worker's now. That
    /// one may have sent an older state since, which this one would hide.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was written.
    pub async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, StoreError> {
        if settlements.iter().all(|settlement| settlement.aftermath.is_none()) {
            return Ok(write_ledger(&self.pool, settlements).await?);
        }
        let mut tx = self.pool.begin().await?;
        let written = write_ledger(&mut *tx, settlements).await?;
        let settlements: Vec<&Settlement> =
            settlements.iter().zip(&written).filter(|(_, written)| **written).map(|(s, _)| s).collect();
        unpark(&mut tx, &settlements).await?;
        write_doubts(&mut tx, &settlements).await?;
        settle_items(&mut tx, &settlements).await?;
        tx.commit().await?;
        Ok(written)
    }

    /// Takes states of a parked user up to a version out: they are settled.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn unpark(&self, target: &str, key: &UserKey, version: i64) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        unpark_users(&mut tx, &[(target, key, version)]).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Writes what became of items of jobs that needed no delivery.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn settle_items(&self, items: &[(JobPart, ItemOutcome)]) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        write_items(&mut connection, items).await
    }
}

type HeldColumns = (i64, i64, i64, bool, bool, Option<OffsetDateTime>);

async fn write_ledger<'c>(
    executor: impl sqlx::PgExecutor<'c>,
    settlements: &[Settlement],
) -> Result<Vec<bool>, sqlx::Error> {
    let column = |f: fn(&Settlement) -> &str| settlements.iter().map(f).collect::<Vec<_>>();
    let held = sqlx::query_as(SETTLE)
        .bind(column(|s| &s.target))
        .bind(column(|s| &s.key.tenant))
        .bind(column(|s| &s.key.user))
        .bind(settlements.iter().map(|s| s.version).collect::<Vec<_>>())
        .bind(settlements.iter().map(|s| reason(&s.verdict)).collect::<Vec<_>>())
        .bind(settlements.iter().map(|s| present(&s.verdict)).collect::<Vec<_>>())
        .bind(settlements.iter().map(Settlement::links).collect::<Vec<_>>())
        .bind(settlements.iter().map(|s| s.under.map(|lease| lease.worker)).collect::<Vec<_>>())
        .bind(settlements.iter().map(|s| s.under.map(|lease| lease.generation)).collect::<Vec<_>>())
        .bind(settlements.iter().map(|s| s.under.map(|lease| i32::from(lease.partition))).collect::<Vec<_>>())
        .fetch_all(executor)
        .await?;
    Ok(settlements.iter().map(|s| is_held(&held, &s.target, s.under)).collect())
}

/// Takes settled states out of the parked ones. A user with states left is due at once, with a clean slate; one without
/// is parked no more.
async fn unpark(tx: &mut sqlx::PgConnection, settlements: &[&Settlement]) -> Result<(), sqlx::Error> {
    let settled: Vec<&Settlement> = settlements
        .iter()
        .copied()
        .filter(|s| s.aftermath.as_ref().is_some_and(|aftermath| aftermath.unparks))
        .collect();
    if settled.is_empty() {
        return Ok(());
    }
    let settled: Vec<_> = settled.into_iter().map(|s| (&*s.target, &s.key, s.version)).collect();
    unpark_users(tx, &settled).await
}

async fn unpark_users(
    tx: &mut sqlx::PgConnection,
    settled: &[(&str, &UserKey, i64)],
) -> Result<(), sqlx::Error> {
    let targets: Vec<&str> = settled.iter().map(|(target, ..)| *target).collect();
    let tenants: Vec<&str> = settled.iter().map(|(_, key, _)| key.tenant.as_str()).collect();
    let users: Vec<&str> = settled.iter().map(|(_, key, _)| key.user.as_str()).collect();
    let versions: Vec<i64> = settled.iter().map(|(.., version)| *version).collect();
    // The user's row is the lock between parking and unparking; each further statement sees what was committed before it.
    for statement in [LOCK_PARKED_USERS, UNPARK_STATES, UNPARK_USERS, UNPARK_REST] {
        sqlx::query(statement)
            .bind(&targets)
            .bind(&tenants)
            .bind(&users)
            .bind(&versions)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

const LOCK_PARKED_USERS: &str = "-- lock_parked_users
    select from postbound.parked_user as p
    join unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as u (target, tenant_id, user_id, version)
      on p.target = u.target collate \"C\" and p.tenant_id = u.tenant_id collate \"C\"
     and p.user_id = u.user_id collate \"C\"
    order by p.target, p.tenant_id, p.user_id for update of p";

const UNPARK_STATES: &str = "-- unpark_states
    delete from postbound.parked_state as s
    using unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as u (target, tenant_id, user_id, version)
    where s.target = u.target collate \"C\" and s.tenant_id = u.tenant_id collate \"C\"
      and s.user_id = u.user_id collate \"C\" and s.version <= u.version";

const UNPARK_USERS: &str = "-- unpark_users
    delete from postbound.parked_user as p
    using unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as u (target, tenant_id, user_id, version)
    where p.target = u.target collate \"C\" and p.tenant_id = u.tenant_id collate \"C\"
      and p.user_id = u.user_id collate \"C\"
      and not exists (select from postbound.parked_state as s
                      where s.target = p.target and s.tenant_id = p.tenant_id and s.user_id = p.user_id)";

const UNPARK_REST: &str = "-- unpark_rest
    update postbound.parked_user as p
    set attempts = 0, repeats = 0, next_attempt_at = clock_timestamp(), first_failed_at = null, unknown_version = 0,
        unknown_oldest = 0, recent_failures = '{}'
    from unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as u (target, tenant_id, user_id, version)
    where p.target = u.target collate \"C\" and p.tenant_id = u.tenant_id collate \"C\"
      and p.user_id = u.user_id collate \"C\"";

async fn settle_items(tx: &mut sqlx::PgConnection, settlements: &[&Settlement]) -> Result<(), StoreError> {
    let items: Vec<(JobPart, ItemOutcome)> = settlements
        .iter()
        .flat_map(|s| s.aftermath.iter().flat_map(|aftermath| aftermath.items.clone()))
        .collect();
    if items.is_empty() { Ok(()) } else { write_items(tx, &items).await }
}

/// A replayed letter that was delivered is closed with its item. "Not settled" is asked of the time and not of the state:
/// a condition on the state lets the planner, before it has statistics, go through a partial index row by row. Items are
/// locked in their order, as by the relay that marks them (`Store::mark_job_items`).
async fn write_items(
    connection: &mut sqlx::PgConnection,
    items: &[(JobPart, ItemOutcome)],
) -> Result<(), StoreError> {
    sqlx::query(
        "-- settle_items
        with asked as materialized (
            select i.job_id, i.item, u.state, u.reason
            from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) as u (job_id, item, state, reason)
            join postbound.job_item as i on i.job_id = u.job_id and i.item = u.item and i.settled_at is null
            order by i.job_id, i.item for update of i
        ), settled as (
            update postbound.job_item as i set state = u.state, reason = u.reason, settled_at = clock_timestamp()
            from asked as u where i.job_id = u.job_id and i.item = u.item and i.settled_at is null
            returning i.letter_id, i.state, i.job_id
        )
        update postbound.dead_letter as d set replayed_at = clock_timestamp()
        from settled join postbound.job as j on j.job_id = settled.job_id
        where d.letter_id = settled.letter_id and settled.state = 'delivered' and not j.use_current",
    )
    .bind(items.iter().map(|(part, _)| part.job).collect::<Vec<_>>())
    .bind(items.iter().map(|(part, _)| part.item).collect::<Vec<_>>())
    .bind(items.iter().map(|(_, outcome)| outcome.as_str()).collect::<Vec<_>>())
    .bind(items.iter().map(|(_, outcome)| outcome.reason()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
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

// Sorted, so that two workers that write the same users (one of them late) cannot deadlock; by bytes, as whoever else
// locks these rows.
// As in hold_leases: a lease that is held cannot be taken over before this has ended, and one that was taken over is not
// found, however late this comes.
const SETTLE: &str = "-- settle
    with asked as materialized (
        select target collate \"C\" as target, tenant_id collate \"C\" as tenant_id, user_id collate \"C\" as user_id,
               version, dead_reason, present, links, worker_id, generation, partition
        from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::boolean[], $7::text[],
                    $8::uuid[], $9::integer[], $10::integer[])
            as s (target, tenant_id, user_id, version, dead_reason, present, links, worker_id, generation, partition)
    ), held as materialized (
        select l.target, l.generation, l.partition
        from (select distinct target, worker_id, generation, partition from asked where worker_id is not null) as a
        join postbound.partition_lease as l
          on l.target = a.target and l.generation = a.generation and l.partition = a.partition and l.worker_id = a.worker_id
        order by l.target, l.generation, l.partition for share of l
    ), settled as materialized (
        select * from asked as s
        where worker_id is null or exists (
            select from held as h
            where h.target = s.target and h.generation = s.generation and h.partition = s.partition)
        order by target, tenant_id, user_id
    ), linked as (
        insert into postbound.identity_link as i (target, tenant_id, user_id, system, external_id, version)
        select s.target, s.tenant_id, s.user_id, n.system, n.external_id, s.version
        from settled as s cross join lateral jsonb_each_text(s.links::jsonb) as n (system, external_id)
        -- Nearly always the id is known: then nothing is written or locked.
        where s.links is not null and not exists (
                select from postbound.identity_link as k
                where k.target = s.target and k.tenant_id = s.tenant_id and k.user_id = s.user_id
                  and k.system = n.system collate \"C\" and k.external_id = n.external_id)
          and not exists (
                select from postbound.erased_user as e
                where e.tenant_id = s.tenant_id and e.user_id = s.user_id and e.version >= s.version)
        order by s.target, s.tenant_id, s.user_id, n.system
        on conflict on constraint identity_link_pk do update
            set external_id = excluded.external_id, version = excluded.version, linked_at = now()
            where i.external_id <> excluded.external_id and i.version <= excluded.version
        returning i.target, i.tenant_id, i.user_id, i.system, i.external_id
    ), noted as (
        insert into postbound.notice (target, kind, tenant_id, user_id, data)
        select t.name, 'identity.linked', k.tenant_id, k.user_id, jsonb_build_object(
                   'tenant', k.tenant_id, 'user', k.user_id, 'target', k.target, 'system', nullif(k.system, ''),
                   'externalId', k.external_id)
        from linked as k
        join postbound.target as t on t.retired_at is null and postbound.subscribes(t.settings, 'identity.linked')
    ), written as (
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
        -- Also when the very version was sent once more: a letter of the time between is closed by it.
        delivered_at = case when excluded.delivered_version >= l.delivered_version then excluded.delivered_at else l.delivered_at end,
        dead_version = greatest(l.dead_version, excluded.dead_version),
        dead_at = case when excluded.dead_version > l.dead_version then excluded.dead_at else l.dead_at end,
        dead_reason = case when excluded.dead_version > l.dead_version then excluded.dead_reason else l.dead_reason end
    where excluded.delivered_version > l.delivered_version or excluded.dead_version > l.dead_version
       or excluded.delivered_version = l.delivered_version and excluded.delivered_version > 0
    )
    select target, generation, partition
    from held";
