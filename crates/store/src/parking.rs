//! Parking: users who could not be delivered are written down, with all that waits for them.

use crate::{Lease, NextAttempt, ParkedSchedule, ParkedState, Store, StoreError, worker_lease::hold_leases};
use postbound_event::{Action, Event, JobPart, UserKey};
use std::sync::Arc;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A user to be parked, with all that waits for them.
#[derive(Debug, Clone)]
pub struct Parking {
    /// The target.
    pub target: Arc<str>,
    /// The user.
    pub key: UserKey,
    /// When and why they are tried again.
    pub schedule: ParkedSchedule,
    /// Why they are parked: what of the schedule is written, if they are parked already.
    pub cause: ParkingCause,
    /// All states that wait, by version.
    pub states: Vec<ParkedState>,
    /// Which of them are to be written.
    pub writes: StateWrites,
    /// Items of jobs whose state gave way to a newer one.
    pub superseded: Vec<JobPart>,
    /// As in [`Settlement::under`](crate::Settlement::under).
    pub under: Option<Lease>,
}

/// Why a user is parked. Between the reading of a schedule and its writing an operator may have made the user due, or an
/// opening breaker may have given attempts back: only a failure of the user's own counts for more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParkingCause {
    /// An attempt failed: the schedule is written as it is.
    Failed,
    /// The user was to be tried, and was not: due again; of what was counted, the lesser holds.
    NotTried,
    /// Newer states came: the schedule stays as it is stored.
    Folded,
}

/// What of the states that wait is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateWrites {
    /// Nothing: all are stored.
    Nothing,
    /// The states of these versions, in their order; the others are stored.
    Only(Vec<i64>),
    /// All of them, in the place of what is stored up to the newest.
    All,
}

impl Store {
    /// Parks users, of one entry each, in one transaction. What the target holds meanwhile is not parked any more. Says of
    /// each whether it was: not if its lease is another worker's now.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was written.
    pub async fn park(&self, parkings: &[Parking]) -> Result<Vec<bool>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let leases = parkings.iter().map(|parking| (&*parking.target, parking.under));
        let written = hold_leases(&mut tx, leases).await?;
        let parkings: Vec<&Parking> =
            parkings.iter().zip(&written).filter(|(_, held)| **held).map(|(parking, _)| parking).collect();
        write_states(&mut tx, &parkings).await?;
        for cause in [ParkingCause::Failed, ParkingCause::NotTried, ParkingCause::Folded] {
            let parkings: Vec<&Parking> =
                parkings.iter().copied().filter(|parking| parking.cause == cause).collect();
            if !parkings.is_empty() {
                write_schedules(&mut tx, cause, &parkings).await?;
            }
        }
        let superseded: Vec<JobPart> =
            parkings.iter().flat_map(|parking| parking.superseded.iter().copied()).collect();
        if !superseded.is_empty() {
            supersede_items(&mut tx, &superseded).await?;
        }
        tx.commit().await?;
        Ok(written)
    }
}

/// Writes the states that are not stored, or are no longer as they are. For a target that gets every event that is the
/// newest, however many wait before it.
async fn write_states(tx: &mut sqlx::PgConnection, parkings: &[&Parking]) -> Result<(), StoreError> {
    let spans: Vec<(&Parking, i64, i64)> = parkings.iter().flat_map(|parking| parking.replaced()).collect();
    if spans.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "-- park_drop_states
        delete from postbound.parked_state as s
        using unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
            as u (target, tenant_id, user_id, oldest, newest)
        where s.target = u.target collate \"C\" and s.tenant_id = u.tenant_id collate \"C\"
          and s.user_id = u.user_id collate \"C\" and s.version between u.oldest and u.newest",
    )
    .bind(spans.iter().map(|(parking, ..)| &*parking.target).collect::<Vec<_>>())
    .bind(spans.iter().map(|(parking, ..)| parking.key.tenant.as_str()).collect::<Vec<_>>())
    .bind(spans.iter().map(|(parking, ..)| parking.key.user.as_str()).collect::<Vec<_>>())
    .bind(spans.iter().map(|(_, oldest, _)| *oldest).collect::<Vec<_>>())
    .bind(spans.iter().map(|(.., newest)| *newest).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    let states: Vec<(&Parking, &ParkedState)> = parkings
        .iter()
        .copied()
        .flat_map(|parking| parking.written().map(move |state| (parking, state)))
        .collect();
    insert_states(tx, &states).await
}

