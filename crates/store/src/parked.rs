//! Users who wait for another attempt, and those whose newest state must be sent once more.

use crate::{Store, StoreError};
use postbound_event::{Action, Event, JobPart, UserKey};
use serde_json::value::RawValue;
use sqlx::{Row as _, postgres::PgRow};
use std::{str::FromStr as _, sync::Arc, time::Duration};
use time::OffsetDateTime;

/// A state that waits with its user.
#[derive(Debug, Clone)]
pub struct ParkedState {
    /// The event that holds it.
    pub event: Event,
    /// What the target was told at the first attempt; None before it.
    pub send_as: Option<Action>,
}

/// When and why a parked user is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedSchedule {
    /// Attempts that failed for the user's own sake.
    pub attempts: u32,
    /// Those of them since whose predecessor the target took another user's state; the first one counts.
    pub repeats: u32,
    /// When the next attempt is due.
    pub next_attempt: NextAttempt,
    /// First failed attempt; None: none was made.
    pub first_failed_at: Option<OffsetDateTime>,
    /// Last failed attempt.
    pub last_failed_at: Option<OffsetDateTime>,
    /// Why, a word of a closed set.
    pub reason: String,
    /// Class of the last failure; `held` where the target was closed to all.
    pub class: String,
    /// HTTP status of the last answer.
    pub status: Option<u16>,
    /// The target's own words, masked.
    pub detail: String,
    /// Newest version of which an attempt ended without anyone knowing how; 0: none.
    pub unknown_version: i64,
}

/// A time by the database's clock, so that workers whose clocks differ agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextAttempt {
    /// So long from the moment it is written.
    In(Duration),
    /// As it was read.
    At(OffsetDateTime),
}

/// A user to be parked, with all that waits for them.
#[derive(Debug, Clone)]
pub struct Parking {
    /// The target.
    pub target: Arc<str>,
    /// The user.
    pub key: UserKey,
    /// When and why they are tried again.
    pub schedule: ParkedSchedule,
    /// All states that wait, by version.
    pub states: Vec<ParkedState>,
    /// Whether they are to take the place of those stored; else they are the same.
    pub rewrites: bool,
    /// Items of jobs whose state gave way to a newer one.
    pub superseded: Vec<JobPart>,
}

/// A parked user as read back.
#[derive(Debug, Clone)]
pub struct ParkedUser {
    /// The user.
    pub key: UserKey,
    /// When and why they are tried again.
    pub schedule: ParkedSchedule,
    /// All states that wait, by version.
    pub states: Vec<ParkedState>,
}

/// Which due users a worker wants of a target.
#[derive(Debug, Clone)]
pub struct DueFilter<'a> {
    /// The target.
    pub target: &'a str,
    /// P.
    pub partitions: u16,
    /// The partitions the worker has room in.
    pub owned: &'a [u16],
    /// Only users of this tenant; None: of all.
    pub only_tenant: Option<&'a str>,
    /// No users of these tenants.
    pub without_tenants: &'a [String],
    /// Users at most.
    pub limit: u32,
    /// Those first who have not failed for their own sake: for a probe, which is to say something of the target.
    pub blameless_first: bool,
}

/// How far a taken user's next attempt is put off: a worker that dies with it delays it by so much.
const TAKEN_FOR: Duration = Duration::from_secs(60);

