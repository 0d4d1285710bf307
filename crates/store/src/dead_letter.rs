use crate::{LetterFilter, Operation, Store, StoreError, audit, letter_filter::letter_matches};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::Arguments as _;
use time::OffsetDateTime;
use uuid::Uuid;

/// Open letters, or those nobody has to do anything about any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterState {
    /// Not discarded, not replayed, not overtaken by a newer success.
    Open,
    /// All others.
    Closed,
    /// Both.
    All,
}

impl LetterState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::All => "all",
        }
    }
}

/// One letter in a list.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct LetterRow {
    /// The letter.
    pub letter_id: i64,
    /// The target.
    pub target: String,
    /// Tenant of the user; none for a message nobody can read.
    pub tenant_id: Option<String>,
    /// The user.
    pub user_id: Option<String>,
    /// Version of the state.
    pub version: Option<i64>,
    /// What happened to the user.
    pub action: Option<String>,
    /// Class of the failure.
    pub class: String,
    /// Why.
    pub reason: String,
    /// HTTP status of the last answer.
    pub status: Option<i32>,
    /// The target's own words, masked.
    pub detail: String,
    /// Attempts that failed.
    pub attempts: i32,
    /// Last failed attempt.
    #[serde(with = "time::serde::rfc3339")]
    pub last_failed_at: OffsetDateTime,
    /// Whether it is open.
    pub open: bool,
}

/// Letters of one cause.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct LetterCause {
    /// The target.
    pub target: String,
    /// Class of the failure.
    pub class: String,
    /// Why.
    pub reason: String,
    /// HTTP status.
    pub status: Option<i32>,
    /// How many letters.
    pub letters: i64,
    /// Of how many users.
    pub users: i64,
    /// The earliest of their last failures.
    #[serde(with = "time::serde::rfc3339")]
    pub first_at: OffsetDateTime,
    /// The latest.
    #[serde(with = "time::serde::rfc3339")]
    pub last_at: OffsetDateTime,
    /// The newest of them.
    pub example: i64,
    /// What the target said in it.
    pub example_detail: String,
}

/// Everything about a letter but the user's data.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct LetterDetail {
    /// As in a list.
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub letter: LetterRow,
    /// The job in which it failed last; 0: in none.
    pub replay: i32,
    /// The event.
    pub event_id: Option<Uuid>,
    /// Its place in the change log.
    pub log_id: Option<i64>,
    /// Where the change came from.
    pub origin: Option<String>,
    /// W3C trace context of the producer.
    pub traceparent: Option<String>,
    /// When the change was written.
    #[serde(with = "time::serde::rfc3339::option")]
    pub logged_at: Option<OffsetDateTime>,
    /// Whether an attempt ended without anyone knowing how.
    pub unknown_outcome: bool,
    /// First failed attempt.
    #[serde(with = "time::serde::rfc3339::option")]
    pub first_failed_at: Option<OffsetDateTime>,
    /// When it was moved to the archive.
    #[serde(with = "time::serde::rfc3339")]
    pub archived_at: OffsetDateTime,
    /// When a replay of it was delivered.
    #[serde(with = "time::serde::rfc3339::option")]
    pub replayed_at: Option<OffsetDateTime>,
    /// When an operator gave it up.
    #[serde(with = "time::serde::rfc3339::option")]
    pub discarded_at: Option<OffsetDateTime>,
    /// Who did.
    pub discarded_by: Option<String>,
    /// Newest version of the user the target took; 0: none.
    pub delivered_version: i64,
    /// When it did.
    #[serde(with = "time::serde::rfc3339::option")]
    pub delivered_at: Option<OffsetDateTime>,
    /// Size of the message, where nobody can read it.
    pub unreadable_bytes: Option<i32>,
}

