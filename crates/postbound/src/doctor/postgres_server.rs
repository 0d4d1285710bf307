use super::{Finding, count, postgres::ask, some_of};
use postbound_store::{Store, StoreError};
use std::time::Duration;
use time::OffsetDateTime;

/// Partitions of the log are detached concurrently, which 13 cannot.
const VERSION_MIN: i32 = 14;
const VERSION_RECOMMENDED: i32 = 15;
const CLOCK_DIFFERENCE_MAX_S: f64 = 5.0;
const TRANSACTION_AGE_MAX: Duration = Duration::from_secs(3600);

/// Whether the server as such suits us, whatever is in the database.
pub(super) async fn check(store: &Store, address: &str, pool_max: u32) -> Vec<Finding> {
    let mut findings = match ask("postgres", Server::look(store)).await {
        Ok(server) => server.judge(address, pool_max),
        Err(finding) => vec![finding],
    };
    findings.push(match ask("commits", unsafe_commits(store)).await {
        Ok(places) => judge_commits(&places),
        Err(finding) => finding,
    });
    findings.push(match ask("transactions", old_transactions(store)).await {
        Ok(old) => old.judge(),
        Err(finding) => finding,
    });
    findings
}

/// What the server says of itself.
#[derive(Debug, Clone)]
struct Server {
    /// As in `server_version_num`: 150004.
    version: i32,
    version_text: String,
    read_only: bool,
    /// The server's clock less ours.
    clock_ahead_s: f64,
    connections_max: i64,
    connections_used: i64,
}

impl Server {
    async fn look(store: &Store) -> Result<Self, StoreError> {
        let before = now_s();
        let (version, version_text, read_only, clock, connections_max, connections_used) =
            sqlx::query_as::<_, (i32, String, bool, f64, i64, i64)>(
                "-- doctor_server
                select current_setting('server_version_num')::int, current_setting('server_version'),
                       pg_is_in_recovery() or current_setting('transaction_read_only')::bool,
                       extract(epoch from clock_timestamp())::float8,
                       current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
                           - coalesce(current_setting('reserved_connections', true)::bigint, 0),
                       (select count(*) from pg_stat_activity where backend_type = 'client backend')",
            )
            .fetch_one(store.pool())
            .await?;
        let clock_ahead_s = clock - f64::midpoint(before, now_s());
        Ok(Self { version, version_text, read_only, clock_ahead_s, connections_max, connections_used })
    }

    fn judge(&self, address: &str, pool_max: u32) -> Vec<Finding> {
        vec![self.judge_server(address), self.judge_clock(), self.judge_connections(pool_max)]
    }

    fn judge_server(&self, address: &str) -> Finding {
        const CHECK: &str = "postgres";
        let (major, text) = (self.version / 10_000, &self.version_text);
        if self.read_only {
            return Finding::problem(
                CHECK,
                format!("{address} is a standby, or read-only: nothing can be written"),
            )
            .mend("let database.url name the primary");
        }
        if major < VERSION_MIN {
            return Finding::problem(
                CHECK,
                format!("{address} is PostgreSQL {text}; {VERSION_MIN} is the least"),
            )
            .mend(format!("upgrade it to {VERSION_RECOMMENDED} or newer"));
        }
        if major < VERSION_RECOMMENDED {
            return Finding::warning(
                CHECK,
                format!("{address} is PostgreSQL {text}, which works but is old"),
            )
            .mend(format!("upgrade it to {VERSION_RECOMMENDED} or newer"));
        }
        Finding::ok(CHECK, format!("{address}, PostgreSQL {text}"))
    }

    fn judge_clock(&self) -> Finding {
        let difference = self.clock_ahead_s.abs();
        let way = if self.clock_ahead_s > 0.0 { "ahead of" } else { "behind" };
        if difference > CLOCK_DIFFERENCE_MAX_S {
            let what = format!("the database server's clock is {difference:.0} s {way} this machine's");
            return Finding::warning("clock", what).mend("keep both machines' clocks in step (NTP)");
        }
        Finding::ok("clock", "the database server's and this machine's agree")
    }

    fn judge_connections(&self, pool_max: u32) -> Finding {
        let (used, max) = (self.connections_used, self.connections_max);
        let free = (max - used).max(0);
        if free < i64::from(pool_max) {
            let what = format!("{free} of {max} are free, a process of ours takes up to {pool_max}");
            return Finding::warning("connections", what)
                .mend("raise max_connections of the server, or lower database.pool_max");
        }
        Finding::ok("connections", format!("{free} of {max} are free"))
    }
}

fn now_s() -> f64 {
    OffsetDateTime::now_utc().unix_timestamp_nanos() as f64 / 1e9
}

