//! Whether what arrived is what was committed.
//!
//! A target equals the source when every user is there with the fields of its contract and the newest version, or is a
//! tombstone; and when its log shows nothing that was not committed, and no older state applied after a newer one.

use std::fmt;

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use sqlx::{AssertSqlSafe, PgPool};

use super::crowd::Counts;
use super::plan::ROLLED_BACK;
use super::tally::{Tally, TargetTally};

/// How many users are named of those that differ.
const NAMED_MAX: i64 = 5;

/// A target's copy of the users, in SQL.
struct Copy {
    /// The contract it is kept by, as the receivers' log has it.
    contract: &'static str,
    table: &'static str,
    /// What its contract bears, of the table `t`.
    fields: &'static str,
    /// The same, of the source `u`.
    source_fields: &'static str,
}

const BACKEND: Copy = Copy {
    contract: "s2",
    table: "receiver.backend_users",
    fields: "t.email, t.username, t.display_name, t.avatar, t.role, t.is_active",
    source_fields: "u.email, u.username, u.display_name, u.avatar, u.role, u.is_active",
};

const CRM: Copy = Copy {
    contract: "s3",
    table: "receiver.crm_users",
    fields: "t.email, t.name, t.avatar, t.is_active, t.is_admin, t.department, t.title, t.roles, t.subscription_tier",
    source_fields: "u.email, u.display_name, u.avatar, u.is_active, u.is_admin, u.department, u.title, \
                    to_jsonb(u.roles), u.subscription_tier",
};

/// What was found, per target.
pub(crate) struct Verdict {
    counts: Counts,
    targets: Vec<(TargetTally, Findings)>,
}

/// What is wrong at a target; nothing, if all is well.
struct Findings {
    /// Users that are not as in the source.
    differing: i64,
    /// Some of them.
    named: Vec<String>,
    /// Requests that bore something nobody committed.
    ghosts: i64,
    /// Applied requests whose version was not newer than the one before.
    reordered: i64,
}

#[derive(sqlx::FromRow)]
struct Differing {
    all_of_them: i64,
    tenant_id: String,
    user_id: String,
    source_version: Option<i64>,
    target_version: Option<i64>,
}

impl fmt::Display for Differing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.tenant_id, self.user_id)?;
        match (self.source_version, self.target_version) {
            (Some(source), Some(target)) if source == target => {
                write!(f, "version {source}, with other fields")
            }
            (Some(source), Some(target)) => {
                write!(f, "version {source} in the source, {target} at the target")
            }
            (Some(source), None) => write!(f, "version {source} in the source, absent at the target"),
            (None, _) => write!(f, "not in the source"),
        }
    }
}

impl Verdict {
    /// Compares every target with the source, and its log with what was committed.
    pub(crate) async fn reach(pool: &PgPool, counts: Counts) -> Result<Self> {
        let mut targets = Vec::new();
        for tally in Tally::take(pool).await?.targets {
            let copy = if tally.target == "backend" { &BACKEND } else { &CRM };
            let differing = differing(pool, copy).await?;
            let findings = Findings {
                differing: differing.first().map_or(0, |first| first.all_of_them),
                named: differing.iter().map(Differing::to_string).collect(),
                ghosts: ghosts(pool, copy.contract).await?,
                reordered: reordered(pool, copy.contract).await?,
            };
            targets.push((tally, findings));
        }
        Ok(Self { counts, targets })
    }

    /// Whether every target equals the source, and the source is what the application committed.
    pub(crate) fn is_good(&self) -> bool {
        self.targets.iter().all(|(tally, findings)| self.is_whole(tally) && findings.is_empty())
    }

    /// Whether something is still on its way.
    pub(crate) fn has_pending(&self) -> bool {
        self.targets.iter().any(|(tally, _)| tally.pending > 0)
    }

    fn is_whole(&self, tally: &TargetTally) -> bool {
        tally.committed.unsigned_abs() == self.counts.committed
    }
}

