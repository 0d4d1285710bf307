//! Where Postgres' time goes, by `pg_stat_statements`: for whoever makes it faster.

use anyhow::Result;
use sqlx::{Connection, Executor, PgConnection, PgPool};

/// Installs the view in a database that others are copied from.
pub(crate) async fn prepare(url: &str) -> Result<()> {
    let mut owner = PgConnection::connect(url).await?;
    owner.execute("create extension pg_stat_statements").await?;
    Ok(owner.close().await?)
}

/// Starts counting from nothing, in all databases.
pub(crate) async fn forget(connection: &mut PgConnection) -> Result<()> {
    connection.execute("create extension if not exists pg_stat_statements").await?;
    connection.execute("select pg_stat_statements_reset()").await?;
    Ok(())
}

/// Says which statements of the pool's database took longest, on stderr.
pub(crate) async fn tell(pool: &PgPool, changes: u32) -> Result<()> {
    let rows: Vec<(f64, i64, i64, String)> = sqlx::query_as(
        "-- bench_statements
        select total_exec_time, calls, rows, left(regexp_replace(query, '\\s+', ' ', 'g'), 100)
        from pg_stat_statements
        where dbid = (select oid from pg_database where datname = current_database())
        order by total_exec_time desc limit 12",
    )
    .fetch_all(pool)
    .await?;
    eprintln!("bench: µs per change, calls, rows, statement");
    for (ms, calls, rows, query) in rows {
        eprintln!("bench: {:8.1} {calls:7} {rows:8} {query}", ms * 1000.0 / f64::from(changes));
    }
    Ok(())
}
