//! Doubt about what a target without a version guard holds: settlements raise and clear it, the feeder takes what is due.

use crate::{
    DueFilter, ParkedState, Settlement, Store, StoreError, Verdict,
    parked::{TAKEN_FOR, parked_state},
};
use postbound_event::Event;
use std::time::Duration;

/// A change of the doubt about what a target without a version guard holds of a user.
#[derive(Debug, Clone)]
pub enum Doubt {
    /// There is none any more: the state was sent once more. What was raised since stays.
    Cleared {
        /// Which sending of it this was.
        resend: u32,
    },
    /// A request of unknown outcome may still be executed: this, the newest state, is to be sent again after it. Of a
    /// death, which is never sent itself: whatever is newer is. Where there is doubt already, it only comes later then.
    Raised {
        /// The state, with what the target was told.
        state: Box<ParkedState>,
        /// How long such a request may take, and the oldest version it may carry; None: as was written before.
        late: Option<(Duration, i64)>,
    },
}

impl Store {
    /// Takes states to be sent once more because a request of unknown outcome may have put an older one over them. Where
    /// there was none newer to be put over, the doubt is forgotten, and of a target at which nothing undoes another
    /// (`has_doubts` is false) any that is left from before it became one.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn take_due_doubts(
        &self,
        filter: &DueFilter<'_>,
        has_doubts: bool,
    ) -> Result<Vec<ParkedState>, StoreError> {
        let owned: Vec<i64> = filter.owned.iter().map(|partition| i64::from(*partition)).collect();
        let rows = sqlx::query(
            "-- take_due_doubts
            with forgotten as (
                delete from postbound.doubt
                where target = $1 and due_at <= clock_timestamp() and (version <= late_version or not $7)
                  and mod(key_hash, $2) = any($3::bigint[])
            ), due as materialized (
                select tenant_id, user_id from postbound.doubt
                where target = $1 and due_at <= clock_timestamp() and version > late_version and $7
                  and mod(key_hash, $2) = any($3::bigint[]) and tenant_id <> all($4::text[])
                order by due_at limit $5 for update skip locked
            )
            update postbound.doubt as d
            set (due_at, taken_until) = (select taken.until, taken.until from (
                    select clock_timestamp() + $6 * interval '1 millisecond' as until) as taken)
            from due
            where d.target = $1 and d.tenant_id = due.tenant_id and d.user_id = due.user_id
            returning d.tenant_id, d.user_id, d.version, d.event_id, d.log_id, d.action, d.send_as, d.resend,
                      null::text as origin, null::text as traceparent, d.logged_at,
                      null::bigint as job_id, null::bigint as job_item, null::boolean as job_repeats, null::boolean as job_full,
                      d.data::text",
        )
        .bind(filter.target)
        .bind(i64::from(filter.partitions.max(1)))
        .bind(owned)
        .bind(filter.without_tenants)
        .bind(i64::from(filter.limit))
        .bind(TAKEN_FOR.as_millis() as f64)
        .bind(has_doubts)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(parked_state).collect()
    }
}

/// Writes what settlements change of doubt.
pub(crate) async fn write_doubts(
    tx: &mut sqlx::PgConnection,
    settlements: &[&Settlement],
) -> Result<(), sqlx::Error> {
    let doubts = || settlements.iter().filter_map(|s| Some((*s, s.aftermath.as_ref()?.doubt.as_ref()?)));
    let cleared: Vec<(&Settlement, u32)> = doubts()
        .filter_map(|(settlement, doubt)| match doubt {
            Doubt::Cleared { resend } => Some((settlement, *resend)),
            Doubt::Raised { .. } => None,
        })
        .collect();
    if !cleared.is_empty() {
        clear_doubts(tx, &cleared).await?;
    }
    let raised: Vec<RaisedDoubt<'_>> = doubts()
        .filter_map(|(settlement, doubt)| match doubt {
            Doubt::Raised { state, late } => Some((settlement, &**state, *late)),
            Doubt::Cleared { .. } => None,
        })
        .collect();
    let is_of_death = |(settlement, ..): &RaisedDoubt<'_>| matches!(settlement.verdict, Verdict::Dead { .. });
    let (by_deaths, raised): (Vec<_>, Vec<_>) = raised.into_iter().partition(is_of_death);
    for (statement, raised) in [(RAISE_DOUBTS, raised), (RAISE_DOUBTS_BY_DEATHS, by_deaths)] {
        if !raised.is_empty() {
            raise_doubts(tx, statement, &raised).await?;
        }
    }
    Ok(())
}