async fn insert_states(
    tx: &mut sqlx::PgConnection,
    states: &[(&Parking, &ParkedState)],
) -> Result<(), StoreError> {
    let event = |f: fn(&Event) -> &str| states.iter().map(|(_, state)| f(&state.event)).collect::<Vec<_>>();
    let job = |f: fn(JobPart) -> i64| states.iter().map(|(_, s)| s.event.job.map(f)).collect::<Vec<_>>();
    sqlx::query(
        "-- park_states
        insert into postbound.parked_state as s
            (target, tenant_id, user_id, version, event_id, log_id, action, send_as, resend, origin, traceparent, logged_at,
             job_id, job_item, job_repeats, data)
        select n.target, n.tenant_id, n.user_id, n.version, n.event_id, n.log_id, n.action, n.send_as, n.resend, n.origin,
               n.traceparent, n.logged_at, n.job_id, n.job_item, n.job_repeats,
               case when e.user_id is null then n.data::jsonb else '{}' end
        from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::uuid[], $6::bigint[], $7::text[], $8::text[],
                    $9::integer[], $10::text[], $11::text[], $12::timestamptz[], $13::bigint[], $14::bigint[], $15::boolean[],
                    $16::text[])
            as n (target, tenant_id, user_id, version, event_id, log_id, action, send_as, resend, origin, traceparent,
                  logged_at, job_id, job_item, job_repeats, data)
        -- Of an erased user nothing is kept but the delete, without data.
        left join postbound.erased_user as e
          on e.tenant_id = n.tenant_id collate \"C\" and e.user_id = n.user_id collate \"C\" and e.version >= n.version
        where (e.user_id is null or n.action = 'deleted') and (n.job_id is not null or n.resend > 0 or not exists (
            select from postbound.delivery_ledger as l
            where l.target = n.target collate \"C\" and l.tenant_id = n.tenant_id collate \"C\"
              and l.user_id = n.user_id collate \"C\" and (l.delivered_version >= n.version or l.dead_version = n.version)))
        on conflict on constraint parked_state_pk do nothing",
    )
    .bind(states.iter().map(|(parking, _)| &*parking.target).collect::<Vec<_>>())
    .bind(event(|event| &event.key.tenant))
    .bind(event(|event| &event.key.user))
    .bind(states.iter().map(|(_, state)| state.event.version).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.event.id).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.event.log_id).collect::<Vec<_>>())
    .bind(event(|event| event.action.as_str()))
    .bind(states.iter().map(|(_, state)| state.send_as.map(Action::as_str)).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| i32::try_from(state.event.resend).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.event.origin.as_deref()).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.event.traceparent.as_deref()).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.event.logged_at).collect::<Vec<_>>())
    .bind(job(|part| part.job))
    .bind(job(|part| part.item))
    .bind(states.iter().map(|(_, state)| state.event.job.map(|part| part.repeats)).collect::<Vec<_>>())
    .bind(event(|event| event.data.get()))
    .execute(&mut *tx)
    .await?;
    Ok(())
}

