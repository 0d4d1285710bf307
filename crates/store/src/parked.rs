//! Users who wait for another attempt.

use crate::{Store, StoreError, Unknown, job_run::is_full_sync};
use postbound_event::{Action, Event, JobPart, UserKey};
use serde_json::value::RawValue;
use sqlx::{Row as _, postgres::PgRow};
use std::{str::FromStr as _, time::Duration};
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
    /// Versions of which an attempt ended without anyone knowing how.
    pub unknown: Unknown,
    /// When the last of the counted attempts failed, as far back as a breaker takes them back.
    pub recent_failures: Vec<OffsetDateTime>,
}

/// A time by the database's clock, so that workers whose clocks differ agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextAttempt {
    /// So long from the moment it is written.
    In(Duration),
    /// As it was read.
    At(OffsetDateTime),
}

/// A parked user as read back.
#[derive(Debug, Clone)]
pub struct ParkedUser {
    /// The user.
    pub key: UserKey,
    /// When and why they are tried again.
    pub schedule: ParkedSchedule,
    /// All states that wait, by version; none of them where they were not asked for.
    pub states: Vec<ParkedState>,
    /// Newest version that waits and was not read; 0: all were.
    pub unread_up_to: i64,
    /// What is stored in the place of the schedule's own: taking a user adds all states that wait, as whoever took the
    /// user may die with an attempt under way.
    pub unknown_stored: Unknown,
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
pub(crate) const TAKEN_FOR: Duration = Duration::from_secs(60);

// Two statements rather than one with a condition in its order, which no index serves.
macro_rules! take_due {
    ($order:literal) => {
        concat!("-- take_due
            with due as materialized (
                select tenant_id, user_id, unknown_oldest, unknown_version from postbound.parked_user
                where target = $1 and next_attempt_at <= clock_timestamp()
                  and mod(key_hash, $2) = any($3::bigint[])
                  and ($4::text is null or tenant_id = $4) and tenant_id <> all($5::text[])
                order by ", $order, " limit $6 for update skip locked
            )
            update postbound.parked_user as p
            set (next_attempt_at, taken_until) = (select taken.until, taken.until from (
                    select clock_timestamp() + $7 * interval '1 millisecond' as until) as taken),
                -- Whoever takes the user may die with the attempt under way.
                (unknown_oldest, unknown_version) = (
                    select coalesce(least(nullif(p.unknown_oldest, 0), min(s.version)), 0),
                           greatest(p.unknown_version, max(s.version))
                    from postbound.parked_state as s
                    where s.target = p.target and s.tenant_id = p.tenant_id and s.user_id = p.user_id)
            from due
            where p.target = $1 and p.tenant_id = due.tenant_id and p.user_id = due.user_id
            returning p.tenant_id, p.user_id, p.attempts, p.repeats, p.next_attempt_at, p.first_failed_at, p.last_failed_at,
                      p.reason, p.class, p.status, p.detail, due.unknown_oldest, due.unknown_version, p.recent_failures,
                      p.unknown_oldest as stored_oldest, p.unknown_version as stored_newest,
                      (select s.version from postbound.parked_state as s
                       where s.target = p.target and s.tenant_id = p.tenant_id and s.user_id = p.user_id
                       order by s.version desc limit 1) as unread_up_to")
    };
}

/// Which item of which job a parked state `s` is.
macro_rules! job_columns {
    () => {
        concat!(
            "s.job_id, s.job_item, s.job_repeats, (select ",
            is_full_sync!(),
            " from postbound.job as j where j.job_id = s.job_id) as job_full"
        )
    };
}

impl Store {
    /// What is parked of these users, `whole` or without their states; those who are not parked are left out.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn parked(
        &self,
        target: &str,
        keys: &[UserKey],
        whole: bool,
    ) -> Result<Vec<ParkedUser>, StoreError> {
        let rows = sqlx::query(
            "-- parked_users
            select p.tenant_id, p.user_id, p.attempts, p.repeats, p.next_attempt_at, p.first_failed_at, p.last_failed_at,
                   p.reason, p.class, p.status, p.detail, p.unknown_oldest, p.unknown_version, p.recent_failures,
                   p.unknown_oldest as stored_oldest, p.unknown_version as stored_newest,
                   (select s.version from postbound.parked_state as s
                    where s.target = p.target and s.tenant_id = p.tenant_id and s.user_id = p.user_id
                    order by s.version desc limit 1) as unread_up_to
            from unnest($2::text[], $3::text[]) as u (tenant_id, user_id)
            join postbound.parked_user as p
              on p.target = $1 and p.tenant_id = u.tenant_id collate \"C\" and p.user_id = u.user_id collate \"C\"",
        )
        .bind(target)
        .bind(keys.iter().map(|key| key.tenant.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.user.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        let users = parked_users(&rows)?;
        if whole { self.with_states(target, users).await } else { Ok(users) }
    }

    /// A page of a parked user's states, by version, from the one after `after` on.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn parked_states(
        &self,
        target: &str,
        key: &UserKey,
        after: i64,
        limit: u16,
    ) -> Result<Vec<ParkedState>, StoreError> {
        let rows = sqlx::query(
            concat!(
                "-- parked_states_page
            select s.tenant_id, s.user_id, s.version, s.event_id, s.log_id, s.action, s.send_as, s.resend, s.origin,
                   s.traceparent, s.logged_at, ",
                job_columns!(),
                ", s.data::text
            from postbound.parked_state as s
            where s.target = $1 and s.tenant_id = $2 and s.user_id = $3 and s.version > $4
            order by s.version limit $5"
            ),
        )
        .bind(target)
        .bind(&key.tenant)
        .bind(&key.user)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(parked_state).collect()
    }

    /// Takes users whose next attempt is due, those who wait longest first, `whole` or without their states. Until the
    /// attempt's outcome is written they are due again a minute later, or when the partition has a new owner
    /// ([`Store::release_taken`]).
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn take_due(&self, filter: &DueFilter<'_>, whole: bool) -> Result<Vec<ParkedUser>, StoreError> {
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
        let users = parked_users(&rows)?;
        if whole { self.with_states(filter.target, users).await } else { Ok(users) }
    }

    /// Makes users of a partition, one of so many, due whom its last owner took and left without an outcome. For its owner,
    /// when nobody else can be at work in it any more.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn release_taken(
        &self,
        target: &str,
        partitions: u16,
        partition: u16,
    ) -> Result<(), StoreError> {
        // By the index on when they are due: they are so within TAKEN_FOR.
        for statement in [
            "-- release_taken_users
            update postbound.parked_user set next_attempt_at = clock_timestamp()
            where target = $1 and mod(key_hash, $2) = $3 and taken_until = next_attempt_at
              and next_attempt_at > clock_timestamp()
              and next_attempt_at <= clock_timestamp() + $4 * interval '1 millisecond'",
            "-- release_taken_doubts
            update postbound.doubt set due_at = clock_timestamp()
            where target = $1 and mod(key_hash, $2) = $3 and taken_until = due_at
              and due_at > clock_timestamp() and due_at <= clock_timestamp() + $4 * interval '1 millisecond'",
        ] {
            sqlx::query(statement)
                .bind(target)
                .bind(i64::from(partitions.max(1)))
                .bind(i64::from(partition))
                .bind(TAKEN_FOR.as_millis() as f64)
                .execute(&self.pool)
                .await?;
        }
        Ok(())
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

    /// The newest version of an event's user that a target wants: the highest its filters admit, the event's at least.
    /// Takes an index lookup where the newest change is wanted, else a walk through the log from the event on. Where that
    /// would be too long, the newest change is taken for wanted.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn wanted_version(&self, target: &str, event: &Event) -> Result<i64, StoreError> {
        let version: Option<i64> =
            sqlx::query_scalar("-- wanted_version\nselect postbound.wanted_version($1, $2, $3, $4)")
                .bind(target)
                .bind(&event.key.tenant)
                .bind(&event.key.user)
                .bind(event.log_id)
                .fetch_one(&self.pool)
                .await?;
        Ok(version.unwrap_or(0).max(event.version))
    }

    async fn with_states(
        &self,
        target: &str,
        mut users: Vec<ParkedUser>,
    ) -> Result<Vec<ParkedUser>, StoreError> {
        if users.is_empty() {
            return Ok(users);
        }
        let states = sqlx::query(
            concat!(
                "-- parked_states
            select s.tenant_id, s.user_id, s.version, s.event_id, s.log_id, s.action, s.send_as, s.resend, s.origin,
                   s.traceparent, s.logged_at, ",
                job_columns!(),
                ", s.data::text
            from unnest($2::text[], $3::text[]) with ordinality as u (tenant_id, user_id, place)
            join postbound.parked_state as s
              on s.target = $1 and s.tenant_id = u.tenant_id collate \"C\" and s.user_id = u.user_id collate \"C\"
            order by u.place, s.version"
            ),
        )
        .bind(target)
        .bind(users.iter().map(|user| user.key.tenant.as_str()).collect::<Vec<_>>())
        .bind(users.iter().map(|user| user.key.user.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        let mut states =
            states.iter().map(parked_state).collect::<Result<Vec<_>, _>>()?.into_iter().peekable();
        for user in &mut users {
            user.unread_up_to = 0;
            while let Some(state) = states.next_if(|state| state.event.key == user.key) {
                user.states.push(state);
            }
        }
        Ok(users)
    }
}

fn parked_users(rows: &[PgRow]) -> Result<Vec<ParkedUser>, StoreError> {
    rows.iter().map(parked_user).collect()
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
            unknown: Unknown {
                oldest: row.try_get("unknown_oldest")?,
                newest: row.try_get("unknown_version")?,
            },
            recent_failures: row.try_get("recent_failures")?,
        },
        states: Vec::new(),
        unread_up_to: row.try_get::<Option<i64>, _>("unread_up_to")?.unwrap_or(0),
        unknown_stored: Unknown {
            oldest: row.try_get("stored_oldest")?,
            newest: row.try_get("stored_newest")?,
        },
    })
}

pub(crate) fn parked_state(row: &PgRow) -> Result<ParkedState, StoreError> {
    let action =
        |text: String| Action::from_str(&text).map_err(|error| StoreError::Unexpected(error.to_string()));
    let data: String = row.try_get("data")?;
    let job: Option<i64> = row.try_get("job_id")?;
    let item: Option<i64> = row.try_get("job_item")?;
    let repeats: Option<bool> = row.try_get("job_repeats")?;
    let full: Option<bool> = row.try_get("job_full")?;
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
            job: job.zip(item).map(|(job, item)| JobPart {
                job,
                item,
                repeats: repeats.unwrap_or(false),
                full: full.unwrap_or(false),
            }),
        },
        send_as: row.try_get::<Option<String>, _>("send_as")?.map(action).transpose()?,
    })
}