/// Where commits are acknowledged before they are on disk: this session, or a role or database by its own setting.
async fn unsafe_commits(store: &Store) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "-- doctor_unsafe_commits
        select 'this login' where current_setting('synchronous_commit') = 'off'
        union all
        select coalesce('role ' || r.rolname, 'the database')
        from pg_db_role_setting as s left join pg_roles as r on r.oid = s.setrole
        where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
          and exists (select from unnest(s.setconfig) as c (setting) where c.setting ~* '^synchronous_commit=(off|false|no|0)$')",
    )
    .fetch_all(store.pool())
    .await?)
}

fn judge_commits(places: &[String]) -> Finding {
    if places.is_empty() {
        return Finding::ok("commits", "synchronous_commit is not off");
    }
    let what = format!(
        "synchronous_commit is off for {}: a crash of the server loses committed changes",
        some_of(places)
    );
    Finding::problem("commits", what)
        .mend("set synchronous_commit = on in the server, and reset it for roles and databases")
}

/// Transactions that keep the vacuum from cleaning up what is newer than they are.
#[derive(Debug, Clone)]
struct OldTransactions {
    /// What each is, and how it is ended.
    found: Vec<(String, String)>,
    /// Whether the login sees other logins' transactions.
    sees_all: bool,
}

async fn old_transactions(store: &Store) -> Result<OldTransactions, StoreError> {
    let found = sqlx::query_as(
        "-- doctor_old_transactions
        select format('pid %s, %s, %s min old', pid, state, (extract(epoch from clock_timestamp() - xact_start) / 60)::bigint),
               format('select pg_terminate_backend(%s)', pid)
        from pg_stat_activity
        where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
          and xact_start < clock_timestamp() - $1 * interval '1 second'
        union all
        select format('prepared %L, %s min old', gid, (extract(epoch from clock_timestamp() - prepared) / 60)::bigint),
               format('rollback prepared %L', gid)
        from pg_prepared_xacts
        where database = current_database() and prepared < clock_timestamp() - $1 * interval '1 second'",
    )
    .bind(TRANSACTION_AGE_MAX.as_secs_f64())
    .fetch_all(store.pool())
    .await?;
    let sees_all = sqlx::query_scalar(
        "-- doctor_sees_all\nselect pg_has_role(current_user, 'pg_read_all_stats', 'usage')",
    )
    .fetch_one(store.pool())
    .await?;
    Ok(OldTransactions { found, sees_all })
}

impl OldTransactions {
    fn judge(&self) -> Finding {
        const CHECK: &str = "transactions";
        let Some((_, end)) = self.found.first() else {
            let seen =
                if self.sees_all { "" } else { " among those this login sees (pg_read_all_stats shows all)" };
            return Finding::ok(CHECK, format!("none is older than 1 h{seen}"));
        };
        let each: Vec<_> = self.found.iter().map(|(what, _)| what).collect();
        let what = format!(
            "{} older than 1 h, holding back the vacuum: {}",
            count(each.len(), "transaction"),
            some_of(&each)
        );
        Finding::warning(CHECK, what)
            .mend(format!("end it in its service, or: {end}; see idle_in_transaction_session_timeout"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn well() -> Server {
        Server {
            version: 150_004,
            version_text: "15.4".to_owned(),
            read_only: false,
            clock_ahead_s: 0.1,
            connections_max: 97,
            connections_used: 10,
        }
    }

    #[test]
    fn what_does_not_suit_us_is_told_apart_from_what_could_be_better() {
        let check = |server: Server, levels: [Level; 3], words: &str| {
            let findings = server.judge("postgres://db/app", 10);
            assert_eq!(
                findings.iter().map(|finding| finding.level).collect::<Vec<_>>(),
                levels,
                "{findings:?}"
            );
            assert!(findings.iter().any(|finding| finding.what.contains(words)), "{findings:?}");
        };
        use Level::{Ok, Problem, Warning};
        check(well(), [Ok, Ok, Ok], "87 of 97");
        check(Server { read_only: true, ..well() }, [Problem, Ok, Ok], "standby");
        check(Server { version: 130_012, ..well() }, [Problem, Ok, Ok], "the least");
        check(Server { version: 140_012, ..well() }, [Warning, Ok, Ok], "old");
        check(Server { clock_ahead_s: -7.0, ..well() }, [Ok, Warning, Ok], "7 s behind");
        check(Server { connections_used: 95, ..well() }, [Ok, Ok, Warning], "2 of 97");
        check(Server { connections_used: 100, ..well() }, [Ok, Ok, Warning], "0 of 97");
    }
}
