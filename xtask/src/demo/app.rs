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
    let version: Option<i64> = match change.step {
        Step::Register => register(tx, change).await?,
        Step::Edit => edit(tx, change).await?,
        Step::Delete => delete(tx, change).await?,
        Step::Return => come_back(tx, change).await?,
    };
    Ok(version.is_some())
}

async fn register(tx: &mut PgConnection, change: &Change) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "-- demo_register
        with saved as (
            insert into app.users as u (tenant_id, user_id, email, username, display_name, avatar)
            values ($1, $2, $2 || '@' || $1 || '.example', $2, $3, $4)
            returning u.*
        )
        insert into postbound.outbox (tenant_id, user_id, action, data)
        select s.tenant_id, s.user_id, 'created', app.state(s) from saved as s
        returning version",
    )
    .bind(change.user.tenant)
    .bind(&change.user.id)
    .bind(&change.name)
    .bind(&change.avatar)
    .fetch_optional(tx)
    .await
}

async fn edit(tx: &mut PgConnection, change: &Change) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "-- demo_edit
        with saved as (
            update app.users as u
            set display_name = coalesce($3, u.display_name), avatar = $4,
                role = case when $5 then 'admin' else 'user' end, is_admin = $5,
                roles = case when $5 then '{user,admin}'::text[] else '{user}' end,
                is_active = $6, department = $7, title = $7 || ' lead', subscription_tier = $8, changes = u.changes + 1
            where tenant_id = $1 and user_id = $2 and deleted_at is null
            returning u.*
        )
        insert into postbound.outbox (tenant_id, user_id, action, data)
        select s.tenant_id, s.user_id, 'updated', app.state(s) from saved as s
        returning version",
    )
    .bind(change.user.tenant)
    .bind(&change.user.id)
    .bind(&change.name)
    .bind(&change.avatar)
    .bind(change.profile.is_admin)
    .bind(change.profile.is_active)
    .bind(change.profile.department)
    .bind(change.profile.subscription_tier)
    .fetch_optional(tx)
    .await
}

async fn delete(tx: &mut PgConnection, change: &Change) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "-- demo_delete
        with saved as (
            update app.users as u
            set deleted_at = now(), is_active = false, avatar = $3, changes = u.changes + 1
            where tenant_id = $1 and user_id = $2 and deleted_at is null
            returning u.*
        )
        insert into postbound.outbox (tenant_id, user_id, action, data)
        select s.tenant_id, s.user_id, 'deleted', app.state(s) from saved as s
        returning version",
    )
    .bind(change.user.tenant)
    .bind(&change.user.id)
    .bind(&change.avatar)
    .fetch_optional(tx)
    .await
}

async fn come_back(tx: &mut PgConnection, change: &Change) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "-- demo_come_back
        with saved as (
            update app.users as u
            set deleted_at = null, is_active = true, display_name = coalesce($3, u.display_name), avatar = $4,
                changes = u.changes + 1
            where tenant_id = $1 and user_id = $2 and deleted_at is not null
            returning u.*
        )
        insert into postbound.outbox (tenant_id, user_id, action, data)
        select s.tenant_id, s.user_id, 'created', app.state(s) from saved as s
        returning version",
    )
    .bind(change.user.tenant)
    .bind(&change.user.id)
    .bind(&change.name)
    .bind(&change.avatar)
    .fetch_optional(tx)
    .await
}