async fn write_schedules(
    tx: &mut sqlx::PgConnection,
    cause: ParkingCause,
    parkings: &[&Parking],
) -> Result<(), StoreError> {
    let schedules = || parkings.iter().map(|parking| &parking.schedule);
    let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let targets: Vec<&str> = parkings.iter().map(|parking| &*parking.target).collect();
    let tenants: Vec<&str> = parkings.iter().map(|parking| parking.key.tenant.as_str()).collect();
    let users: Vec<&str> = parkings.iter().map(|parking| parking.key.user.as_str()).collect();
    sqlx::query(match cause {
        ParkingCause::Failed => PARK_FAILED,
        ParkingCause::NotTried => PARK_NOT_TRIED,
        ParkingCause::Folded => PARK_FOLDED,
    })
    .bind(&targets)
    .bind(&tenants)
    .bind(&users)
    .bind(parkings.iter().map(|parking| i64::from(parking.key.key_hash())).collect::<Vec<_>>())
    .bind(schedules().map(|s| count(s.attempts)).collect::<Vec<_>>())
    .bind(schedules().map(|s| count(s.repeats)).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.next_attempt.at()).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.next_attempt.in_millis()).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.first_failed_at).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.last_failed_at).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.reason.as_str()).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.class.as_str()).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.status.map(i32::from)).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.detail.as_str()).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.unknown.newest).collect::<Vec<_>>())
    .bind(schedules().map(|s| array_literal(&s.recent_failures)).collect::<Vec<_>>())
    .bind(schedules().map(|s| s.unknown.oldest).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    if cause == ParkingCause::Failed {
        refund_late(tx, &targets, &tenants, &users).await?;
    }
    Ok(())
}