impl Store {
    /// Letters, the newest first; those before letter `before` where it is given.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn letters(
        &self,
        filter: &LetterFilter,
        state: LetterState,
        limit: i64,
        before: Option<i64>,
    ) -> Result<Vec<LetterRow>, StoreError> {
        const LETTERS: &str = concat!(
            "-- letters
            select d.letter_id, d.target, d.tenant_id, d.user_id, d.version, d.action, d.class, d.reason, d.status, d.detail,
                   d.attempts, d.last_failed_at, o.letter_id is not null as open
            from postbound.dead_letter as d left join postbound.open_dead_letter as o on o.letter_id = d.letter_id
            where ",
            letter_matches!(),
            " and ($11 = 'all' or ($11 = 'open') = (o.letter_id is not null))
              and ($12::bigint is null or d.letter_id < $12)
            order by d.letter_id desc limit $13"
        );
        let mut arguments = filter.arguments()?;
        arguments.add(state.as_str()).map_err(sqlx::Error::Encode)?;
        arguments.add(before).map_err(sqlx::Error::Encode)?;
        arguments.add(limit).map_err(sqlx::Error::Encode)?;
        Ok(sqlx::query_as_with(LETTERS, arguments).fetch_all(&self.pool).await?)
    }

    /// Letters grouped by cause, the most frequent first.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn letter_causes(
        &self,
        filter: &LetterFilter,
        state: LetterState,
        limit: i64,
    ) -> Result<Vec<LetterCause>, StoreError> {
        const LETTER_CAUSES: &str = concat!(
            "-- letter_causes
            select cause.target, cause.class, cause.reason, cause.status, cause.letters, cause.users, cause.first_at,
                   cause.last_at, cause.example, e.detail as example_detail
            from (
                select d.target, d.class, d.reason, d.status, count(*) as letters,
                       count(distinct (d.tenant_id, d.user_id)) filter (where d.user_id is not null) as users,
                       min(d.last_failed_at) as first_at, max(d.last_failed_at) as last_at, max(d.letter_id) as example
                from postbound.dead_letter as d left join postbound.open_dead_letter as o on o.letter_id = d.letter_id
                where ",
            letter_matches!(),
            " and ($11 = 'all' or ($11 = 'open') = (o.letter_id is not null))
                group by d.target, d.class, d.reason, d.status
                order by letters desc, example desc limit $12
            ) as cause
            join postbound.dead_letter as e on e.letter_id = cause.example
            order by cause.letters desc, cause.example desc"
        );
        let mut arguments = filter.arguments()?;
        arguments.add(state.as_str()).map_err(sqlx::Error::Encode)?;
        arguments.add(limit).map_err(sqlx::Error::Encode)?;
        Ok(sqlx::query_as_with(LETTER_CAUSES, arguments).fetch_all(&self.pool).await?)
    }

    /// All about one letter; None when there is none of this number.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn letter(&self, letter: i64) -> Result<Option<LetterDetail>, StoreError> {
        Ok(sqlx::query_as(
            "-- letter
            select d.letter_id, d.target, d.tenant_id, d.user_id, d.version, d.action, d.class, d.reason, d.status, d.detail,
                   d.attempts, d.last_failed_at, o.letter_id is not null as open, d.replay, d.event_id, d.log_id, d.origin,
                   d.traceparent, d.logged_at, d.unknown_outcome, d.first_failed_at, d.archived_at, d.replayed_at,
                   d.discarded_at, d.discarded_by, coalesce(l.delivered_version, 0) as delivered_version, l.delivered_at,
                   octet_length(d.unreadable) as unreadable_bytes
            from postbound.dead_letter as d
            left join postbound.open_dead_letter as o on o.letter_id = d.letter_id
            left join postbound.delivery_ledger as l
              on l.target = d.target and l.tenant_id = d.tenant_id and l.user_id = d.user_id
            where d.letter_id = $1",
        )
        .bind(letter)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// What a letter carries: the user's data as JSON, or the message as it came where nobody can read it.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn letter_data(&self, letter: i64) -> Result<Option<LetterData>, StoreError> {
        let row: Option<(Option<Value>, Option<Vec<u8>>)> = sqlx::query_as(
            "-- letter_data\nselect data, unreadable from postbound.dead_letter where letter_id = $1",
        )
        .bind(letter)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(data, unreadable)| match (data, unreadable) {
            (_, Some(bytes)) => LetterData::Unreadable(bytes),
            (data, None) => LetterData::State(data.unwrap_or_default()),
        }))
    }

    /// How many open letters a filter matches, those nobody can read included.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn open_letters(&self, filter: &LetterFilter) -> Result<i64, StoreError> {
        const OPEN_LETTERS: &str = concat!(
            "-- open_letters\nselect count(*) from postbound.open_dead_letter as d where ",
            letter_matches!()
        );
        Ok(sqlx::query_scalar_with(OPEN_LETTERS, filter.arguments()?).fetch_one(&self.pool).await?)
    }

    /// Parked users and open letters of every target in use.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn target_backlogs(&self) -> Result<Vec<TargetBacklog>, StoreError> {
        Ok(sqlx::query_as(
            "-- target_backlogs
            select t.name as target,
                   (select count(*) from postbound.parked_user as p where p.target = t.name) as parked_users,
                   (select count(*) from postbound.open_dead_letter as d where d.target = t.name) as open_letters
            from postbound.target as t where t.retired_at is null order by t.name",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Gives open letters up, the oldest first, and writes that to the audit trail; gives how many.
    ///
    /// # Errors
    /// When Postgres refuses; then none was.
    pub async fn discard_letters(
        &self,
        filter: &LetterFilter,
        limit: Option<i64>,
        operation: &Operation,
    ) -> Result<u64, StoreError> {
        const DISCARD_LETTERS: &str = concat!(
            "-- discard_letters
            update postbound.dead_letter as gone
            set discarded_at = clock_timestamp(), discarded_by = coalesce($11, session_user)
            from (select d.letter_id from postbound.open_dead_letter as d where ",
            letter_matches!(),
            " order by d.letter_id limit $12) as chosen
            where gone.letter_id = chosen.letter_id and gone.discarded_at is null"
        );
        let mut arguments = filter.arguments()?;
        arguments.add(operation.acting_as.as_deref()).map_err(sqlx::Error::Encode)?;
        arguments.add(limit).map_err(sqlx::Error::Encode)?;
        let mut tx = self.pool.begin().await?;
        let discarded = sqlx::query_with(DISCARD_LETTERS, arguments).execute(&mut *tx).await?.rows_affected();
        audit::write(&mut tx, operation, &json!({ "letters": discarded })).await?;
        tx.commit().await?;
        Ok(discarded)
    }
}

/// What waits at a target for a retry, or for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct TargetBacklog {
    /// The target.
    pub target: String,
    /// Users who wait for another attempt.
    pub parked_users: i64,
    /// Letters somebody has to do something about.
    pub open_letters: i64,
}

/// What a letter carries.
#[derive(Debug, Clone, PartialEq)]
pub enum LetterData {
    /// The user's state.
    State(Value),
    /// A message nobody can read.
    Unreadable(Vec<u8>),
}