// Two statements rather than one with a condition in its order, which no index serves.
macro_rules! take_due {
    ($order:literal) => {
        concat!("-- take_due
            with due as materialized (
                select tenant_id, user_id, unknown_version from postbound.parked_user
                where target = $1 and next_attempt_at <= clock_timestamp()
                  and mod(key_hash, $2) = any($3::bigint[])
                  and ($4::text is null or tenant_id = $4) and tenant_id <> all($5::text[])
                order by ", $order, " limit $6 for update skip locked
            )
            update postbound.parked_user as p
            set next_attempt_at = clock_timestamp() + $7 * interval '1 millisecond',
                -- Whoever takes the user may die with the attempt under way.
                unknown_version = greatest(p.unknown_version, (
                    select max(s.version) from postbound.parked_state as s
                    where s.target = p.target and s.tenant_id = p.tenant_id and s.user_id = p.user_id))
            from due
            where p.target = $1 and p.tenant_id = due.tenant_id and p.user_id = due.user_id
            returning p.tenant_id, p.user_id, p.attempts, p.repeats, p.next_attempt_at, p.first_failed_at, p.last_failed_at,
                      p.reason, p.class, p.status, p.detail, due.unknown_version")
    };
}

impl Store {
    /// Parks users, of one entry each, in one transaction. What the target holds meanwhile is not parked any more.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was written.
    pub async fn park(&self, parkings: &[Parking]) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let rewritten: Vec<&Parking> = parkings.iter().filter(|parking| parking.rewrites).collect();
        if !rewritten.is_empty() {
            replace_states(&mut tx, &rewritten).await?;
        }
        write_schedules(&mut tx, parkings).await?;
        let superseded: Vec<JobPart> =
            parkings.iter().flat_map(|parking| parking.superseded.iter().copied()).collect();
        if !superseded.is_empty() {
            supersede_items(&mut tx, &superseded).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// What is parked of these users; those who are not parked are left out.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn parked(&self, target: &str, keys: &[UserKey]) -> Result<Vec<ParkedUser>, StoreError> {
        let rows = sqlx::query(
            "-- parked_users
            select p.tenant_id, p.user_id, p.attempts, p.repeats, p.next_attempt_at, p.first_failed_at, p.last_failed_at,
                   p.reason, p.class, p.status, p.detail, p.unknown_version
            from unnest($2::text[], $3::text[]) as u (tenant_id, user_id)
            join postbound.parked_user as p
              on p.target = $1 and p.tenant_id = u.tenant_id collate \"C\" and p.user_id = u.user_id collate \"C\"",
        )
        .bind(target)
        .bind(keys.iter().map(|key| key.tenant.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.user.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        self.with_states(target, &rows).await
    }

    /// Takes users whose next attempt is due, those who wait longest first. Until the attempt's outcome is written
    /// they are due again a minute later.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn take_due(&self, filter: &DueFilter<'_>) -> Result<Vec<ParkedUser>, StoreError> {
        let owned: Vec<i64> = filter.owned.iter().map(|partition| i64::from(*partition)).collect();
        let rows = sqlx::query(if filter.blameless_first {
            take_due!("attempts > 0, next_attempt_at")
        } else {
            take_due!("next_attempt_at")
        })
        .bind(filter.target)
        .bind(i64::from(filter.partitions.max(1)))
        .bind(owned)
        .bind(filter.only_tenant)
        .bind(filter.without_tenants)
        .bind(i64::from(filter.limit))
        .bind(TAKEN_FOR.as_millis() as f64)
        .fetch_all(&self.pool)
        .await?;
        self.with_states(filter.target, &rows).await
    }

    /// Takes states to be sent once more because a request of unknown outcome may have put an older one over them. Where
    /// there was none newer to be put over, the doubt is forgotten.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn take_due_doubts(&self, filter: &DueFilter<'_>) -> Result<Vec<ParkedState>, StoreError> {
        let owned: Vec<i64> = filter.owned.iter().map(|partition| i64::from(*partition)).collect();
        let rows = sqlx::query(
            "-- take_due_doubts
            with forgotten as (
                delete from postbound.doubt
                where target = $1 and due_at <= clock_timestamp() and version <= late_version
                  and mod(key_hash, $2) = any($3::bigint[])
            ), due as materialized (
                select tenant_id, user_id from postbound.doubt
                where target = $1 and due_at <= clock_timestamp() and version > late_version
                  and mod(key_hash, $2) = any($3::bigint[]) and tenant_id <> all($4::text[])
                order by due_at limit $5 for update skip locked
            )
            update postbound.doubt as d
            set due_at = clock_timestamp() + $6 * interval '1 millisecond'
            from due
            where d.target = $1 and d.tenant_id = due.tenant_id and d.user_id = due.user_id
            returning d.tenant_id, d.user_id, d.version, d.event_id, d.log_id, d.action, d.send_as, d.resend,
                      null::text as origin, null::text as traceparent, d.logged_at,
                      null::bigint as job_id, null::bigint as job_item, null::boolean as job_repeats, d.data::text",
        )
        .bind(filter.target)
        .bind(i64::from(filter.partitions.max(1)))
        .bind(owned)
        .bind(filter.without_tenants)
        .bind(i64::from(filter.limit))
        .bind(TAKEN_FOR.as_millis() as f64)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(parked_state).collect()
    }

    /// How long until the next user of a target is due, parked or in doubt; None: there is none.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn next_due_in(&self, target: &str) -> Result<Option<Duration>, StoreError> {
        let millis: Option<f64> = sqlx::query_scalar(
            "-- next_due_in
            select (extract(epoch from least(
                (select next_attempt_at from postbound.parked_user where target = $1 order by next_attempt_at limit 1),
                (select due_at from postbound.doubt where target = $1 order by due_at limit 1)
            ) - clock_timestamp()) * 1000)::float8",
        )
        .bind(target)
        .fetch_one(&self.pool)
        .await?;
        Ok(millis.map(|millis| Duration::from_secs_f64(millis.max(0.0) / 1000.0)))
    }

    /// The newest version a user has; 0 for one who was never written.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn head_version(&self, key: &UserKey) -> Result<i64, StoreError> {
        let version: Option<i64> = sqlx::query_scalar(
            "-- head_version\nselect version from postbound.user_head where tenant_id = $1 and user_id = $2",
        )
        .bind(&key.tenant)
        .bind(&key.user)
        .fetch_optional(&self.pool)
        .await?;
        Ok(version.unwrap_or(0))
    }

    async fn with_states(&self, target: &str, rows: &[PgRow]) -> Result<Vec<ParkedUser>, StoreError> {
        let mut users = rows.iter().map(parked_user).collect::<Result<Vec<_>, _>>()?;
        if users.is_empty() {
            return Ok(users);
        }
        let states = sqlx::query(
            "-- parked_states
            select s.tenant_id, s.user_id, s.version, s.event_id, s.log_id, s.action, s.send_as, s.resend, s.origin,
                   s.traceparent, s.logged_at, s.job_id, s.job_item, s.job_repeats, s.data::text
            from unnest($2::text[], $3::text[]) with ordinality as u (tenant_id, user_id, place)
            join postbound.parked_state as s
              on s.target = $1 and s.tenant_id = u.tenant_id collate \"C\" and s.user_id = u.user_id collate \"C\"
            order by u.place, s.version",
        )
        .bind(target)
        .bind(users.iter().map(|user| user.key.tenant.as_str()).collect::<Vec<_>>())
        .bind(users.iter().map(|user| user.key.user.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        let mut states =
            states.iter().map(parked_state).collect::<Result<Vec<_>, _>>()?.into_iter().peekable();
        for user in &mut users {
            while let Some(state) = states.next_if(|state| state.event.key == user.key) {
                user.states.push(state);
            }
        }
        Ok(users)
    }
}

async fn replace_states(tx: &mut sqlx::PgConnection, parkings: &[&Parking]) -> Result<(), StoreError> {
    let states: Vec<(&Parking, &ParkedState)> = parkings
        .iter()
        .flat_map(|parking| parking.states.iter().map(move |state| (*parking, state)))
        .collect();
    let newest = |parking: &&Parking| parking.states.iter().map(|state| state.event.version).max();
    sqlx::query(
        "-- park_drop_states
        delete from postbound.parked_state as s
        using unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as u (target, tenant_id, user_id, newest)
        where s.target = u.target collate \"C\" and s.tenant_id = u.tenant_id collate \"C\"
          and s.user_id = u.user_id collate \"C\" and s.version <= u.newest",
    )
    .bind(parkings.iter().map(|parking| &*parking.target).collect::<Vec<_>>())
    .bind(parkings.iter().map(|parking| parking.key.tenant.as_str()).collect::<Vec<_>>())
    .bind(parkings.iter().map(|parking| parking.key.user.as_str()).collect::<Vec<_>>())
    .bind(parkings.iter().map(|parking| newest(parking).unwrap_or(0)).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
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
              and l.user_id = n.user_id collate \"C\" and l.delivered_version >= n.version))
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

async fn write_schedules(tx: &mut sqlx::PgConnection, parkings: &[Parking]) -> Result<(), StoreError> {
    let schedules = || parkings.iter().map(|parking| &parking.schedule);
    let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    sqlx::query(
        "-- park_users
        insert into postbound.parked_user as p
            (target, tenant_id, user_id, key_hash, attempts, repeats, next_attempt_at, first_failed_at, last_failed_at,
             reason, class, status, detail, unknown_version)
        select n.target, n.tenant_id, n.user_id, n.key_hash, n.attempts, n.repeats,
               coalesce(n.due_at, clock_timestamp() + n.due_in_ms * interval '1 millisecond'),
               n.first_failed_at, n.last_failed_at, n.reason, n.class, n.status, n.detail, n.unknown_version
        from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::integer[], $6::integer[], $7::timestamptz[],
                    $8::float8[], $9::timestamptz[], $10::timestamptz[], $11::text[], $12::text[], $13::integer[],
                    $14::text[], $15::bigint[])
            as n (target, tenant_id, user_id, key_hash, attempts, repeats, due_at, due_in_ms, first_failed_at,
                  last_failed_at, reason, class, status, detail, unknown_version)
        -- A state may have been delivered meanwhile by the partition's new owner: no user is parked without one.
        where exists (
            select from postbound.parked_state as s
            where s.target = n.target collate \"C\" and s.tenant_id = n.tenant_id collate \"C\"
              and s.user_id = n.user_id collate \"C\")
        order by n.target collate \"C\", n.tenant_id collate \"C\", n.user_id collate \"C\"
        on conflict on constraint parked_user_pk do update set
            attempts = excluded.attempts, repeats = excluded.repeats, next_attempt_at = excluded.next_attempt_at,
            first_failed_at = excluded.first_failed_at, last_failed_at = excluded.last_failed_at,
            reason = excluded.reason, class = excluded.class, status = excluded.status, detail = excluded.detail,
            unknown_version = excluded.unknown_version",
    )
    .bind(parkings.iter().map(|parking| &*parking.target).collect::<Vec<_>>())
    .bind(parkings.iter().map(|parking| parking.key.tenant.as_str()).collect::<Vec<_>>())
    .bind(parkings.iter().map(|parking| parking.key.user.as_str()).collect::<Vec<_>>())
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
    .bind(schedules().map(|s| s.unknown_version).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

async fn supersede_items(tx: &mut sqlx::PgConnection, items: &[JobPart]) -> Result<(), StoreError> {
    sqlx::query(
        "-- supersede_items
        update postbound.job_item as i set state = 'superseded', settled_at = clock_timestamp()
        from unnest($1::bigint[], $2::bigint[]) as u (job_id, item)
        where i.job_id = u.job_id and i.item = u.item and i.settled_at is null",
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

fn parked_user(row: &PgRow) -> Result<ParkedUser, StoreError> {
    let count = |name| Ok::<_, sqlx::Error>(u32::try_from(row.try_get::<i32, _>(name)?).unwrap_or(0));
    Ok(ParkedUser {
        key: UserKey::new(row.try_get::<String, _>("tenant_id")?, row.try_get::<String, _>("user_id")?),
        schedule: ParkedSchedule {
            attempts: count("attempts")?,
            repeats: count("repeats")?,
            next_attempt: NextAttempt::At(row.try_get("next_attempt_at")?),
            first_failed_at: row.try_get("first_failed_at")?,
            last_failed_at: row.try_get("last_failed_at")?,
            reason: row.try_get("reason")?,
            class: row.try_get("class")?,
            status: row.try_get::<Option<i32>, _>("status")?.and_then(|status| u16::try_from(status).ok()),
            detail: row.try_get("detail")?,
            unknown_version: row.try_get("unknown_version")?,
        },
        states: Vec::new(),
    })
}

fn parked_state(row: &PgRow) -> Result<ParkedState, StoreError> {
    let action =
        |text: String| Action::from_str(&text).map_err(|error| StoreError::Unexpected(error.to_string()));
    let data: String = row.try_get("data")?;
    let job: Option<i64> = row.try_get("job_id")?;
    let item: Option<i64> = row.try_get("job_item")?;
    let repeats: Option<bool> = row.try_get("job_repeats")?;
    Ok(ParkedState {
        event: Event {
            id: row.try_get("event_id")?,
            log_id: row.try_get("log_id")?,
            key: UserKey::new(row.try_get::<String, _>("tenant_id")?, row.try_get::<String, _>("user_id")?),
            version: row.try_get("version")?,
            action: action(row.try_get("action")?)?,
            origin: row.try_get("origin")?,
            traceparent: row.try_get("traceparent")?,
            logged_at: row.try_get("logged_at")?,
            data: RawValue::from_string(data).map_err(|error| StoreError::Unexpected(error.to_string()))?,
            resend: u32::try_from(row.try_get::<i32, _>("resend")?).unwrap_or(0),
            job: job.zip(item).map(|(job, item)| JobPart { job, item, repeats: repeats.unwrap_or(false) }),
        },
        send_as: row.try_get::<Option<String>, _>("send_as")?.map(action).transpose()?,
    })
}
