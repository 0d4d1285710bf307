//! How many changes stand where, per target.

use anyhow::Result;
use sqlx::PgPool;

/// The targets' names, in the order of every tally.
pub(crate) const TARGETS: [&str; 2] = ["backend", "crm"];

/// One moment's numbers, all of one snapshot of the database.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// One per target, in the order of [`TARGETS`].
    pub(crate) targets: Vec<TargetTally>,
}

/// The numbers of one target, in changes.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct TargetTally {
    pub(crate) target: String,
    /// Committed in the source.
    pub(crate) committed: i64,
    /// Taken by the target, as its own log has it.
    pub(crate) delivered: i64,
    /// Users whose newest settled change was dead-lettered.
    pub(crate) dead: i64,
    /// Neither taken, nor superseded, nor dead.
    pub(crate) pending: i64,
}

impl Tally {
    pub(crate) async fn take(pool: &PgPool) -> Result<Self> {
        let targets = sqlx::query_as(
            "-- demo_tally
            select t.target, c.committed, d.delivered, l.dead, (c.committed - l.settled)::bigint as pending
            from (values (1, 'backend', 's2'), (2, 'crm', 's3')) as t (place, target, contract)
            cross join (select coalesce(sum(version), 0)::bigint as committed from postbound.user_head) as c
            cross join lateral (
                select count(*) as delivered from receiver.request_log as r
                where r.contract = t.contract and r.outcome = 'applied'
            ) as d
            cross join lateral (
                select coalesce(sum(greatest(l.delivered_version, l.dead_version)), 0)::bigint as settled,
                       count(*) filter (where l.dead_version > l.delivered_version) as dead
                from postbound.delivery_ledger as l where l.target = t.target
            ) as l
            order by t.place",
        )
        .fetch_all(pool)
        .await?;
        Ok(Self { targets })
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_settled(&self) -> bool {
        self.targets.iter().all(|target| target.pending == 0)
    }
}

impl TargetTally {
    /// Changes that were never sent because a newer state of the user took their place.
    pub(crate) fn superseded(&self) -> i64 {
        (self.committed - self.delivered - self.dead - self.pending).max(0)
    }

    /// Changes that need nothing more.
    pub(crate) fn settled(&self) -> i64 {
        self.committed - self.pending
    }
}
