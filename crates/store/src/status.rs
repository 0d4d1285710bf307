use crate::{BreakerRow, DrainingTarget, RelayHalt, Store, StoreError};
use serde::Serialize;
use time::OffsetDateTime;

/// Everything `postbound status` shows of the database's side.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The active relay.
    pub relay: RelayStatus,
    /// Why it publishes nothing, if Postgres or RabbitMQ has gone back in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halted: Option<RelayHalt>,
    /// How far each stream is behind the log.
    pub streams: Vec<StreamLag>,
    /// Per target, how many users stand where, and whether requests go out.
    pub targets: Vec<TargetStatus>,
    /// Targets whose partitions are changing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<DrainingTarget>,
    /// Live workers.
    pub workers: Vec<WorkerRow>,
    /// Who owns which partition.
    pub partitions: Vec<PartitionOwner>,
    /// Days until producers would find no partition to write to.
    pub log_partition_days_ahead: i32,
}

/// Which relay is active.
#[derive(Debug, Clone, Serialize)]
pub struct RelayStatus {
    /// host:pid:nonce of the active relay; None when there is none.
    pub holder: Option<String>,
    /// Token of the lease: number of takeovers so far.
    pub takeovers: i64,
}

/// How far a stream is behind.
#[derive(Debug, Clone, Serialize)]
pub struct StreamLag {
    /// The target, or `user_state`.
    pub stream: String,
    /// Committed rows not yet confirmed.
    pub rows: i64,
    /// Age of the oldest of them in seconds; 0 when there is none.
    pub seconds: f64,
}

/// How many users of a target stand where.
#[derive(Debug, Clone, Serialize)]
pub struct TargetCounts {
    /// The target.
    pub target: String,
    /// Users whose newest state the target took.
    pub in_sync: i64,
    /// Users whose newest state the target wants and has not taken yet, those included who are parked. What their newest
    /// state is, `user_state` says; while that is behind, they count.
    pub pending: i64,
    /// Users whose newest change was dead-lettered.
    pub dead: i64,
}

/// All that `postbound status` shows of a target.
#[derive(Debug, Clone, Serialize)]
pub struct TargetStatus {
    /// How many users stand where.
    #[serde(flatten)]
    pub counts: TargetCounts,
    /// Users who wait for another attempt.
    pub parked_users: i64,
    /// Dead letters somebody has to do something about.
    pub open_letters: i64,
    /// Why nothing is sent; empty: requests go out.
    pub closed: Vec<ClosedScope>,
}

/// A target, or a tenant of it, that nothing is sent to for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClosedScope {
    /// The tenant; None: all.
    pub tenant: Option<String>,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Reason of the failure, a word of a closed set; `paused` where only an operator did it.
    pub reason: String,
    /// The operator who paused it, if one did.
    pub paused_by: Option<String>,
    /// What they gave as the reason.
    pub pause_reason: Option<String>,
    /// When a probe may go out; None: not before an operator resumes.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_probe_at: Option<OffsetDateTime>,
}

impl From<BreakerRow> for ClosedScope {
    fn from(row: BreakerRow) -> Self {
        Self {
            tenant: row.tenant,
            since: row.opened_at,
            reason: row.reason,
            next_probe_at: row.retry_at.filter(|_| row.paused_by.is_none()),
            paused_by: row.paused_by,
            pause_reason: row.pause_reason,
        }
    }
}

/// A worker that is alive.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerRow {
    /// host:pid.
    pub label: String,
    /// Targets it serves.
    pub targets: Vec<String>,
    /// Partitions it owns, over all targets.
    pub partitions: i64,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
}

/// The owner of one partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionOwner {
    /// The target.
    pub target: String,
    /// Partition from 0.
    pub partition: i32,
    /// The worker's label; None: nobody.
    pub owner: Option<String>,
}

/// One delivery that is not settled, for people who ask why.
#[derive(Debug, Clone, Serialize)]
pub struct OpenDelivery {
    /// The target.
    pub target: String,
    /// The user's newest version.
    pub wanted_version: i64,
    /// What the target holds.
    pub delivered_version: i64,
    /// What was dead-lettered.
    pub dead_version: i64,
}