impl Findings {
    fn is_empty(&self) -> bool {
        self.differing == 0 && self.ghosts == 0 && self.reordered == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header([
            "target",
            "committed",
            "delivered",
            "superseded",
            "dead",
            "pending",
            "equal to source",
        ]);
        for (tally, findings) in &self.targets {
            let numbers = [tally.committed, tally.delivered, tally.superseded(), tally.dead, tally.pending];
            let equal = if self.is_whole(tally) && findings.is_empty() { "yes" } else { "no" };
            let cells = std::iter::once(tally.target.clone()).chain(numbers.map(|number| number.to_string()));
            table.add_row(cells.chain([equal.to_owned()]));
        }
        let Counts { committed, rolled_back } = self.counts;
        write!(f, "{table}\n{committed} transactions committed, {rolled_back} rolled back")?;
        for (tally, findings) in &self.targets {
            if !self.is_whole(tally) {
                write!(
                    f,
                    "\nthe application committed {committed} changes, Postbound has {}",
                    tally.committed
                )?;
            }
            let target = &tally.target;
            for (number, what) in [
                (findings.differing, "users differ from the source"),
                (findings.ghosts, "users in requests bore what was never committed"),
                (findings.reordered, "users in requests were applied with a version that was not newer"),
            ] {
                if number > 0 {
                    write!(f, "\n{target}: {number} {what}")?;
                }
            }
            for user in &findings.named {
                write!(f, "\n  {user}")?;
            }
        }
        Ok(())
    }
}

async fn differing(pool: &PgPool, copy: &Copy) -> sqlx::Result<Vec<Differing>> {
    let Copy { table, fields, source_fields, .. } = copy;
    let statement = format!(
        "-- demo_differing
        select count(*) over () as all_of_them, coalesce(u.tenant_id, t.tenant_id) as tenant_id,
               coalesce(u.user_id, t.user_id) as user_id, u.changes as source_version, t.version as target_version
        from app.users as u
        full join {table} as t on t.tenant_id = u.tenant_id and t.user_id = u.user_id
        left join postbound.user_head as h
          on h.tenant_id = u.tenant_id collate \"C\" and h.user_id = u.user_id collate \"C\"
        where u.user_id is null or h.version is distinct from u.changes or h.deleted <> (u.deleted_at is not null)
           or case when u.deleted_at is null
              then (t.version, t.deleted_at is null, {fields}) is distinct from (u.changes, true, {source_fields})
              else t.user_id is not null
                   and (t.version, t.deleted_at is null, t.is_active) is distinct from (u.changes, false, false) end
        order by 2, 3 limit $1"
    );
    // Made of the constants above.
    sqlx::query_as(AssertSqlSafe(statement)).bind(NAMED_MAX).fetch_all(pool).await
}

/// Requests whose version was never committed, or whose content is not that version's: every state has its own avatar.
async fn ghosts(pool: &PgPool, contract: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "-- demo_ghosts
        select count(*)
        from receiver.request_log as r
        left join postbound.change_log as c
          on c.tenant_id = r.tenant_id collate \"C\" and c.user_id = r.user_id collate \"C\" and c.version = r.version
        where r.contract = $1
          and (c.version is null or r.content ->> 'avatar' is distinct from c.data ->> 'avatar'
               or r.content ->> 'avatar' like '%' || $2 || '%')",
    )
    .bind(contract)
    .bind(ROLLED_BACK)
    .fetch_one(pool)
    .await
}

async fn reordered(pool: &PgPool, contract: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "-- demo_reordered
        select count(*)
        from (
            select version, lag(version, 1, 0) over (partition by tenant_id, user_id order by id) as before
            from receiver.request_log where contract = $1 and outcome = 'applied'
        ) as r
        where (r.version > r.before) is not true",
    )
    .bind(contract)
    .fetch_one(pool)
    .await
}