macro_rules! park_users {
    ($schedule:literal) => {
        concat!("-- park_users
            insert into postbound.parked_user as p
                (target, tenant_id, user_id, key_hash, attempts, repeats, next_attempt_at, first_failed_at, last_failed_at,
                 reason, class, status, detail, unknown_version, recent_failures, unknown_oldest)
            select n.target, n.tenant_id, n.user_id, n.key_hash, n.attempts, n.repeats,
                   coalesce(n.due_at, clock_timestamp() + n.due_in_ms * interval '1 millisecond'),
                   n.first_failed_at, n.last_failed_at, n.reason, n.class, n.status, n.detail, n.unknown_version,
                   n.recent_failures::timestamptz[], n.unknown_oldest
            from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::integer[], $6::integer[], $7::timestamptz[],
                        $8::float8[], $9::timestamptz[], $10::timestamptz[], $11::text[], $12::text[], $13::integer[],
                        $14::text[], $15::bigint[], $16::text[], $17::bigint[])
                as n (target, tenant_id, user_id, key_hash, attempts, repeats, due_at, due_in_ms, first_failed_at,
                      last_failed_at, reason, class, status, detail, unknown_version, recent_failures, unknown_oldest)
            -- A state may have been delivered meanwhile by the partition's new owner: no user is parked without one.
            where exists (
                select from postbound.parked_state as s
                where s.target = n.target collate \"C\" and s.tenant_id = n.tenant_id collate \"C\"
                  and s.user_id = n.user_id collate \"C\")
            order by n.target collate \"C\", n.tenant_id collate \"C\", n.user_id collate \"C\"
            on conflict on constraint parked_user_pk do update set ", $schedule)
    };
}

const PARK_FAILED: &str = park_users!(
    "attempts = excluded.attempts, repeats = excluded.repeats, next_attempt_at = excluded.next_attempt_at,
     first_failed_at = excluded.first_failed_at, last_failed_at = excluded.last_failed_at,
     reason = excluded.reason, class = excluded.class, status = excluded.status, detail = excluded.detail,
     unknown_version = excluded.unknown_version, unknown_oldest = excluded.unknown_oldest,
     recent_failures = excluded.recent_failures"
);

// What was counted can only have become less since it was read: by a refund, or here by a newer state's clean slate.
const PARK_NOT_TRIED: &str = park_users!(
    "attempts = least(p.attempts, excluded.attempts), repeats = least(p.repeats, excluded.repeats),
     next_attempt_at = least(p.next_attempt_at, excluded.next_attempt_at),
     first_failed_at = case when excluded.first_failed_at is not null then p.first_failed_at end,
     recent_failures = case when excluded.attempts > 0 then p.recent_failures else '{}' end,
     unknown_version = excluded.unknown_version, unknown_oldest = excluded.unknown_oldest"
);

const PARK_FOLDED: &str = park_users!(
    "unknown_version = greatest(p.unknown_version, excluded.unknown_version),
     unknown_oldest = coalesce(least(nullif(p.unknown_oldest, 0), nullif(excluded.unknown_oldest, 0)), 0)
     where p.unknown_version < excluded.unknown_version
        or excluded.unknown_oldest > 0 and excluded.unknown_oldest < p.unknown_oldest"
);

/// Gives those the attempts back whose failures opened a breaker that was written before they were parked.
async fn refund_late(
    tx: &mut sqlx::PgConnection,
    targets: &[&str],
    tenants: &[&str],
    users: &[&str],
) -> Result<(), StoreError> {
    sqlx::query(
        "-- refund_late
        update postbound.parked_user as p
        set attempts = greatest(p.attempts - cardinality(p.recent_failures), 0),
            repeats = greatest(p.repeats - cardinality(p.recent_failures), 0),
            first_failed_at = case when p.attempts > cardinality(p.recent_failures) then p.first_failed_at end,
            recent_failures = '{}', next_attempt_at = clock_timestamp()
        from unnest($1::text[], $2::text[], $3::text[]) as u (target, tenant_id, user_id)
        where p.target = u.target collate \"C\" and p.tenant_id = u.tenant_id collate \"C\"
          and p.user_id = u.user_id collate \"C\" and p.recent_failures <> '{}'
          and exists (
            select from postbound.breaker as b
            where b.target = p.target and b.tenant_id in ('', p.tenant_id) and b.cause = 'failing_share'
              and b.opened_at >= p.last_failed_at)",
    )
    .bind(targets)
    .bind(tenants)
    .bind(users)
    .execute(tx)
    .await?;
    Ok(())
}

/// Arrays of different lengths do not go into one parameter: each travels as its text.
fn array_literal(times: &[OffsetDateTime]) -> String {
    let times: Vec<String> = times.iter().filter_map(|at| at.format(&Rfc3339).ok()).collect();
    format!("{{{}}}", times.join(","))
}

impl Parking {
    /// Versions of which nothing stored may be left: from, to.
    fn replaced(&self) -> Vec<(&Self, i64, i64)> {
        match &self.writes {
            StateWrites::Nothing => Vec::new(),
            StateWrites::Only(versions) => {
                versions.iter().map(|version| (self, *version, *version)).collect()
            }
            StateWrites::All => {
                let newest = self.states.iter().map(|state| state.event.version).max();
                vec![(self, 0, newest.unwrap_or(0))]
            }
        }
    }

    fn written(&self) -> impl Iterator<Item = &ParkedState> {
        self.states.iter().filter(|state| match &self.writes {
            StateWrites::Nothing => false,
            StateWrites::Only(versions) => versions.binary_search(&state.event.version).is_ok(),
            StateWrites::All => true,
        })
    }
}

async fn supersede_items(tx: &mut sqlx::PgConnection, items: &[JobPart]) -> Result<(), StoreError> {
    sqlx::query(
        "-- supersede_items
        with asked as materialized (
            select i.job_id, i.item from unnest($1::bigint[], $2::bigint[]) as u (job_id, item)
            join postbound.job_item as i on i.job_id = u.job_id and i.item = u.item and i.settled_at is null
            order by i.job_id, i.item for update of i
        )
        update postbound.job_item as i set state = 'superseded', settled_at = clock_timestamp()
        from asked as u where i.job_id = u.job_id and i.item = u.item and i.settled_at is null",
    )
    .bind(items.iter().map(|part| part.job).collect::<Vec<_>>())
    .bind(items.iter().map(|part| part.item).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

impl NextAttempt {
    fn at(self) -> Option<OffsetDateTime> {
        match self {
            Self::At(at) => Some(at),
            Self::In(_) => None,
        }
    }

    fn in_millis(self) -> Option<f64> {
        match self {
            Self::In(pause) => Some(pause.as_millis() as f64),
            Self::At(_) => None,
        }
    }
}
