//! Dead letters on their way from RabbitMQ into the archive.

use crate::{Store, StoreError};
use postbound_event::Event;
use time::OffsetDateTime;

/// A letter as it stood in a dead-letter queue.
#[derive(Debug, Clone)]
pub struct Letter {
    /// What died.
    pub content: LetterContent,
    /// The job it failed in; 0: in none.
    pub replay: i64,
    /// Why, a word of a closed set.
    pub reason: String,
    /// Class of the failure; `broker` where RabbitMQ gave it up, `unreadable` where nobody can read it.
    pub class: String,
    /// HTTP status of the last answer.
    pub status: Option<u16>,
    /// The target's own words, masked.
    pub detail: String,
    /// Attempts that failed.
    pub attempts: u32,
    /// Whether one of them ended without anyone knowing how.
    pub unknown_outcome: bool,
    /// First failed attempt.
    pub first_failed_at: Option<OffsetDateTime>,
    /// Last failed attempt.
    pub last_failed_at: OffsetDateTime,
}

/// What a letter holds.
#[derive(Debug, Clone)]
pub enum LetterContent {
    /// A change.
    Event(Box<Event>),
    /// A message nobody can read, as it came.
    Unreadable(Vec<u8>),
}

impl Letter {
    fn event(&self) -> Option<&Event> {
        match &self.content {
            LetterContent::Event(event) => Some(event),
            LetterContent::Unreadable(_) => None,
        }
    }

    fn unreadable(&self) -> Option<&[u8]> {
        match &self.content {
            LetterContent::Event(_) => None,
            LetterContent::Unreadable(body) => Some(body),
        }
    }
}

impl Store {
    /// Moves letters of a target into the archive. One that is there already stays; one that failed again in a replay
    /// opens its own row again. Data of erased users is left out.
    ///
    /// # Errors
    /// When Postgres refuses; then nothing was written.
    pub async fn archive_letters(&self, target: &str, letters: &[Letter]) -> Result<u64, StoreError> {
        let event = |f: fn(&Event) -> &str| letters.iter().map(|l| l.event().map(f)).collect::<Vec<_>>();
        let text = |f: fn(&Letter) -> &str| letters.iter().map(f).collect::<Vec<_>>();
        let done = sqlx::query(ARCHIVE_LETTERS)
            .bind(target)
            .bind(letters.iter().map(|l| i32::try_from(l.replay).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| l.event().map(|event| event.id)).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| l.event().map(|event| event.log_id)).collect::<Vec<_>>())
            .bind(event(|event| &event.key.tenant))
            .bind(event(|event| &event.key.user))
            .bind(letters.iter().map(|l| l.event().map(|event| event.version)).collect::<Vec<_>>())
            .bind(event(|event| event.action.as_str()))
            .bind(letters.iter().map(|l| l.event()?.origin.as_deref()).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| l.event()?.traceparent.as_deref()).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| l.event().map(|event| event.logged_at)).collect::<Vec<_>>())
            .bind(event(|event| event.data.get()))
            .bind(letters.iter().map(Letter::unreadable).collect::<Vec<_>>())
            .bind(text(|letter| &letter.reason))
            .bind(text(|letter| &letter.class))
            .bind(letters.iter().map(|l| l.status.map(i32::from)).collect::<Vec<_>>())
            .bind(text(|letter| &letter.detail))
            .bind(letters.iter().map(|l| i32::try_from(l.attempts).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| l.unknown_outcome).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| l.first_failed_at).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| l.last_failed_at).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| l.event().map_or(0, resend)).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| Some(l.event()?.job?.job)).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| Some(l.event()?.job?.item)).collect::<Vec<_>>())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }
}

fn resend(event: &Event) -> i32 {
    i32::try_from(event.resend).unwrap_or(i32::MAX)
}

// One row per event and statement: of a letter that is there twice, the newer one.
const ARCHIVE_LETTERS: &str = "-- archive_letters
    with letters as (
        select distinct on (event_id, unreadable) *
        from unnest($2::integer[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[],
                    $10::text[], $11::timestamptz[], $12::text[], $13::bytea[], $14::text[], $15::text[], $16::integer[],
                    $17::text[], $18::integer[], $19::boolean[], $20::timestamptz[], $21::timestamptz[], $22::integer[],
                    $23::bigint[], $24::bigint[])
            as n (replay, event_id, log_id, tenant_id, user_id, version, action, origin, traceparent, logged_at, data,
                  unreadable, reason, class, status, detail, attempts, unknown_outcome, first_failed_at, last_failed_at,
                  resend, job_id, job_item)
        order by event_id, unreadable, replay desc, last_failed_at desc
    ), known as (
        select n.*, exists (
            select from postbound.erased_user as e
            where e.tenant_id = n.tenant_id collate \"C\" and e.user_id = n.user_id collate \"C\" and e.version >= n.version
        ) as erased
        from letters as n
        -- What RabbitMQ gave up may have been delivered all the same, from another copy.
        where n.class <> 'broker' or not exists (
            select from postbound.delivery_ledger as l
            join postbound.target as t on t.name = l.target
            where l.target = $1 and l.tenant_id = n.tenant_id collate \"C\" and l.user_id = n.user_id collate \"C\"
              -- That a target of every event has a later one does not say that it has this one.
              and (l.delivered_version = n.version or t.fold and l.delivered_version > n.version))
    ), kept as (
        insert into postbound.dead_letter as d
            (target, replay, event_id, log_id, tenant_id, user_id, version, action, origin, traceparent, logged_at, data,
             unreadable, reason, class, status, detail, attempts, unknown_outcome, resend, first_failed_at, last_failed_at)
        select $1, replay, event_id, log_id, tenant_id, user_id, version, action, origin, traceparent, logged_at,
               case when erased then '{}'::jsonb else data::jsonb end,
               unreadable, reason, class, status, case when erased then '' else detail end, attempts, unknown_outcome,
               resend, first_failed_at, last_failed_at
        from known where unreadable is null
        on conflict on constraint dead_letter_once_per_event do update set
            replay = excluded.replay, reason = excluded.reason, class = excluded.class, status = excluded.status,
            detail = excluded.detail, attempts = d.attempts + excluded.attempts,
            unknown_outcome = excluded.unknown_outcome, resend = excluded.resend,
            last_failed_at = excluded.last_failed_at,
            replayed_at = null, discarded_at = null, discarded_by = null
            where excluded.replay > d.replay
        returning 1
    ), kept_unreadable as (
        insert into postbound.dead_letter (target, unreadable, reason, class, detail, last_failed_at)
        select $1, unreadable, reason, class, detail, last_failed_at from known where unreadable is not null
        on conflict do nothing
        returning 1
    ), items as (
        update postbound.job_item as i set state = 'dead', reason = known.reason, settled_at = clock_timestamp()
        from known
        where known.class = 'broker' and i.job_id = known.job_id and i.item = known.job_item
          and i.settled_at is null
    )
    -- A change only RabbitMQ gave up is dead to the ledger from now on.
    insert into postbound.delivery_ledger as l (target, tenant_id, user_id, dead_version, dead_at, dead_reason)
    select distinct on (tenant_id collate \"C\", user_id collate \"C\") $1, tenant_id, user_id, version,
           clock_timestamp(), reason
    from known where class = 'broker' and unreadable is null
    order by tenant_id collate \"C\", user_id collate \"C\", version desc
    on conflict on constraint delivery_ledger_pk do update
        set dead_version = excluded.dead_version, dead_at = excluded.dead_at, dead_reason = excluded.dead_reason
        where l.dead_version < excluded.dead_version";
