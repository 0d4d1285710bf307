use crate::{
    CreatedJob, JobOptions, LetterFilter, Operation, Store, StoreError, audit,
    job_create::{counts, one_at_a_time},
    letter_filter::letter_matches,
};
use serde::Serialize;
use sqlx::{Arguments as _, types::Json};

/// Open letters a replay may send: of targets in use, readable, and not on their way in another replay.
macro_rules! letters_to_replay {
    () => {
        concat!(
            "select d.letter_id, d.target, d.tenant_id, d.user_id, d.version
            from postbound.open_dead_letter as d
            join postbound.target as t on t.name = d.target and t.retired_at is null
            where d.unreadable is null and not exists (
                    select from postbound.job as j join postbound.job_item as i on i.job_id = j.job_id
                    where j.kind = 'replay' and j.state not in ('cancelled', 'done') and i.state in ('waiting', 'sent')
                      and i.letter_id = d.letter_id)
                and ",
            crate::letter_filter::letter_matches!(),
            " order by d.letter_id limit $11"
        )
    };
}

/// What a replay of a filter would meet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct ReplayMatches {
    /// Letters that match, open or not.
    pub matched: i64,
    /// Closed by a newer success.
    pub superseded: i64,
    /// Closed by a replay.
    pub replayed: i64,
    /// Closed by an operator.
    pub discarded: i64,
    /// Open, but nobody can read them: they can only be discarded.
    pub unreadable: i64,
}

/// What a replay would send to one target for one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct ReplayShare {
    /// The target.
    pub target: String,
    /// The tenant.
    pub tenant_id: String,
    /// Letters.
    pub letters: i64,
    /// Users they are of.
    pub users: i64,
}

impl Store {
    /// How the letters of a filter stand.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn replay_matches(&self, filter: &LetterFilter) -> Result<ReplayMatches, StoreError> {
        const REPLAY_MATCHES: &str = concat!(
            "-- replay_matches
            select count(*) as matched,
                   count(*) filter (where o.letter_id is null and d.discarded_at is null and d.replayed_at is null) as superseded,
                   count(*) filter (where d.discarded_at is null and d.replayed_at is not null) as replayed,
                   count(*) filter (where d.discarded_at is not null) as discarded,
                   count(*) filter (where o.letter_id is not null and d.unreadable is not null) as unreadable
            from postbound.dead_letter as d left join postbound.open_dead_letter as o on o.letter_id = d.letter_id
            where ",
            letter_matches!()
        );
        Ok(sqlx::query_as_with(REPLAY_MATCHES, filter.arguments()?).fetch_one(&self.pool).await?)
    }

    /// What a replay would send, by target and tenant.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn replay_shares(
        &self,
        filter: &LetterFilter,
        limit: Option<i64>,
    ) -> Result<Vec<ReplayShare>, StoreError> {
        const REPLAY_SHARES: &str = concat!(
            "-- replay_shares
            select chosen.target, chosen.tenant_id, count(*) as letters, count(distinct chosen.user_id) as users from (",
            letters_to_replay!(),
            ") as chosen group by chosen.target, chosen.tenant_id order by chosen.target, chosen.tenant_id"
        );
        let mut arguments = filter.arguments()?;
        arguments.add(limit).map_err(sqlx::Error::Encode)?;
        Ok(sqlx::query_as_with(REPLAY_SHARES, arguments).fetch_all(&self.pool).await?)
    }

    /// Makes a replay for each target that has open letters of the filter, in their order; none: nothing to replay. With
    /// `use_current`, targets that get every event are left out.
    ///
    /// # Errors
    /// When Postgres refuses; then no job was made.
    pub async fn create_replay_jobs(
        &self,
        filter: &LetterFilter,
        limit: Option<i64>,
        options: &JobOptions,
        operation: &Operation,
    ) -> Result<Vec<CreatedJob>, StoreError> {
        const CREATE_REPLAY_JOBS: &str = concat!(
            "-- create_replay_jobs
            with chosen as materialized (",
            letters_to_replay!(),
            "), jobs as (
                insert into postbound.job
                    (kind, target, filter, state, use_current, new_key, rate_per_second, stop_after_failures, created_as)
                select 'replay', target, $12, 'running', $13, $14, $15, $16, $17
                from (select distinct c.target from chosen as c join postbound.target as t on t.name = c.target
                      where postbound.takes_newest_states(t.fold, t.actions) or not $13 order by c.target) as of_target
                returning job_id, target
            ), items as (
                insert into postbound.job_item (job_id, item, tenant_id, user_id, letter_id, version)
                select j.job_id, row_number() over (partition by j.job_id order by c.letter_id),
                       c.tenant_id, c.user_id, c.letter_id, c.version
                from chosen as c join jobs as j on j.target = c.target
                returning job_id
            )
            select j.job_id, j.target, count(*) as items, 0::bigint as skipped
            from jobs as j join items as i on i.job_id = j.job_id
            group by j.job_id, j.target order by j.job_id"
        );
        let mut arguments = filter.arguments()?;
        arguments.add(limit).map_err(sqlx::Error::Encode)?;
        arguments.add(Json(&operation.filter)).map_err(sqlx::Error::Encode)?;
        arguments.add(options.use_current).map_err(sqlx::Error::Encode)?;
        arguments.add(options.new_key).map_err(sqlx::Error::Encode)?;
        arguments.add(options.rate_per_second).map_err(sqlx::Error::Encode)?;
        arguments.add(options.stop_after_failures).map_err(sqlx::Error::Encode)?;
        arguments.add(operation.acting_as.as_deref()).map_err(sqlx::Error::Encode)?;
        let mut tx = self.pool.begin().await?;
        one_at_a_time(&mut tx, "replay", "").await?;
        let jobs: Vec<CreatedJob> =
            sqlx::query_as_with(CREATE_REPLAY_JOBS, arguments).fetch_all(&mut *tx).await?;
        if !jobs.is_empty() {
            audit::write(&mut tx, operation, &counts(&jobs)).await?;
        }
        tx.commit().await?;
        Ok(jobs)
    }
}