async fn clear_doubts(
    tx: &mut sqlx::PgConnection,
    cleared: &[(&Settlement, u32)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- clear_doubts
            delete from postbound.doubt as d
            using unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::integer[])
                as u (target, tenant_id, user_id, version, resend)
            where d.target = u.target collate \"C\" and d.tenant_id = u.tenant_id collate \"C\"
              and d.user_id = u.user_id collate \"C\"
              and (d.version < u.version or d.version = u.version and d.resend <= u.resend)",
    )
    .bind(cleared.iter().map(|(s, _)| &*s.target).collect::<Vec<_>>())
    .bind(cleared.iter().map(|(s, _)| s.key.tenant.as_str()).collect::<Vec<_>>())
    .bind(cleared.iter().map(|(s, _)| s.key.user.as_str()).collect::<Vec<_>>())
    .bind(cleared.iter().map(|(s, _)| s.version).collect::<Vec<_>>())
    .bind(cleared.iter().map(|(_, resend)| i32::try_from(*resend).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

type RaisedDoubt<'a> = (&'a Settlement, &'a ParkedState, Option<(Duration, i64)>);

macro_rules! raise_doubts {
    ($change:literal) => {
        concat!("-- raise_doubts
        insert into postbound.doubt as d
            (target, tenant_id, user_id, key_hash, due_at, version, event_id, log_id, action, send_as, resend, logged_at,
             data, late_version)
        select n.target, n.tenant_id, n.user_id, n.key_hash, clock_timestamp() + n.due_in_ms * interval '1 millisecond',
               n.version, n.event_id, n.log_id, n.action, n.send_as, n.resend, n.logged_at,
               case when e.user_id is null then n.data::jsonb else '{}' end, n.late_version
        from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::float8[], $6::bigint[], $7::uuid[],
                    $8::bigint[], $9::text[], $10::text[], $11::integer[], $12::timestamptz[], $13::text[], $14::bigint[])
            as n (target, tenant_id, user_id, key_hash, due_in_ms, version, event_id, log_id, action, send_as, resend,
                  logged_at, data, late_version)
        left join postbound.erased_user as e
          on e.tenant_id = n.tenant_id collate \"C\" and e.user_id = n.user_id collate \"C\" and e.version >= n.version
        where e.user_id is null or n.action = 'deleted'
        order by n.target collate \"C\", n.tenant_id collate \"C\", n.user_id collate \"C\"
        on conflict on constraint doubt_pk do update set ", $change)
    };
}

const RAISE_DOUBTS: &str = raise_doubts!(
    "-- Without a late version of its own it says nothing new of how long to wait.
     due_at = case when excluded.late_version = 0 then d.due_at else greatest(d.due_at, excluded.due_at) end,
     version = excluded.version, event_id = excluded.event_id, log_id = excluded.log_id,
     action = excluded.action, send_as = excluded.send_as, resend = excluded.resend,
     logged_at = excluded.logged_at, data = excluded.data,
     late_version = coalesce(least(nullif(d.late_version, 0), nullif(excluded.late_version, 0)), 0)
     where d.version <= excluded.version"
);

// What is to be sent again stays what was delivered. It waits until the dead one cannot be executed any more.
const RAISE_DOUBTS_BY_DEATHS: &str = raise_doubts!("due_at = greatest(d.due_at, excluded.due_at)");

async fn raise_doubts(
    tx: &mut sqlx::PgConnection,
    statement: &'static str,
    raised: &[RaisedDoubt<'_>],
) -> Result<(), sqlx::Error> {
    let key = |f: fn(&Settlement) -> &str| raised.iter().map(|(s, ..)| f(s)).collect::<Vec<_>>();
    let event = |f: fn(&Event) -> i64| raised.iter().map(|(_, state, _)| f(&state.event)).collect::<Vec<_>>();
    sqlx::query(statement)
        .bind(key(|s| &s.target))
        .bind(key(|s| &s.key.tenant))
        .bind(key(|s| &s.key.user))
        .bind(raised.iter().map(|(s, ..)| i64::from(s.key.key_hash())).collect::<Vec<_>>())
        .bind(
            raised
                .iter()
                .map(|(.., late)| late.map_or(0.0, |(after, _)| after.as_millis() as f64))
                .collect::<Vec<_>>(),
        )
        .bind(event(|event| event.version))
        .bind(raised.iter().map(|(_, state, _)| state.event.id).collect::<Vec<_>>())
        .bind(event(|event| event.log_id))
        .bind(raised.iter().map(|(_, state, _)| state.event.action.as_str()).collect::<Vec<_>>())
        .bind(
            raised
                .iter()
                .map(|(_, state, _)| state.send_as.unwrap_or(state.event.action).as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            raised
                .iter()
                .map(|(_, state, _)| i32::try_from(state.event.resend.max(1)).unwrap_or(i32::MAX))
                .collect::<Vec<_>>(),
        )
        .bind(raised.iter().map(|(_, state, _)| state.event.logged_at).collect::<Vec<_>>())
        .bind(raised.iter().map(|(_, state, _)| state.event.data.get()).collect::<Vec<_>>())
        .bind(raised.iter().map(|(.., late)| late.map_or(0, |(_, version)| version)).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}
