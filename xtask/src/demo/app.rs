//! The demo's application: it keeps users in a table of its own and tells Postbound of each change in the same
//! statement, as any producer should.

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::plan::{Change, Step};

/// The application's login.
pub(crate) const ROLE: &str = "demo_app";

/// Creates the application's table and login in a database that Postbound has migrated.
pub(crate) async fn create(database_url: &str, password: &str) -> Result<()> {
    let mut owner = PgConnection::connect(database_url).await?;
    sqlx::raw_sql(include_str!("app.sql")).execute(&mut owner).await?;
    // We drew the password ourselves: letters and digits.
    let statement = format!("alter role {ROLE} password '{password}'");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut owner).await?;
    Ok(owner.close().await?)
}

/// Makes one change, and tells Postbound of it, in the caller's transaction. False if the user was not there to change:
/// then somebody was faster, and nothing was done.
pub(crate) async fn make(tx: &mut PgConnection, change: &Change) -> Result<bool> {
    // The numbers of the parameters are the same in all.
    let (name, write, action) = match change.step {
        Step::Register => (
            "demo_register",
            "insert into app.users as u (tenant_id, user_id, avatar, email, username, display_name)
            values ($1, $2, $3, $2 || '@' || $1 || '.example', $2, $4)",
            "created"
        ),
        Step::Edit => (
            "demo_edit",
            "update app.users as u
            set avatar = $3, display_name = coalesce($4, u.display_name),
                role = case when $5 then 'admin' else 'user' end, is_admin = $5,
                roles = case when $5 then '{user,admin}'::text[] else '{user}' end,
                is_active = $6, department = $7, title = $7 || ' lead', subscription_tier = $8, changes = u.changes + 1
            where tenant_id = $1 and user_id = $2 and deleted_at is null",
            "updated"
        ),
        Step::Delete => (
            "demo_delete",
            "update app.users as u
            set avatar = $3, deleted_at = now(), is_active = false, changes = u.changes + 1
            where tenant_id = $1 and user_id = $2 and deleted_at is null",
            "deleted"
        ),
        Step::Return => (
            "demo_come_back",
            "update app.users as u
            set avatar = $3, display_name = coalesce($4, u.display_name), deleted_at = null, is_active = true,
                changes = u.changes + 1
            where tenant_id = $1 and user_id = $2 and deleted_at is not null",
            "created"
        ),
    };
    let statement = format!(
        "-- {name}
        with saved as (
            {write}
            returning u.*
        )
        insert into postbound.outbox (tenant_id, user_id, action, data)
        select s.tenant_id, s.user_id, '{action}', app.state(s) from saved as s
        returning version"
    );
    // Made of the words above.
    let version: Option<i64> = sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(change.user.tenant)
        .bind(&change.user.id)
        .bind(&change.avatar)
        .bind(&change.name)
        .bind(change.profile.is_admin)
        .bind(change.profile.is_active)
        .bind(change.profile.department)
        .bind(change.profile.subscription_tier)
        .fetch_optional(tx)
        .await?;
    Ok(version.is_some())
}