impl Store {
    /// Reads the status. Counts scan the users' heads, so this is for people and scrapes of minutes, not for loops.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn status(&self) -> Result<Snapshot, StoreError> {
        Ok(Snapshot {
            relay: self.relay_status().await?,
            halted: self.relay_halt().await?,
            streams: self.stream_lags().await?,
            targets: self.target_statuses().await?,
            draining: self.draining_targets().await?,
            workers: self.live_workers().await?,
            partitions: self.partition_owners().await?,
            log_partition_days_ahead: self.log_partition_days_ahead().await?,
        })
    }

    /// Which relay is active.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn relay_status(&self) -> Result<RelayStatus, StoreError> {
        let (holder, takeovers) = sqlx::query_as(
            "-- relay_status
            select case when expires_at > clock_timestamp() then holder end, token from postbound.relay_lease",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(RelayStatus { holder, takeovers })
    }

    /// How far each stream is behind the log.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn stream_lags(&self) -> Result<Vec<StreamLag>, StoreError> {
        // Not yet confirmed: what the current snapshot sees and S1 does not, less the window's confirmed prefix.
        let rows: Vec<(String, i64, f64)> = sqlx::query_as(
            "-- stream_lags
            select s.stream, count(c.id), coalesce(extract(epoch from clock_timestamp() - min(c.logged_at)), 0)::float8
            from postbound.stream_cursor as s
            left join lateral (
                select l.id, l.logged_at from postbound.change_log as l
                where l.xid >= pg_snapshot_xmin(s.done_snapshot)
                  and not pg_visible_in_snapshot(l.xid, s.done_snapshot)
                  and (s.open_snapshot is null or l.id > s.confirmed_id or not pg_visible_in_snapshot(l.xid, s.open_snapshot))
            ) as c on true
            group by s.stream order by s.stream",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(stream, rows, seconds)| StreamLag { stream, rows, seconds }).collect())
    }

    async fn target_statuses(&self) -> Result<Vec<TargetStatus>, StoreError> {
        let backlogs = self.target_backlogs().await?;
        let mut breakers = self.breakers().await?;
        let statuses = self.target_counts().await?.into_iter().map(|counts| {
            let backlog = backlogs.iter().find(|backlog| backlog.target == counts.target);
            let closed = breakers.extract_if(.., |breaker| breaker.target == counts.target);
            TargetStatus {
                parked_users: backlog.map_or(0, |backlog| backlog.parked_users),
                open_letters: backlog.map_or(0, |backlog| backlog.open_letters),
                closed: closed.map(ClosedScope::from).collect(),
                counts,
            }
        });
        Ok(statuses.collect())
    }

    /// Per target, how many users stand where.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn target_counts(&self) -> Result<Vec<TargetCounts>, StoreError> {
        let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
            "-- target_counts
            select t.name,
                   count(h.user_id) filter (where l.delivered_version >= h.version),
                   count(h.user_id) filter (
                       where h.version > greatest(coalesce(l.delivered_version, 0), coalesce(l.dead_version, 0))
                         and (p.user_id is not null or s.version is distinct from h.version
                              or postbound.admits(t.actions, t.tenants, t.name, h.tenant_id, s.action, s.targets))),
                   count(h.user_id) filter (where l.dead_version >= h.version and l.delivered_version < l.dead_version)
            from postbound.target as t
            left join postbound.user_head as h on h.version > 0
            left join postbound.delivery_ledger as l
              on l.target = t.name and l.tenant_id = h.tenant_id and l.user_id = h.user_id
            left join postbound.user_state as s on s.tenant_id = h.tenant_id and s.user_id = h.user_id
            left join postbound.parked_user as p
              on p.target = t.name and p.tenant_id = h.tenant_id and p.user_id = h.user_id
            where t.retired_at is null
            group by t.name order by t.name",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(target, in_sync, pending, dead)| TargetCounts { target, in_sync, pending, dead })
            .collect())
    }

    /// Workers that are alive, in the order of their start.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn live_workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let rows: Vec<(String, Vec<String>, i64, OffsetDateTime)> = sqlx::query_as(
            "-- live_workers_shown
            select w.label, w.targets, count(l.partition), w.started_at
            from postbound.worker as w left join postbound.partition_lease as l on l.worker_id = w.worker_id
            where w.expires_at > clock_timestamp()
            group by w.worker_id order by w.started_at",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(label, targets, partitions, started_at)| WorkerRow {
                label,
                targets,
                partitions,
                started_at,
            })
            .collect())
    }

    /// Every partition workers may lease now, of every target in use, with its owner.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn partition_owners(&self) -> Result<Vec<PartitionOwner>, StoreError> {
        let rows: Vec<(String, i32, Option<String>)> = sqlx::query_as(
            "-- partition_owners
            select t.name, p.partition, w.label
            from postbound.target as t
            cross join lateral (select coalesce(t.draining_generation, t.generation)) as g (generation)
            cross join lateral generate_series(0, coalesce(t.draining_partitions, t.partitions) - 1) as p (partition)
            left join postbound.partition_lease as l
              on l.target = t.name and l.generation = g.generation and l.partition = p.partition
            left join postbound.worker as w on w.worker_id = l.worker_id and w.expires_at > clock_timestamp()
            where t.retired_at is null and not exists (
                select from postbound.drained_partition as d
                where d.target = t.name and d.generation = g.generation and d.partition = p.partition)
            order by t.name, p.partition",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(target, partition, owner)| PartitionOwner { target, partition, owner })
            .collect())
    }

    /// Days until producers would find no partition to write to.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn log_partition_days_ahead(&self) -> Result<i32, StoreError> {
        Ok(self.log_partitions().await?.last().map_or(-1, |newest| newest.days_from_today))
    }

    /// Where one user stands at each target.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn user_deliveries(&self, tenant: &str, user: &str) -> Result<Vec<OpenDelivery>, StoreError> {
        let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
            "-- user_deliveries
            select t.name, h.version, coalesce(l.delivered_version, 0), coalesce(l.dead_version, 0)
            from postbound.user_head as h
            cross join postbound.target as t
            left join postbound.delivery_ledger as l
              on l.target = t.name and l.tenant_id = h.tenant_id and l.user_id = h.user_id
            where h.tenant_id = $1 and h.user_id = $2 and t.retired_at is null
            order by t.name",
        )
        .bind(tenant)
        .bind(user)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(target, wanted_version, delivered_version, dead_version)| OpenDelivery {
                target,
                wanted_version,
                delivered_version,
                dead_version,
            })
            .collect())
    }
}
