//! Postgres: the schema, and one call per request of the function that does all of it in one transaction.
//!
//! The guard, the idempotency keys and the oracle log live in `migrations/`; every connection's `search_path` is the
//! receiver's schema, so no name is qualified here.

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::types::Json;

use crate::config::{ReceiverConfig, ReceiverError, check_schema_name};
use crate::intake::{Envelope, NamedUser};

const MIGRATIONS: [&str; 7] = [
    include_str!("../migrations/0001_tables.sql"),
    include_str!("../migrations/0002_idempotency.sql"),
    include_str!("../migrations/0003_backend.sql"),
    include_str!("../migrations/0004_crm.sql"),
    include_str!("../migrations/0005_samples.sql"),
    include_str!("../migrations/0006_workflow.sql"),
    include_str!("../migrations/0007_notify.sql"),
];

/// One user's change (S2).
pub(crate) struct BackendChange<'a> {
    pub(crate) tenant_id: &'a str,
    pub(crate) user_id: &'a str,
    pub(crate) action: &'a str,
    pub(crate) version: Option<i64>,
    pub(crate) key: Option<&'a str>,
    pub(crate) event_id: Option<&'a str>,
    pub(crate) body_sha256: &'a [u8; 32],
    pub(crate) content: &'a Value,
}

/// One trigger (S0).
pub(crate) struct WorkflowRun<'a> {
    pub(crate) tenant_id: &'a str,
    pub(crate) workflow: &'a str,
    /// The sender's id of the user.
    pub(crate) user_id: &'a str,
    pub(crate) version: Option<i64>,
    pub(crate) key: Option<&'a str>,
    pub(crate) event_id: Option<&'a str>,
    pub(crate) body_sha256: &'a [u8; 32],
    pub(crate) content: &'a Value,
    /// Whether there is a mail server.
    pub(crate) mail: bool,
}

/// A welcome that is to be sent.
#[derive(sqlx::FromRow)]
pub(crate) struct WelcomeEmail {
    pub(crate) email_id: i64,
    pub(crate) convex_user_id: String,
    pub(crate) address: String,
    pub(crate) first_name: Option<String>,
}

/// What the function made of a request. `outcome` is one of `request_log.outcome`.
#[derive(sqlx::FromRow)]
pub(crate) struct Answer {
    #[sqlx(rename = "o_outcome")]
    pub(crate) outcome: String,
    #[sqlx(rename = "o_held_version")]
    pub(crate) held_version: Option<i64>,
    #[sqlx(rename = "o_response")]
    pub(crate) response: Option<String>,
}

/// What a CRM request says about all its users.
pub(crate) struct CrmBatch<'a> {
    pub(crate) tenant: &'a Value,
    pub(crate) source: &'a str,
    pub(crate) sync_type: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    pub(crate) event_id: Option<&'a str>,
    pub(crate) body_sha256: &'a [u8; 32],
}

/// The users of a CRM request, column by column, in the request's order.
#[derive(Default)]
pub(crate) struct CrmUsers<'a> {
    pub(crate) ids: Vec<&'a str>,
    pub(crate) versions: Vec<Option<i64>>,
    pub(crate) deleted: Vec<bool>,
    /// Set with `errors` where the user was found wanting before the database saw it.
    pub(crate) codes: Vec<Option<&'static str>>,
    pub(crate) errors: Vec<Option<String>>,
    pub(crate) contents: Vec<Json<&'a Value>>,
}

/// The receiver's database.
pub(crate) struct Storage {
    pool: PgPool,
}

impl Storage {
    /// Connects and brings the schema up to date.
    pub(crate) async fn connect(config: &ReceiverConfig) -> Result<Self, ReceiverError> {
        check_schema_name(&config.schema)?;
        let timeout_ms = config.database_timeout.as_millis().to_string();
        let options: PgConnectOptions = config.database_url.parse()?;
        let options = options
            .application_name("postbound-receiver")
            .options([("search_path", config.schema.as_str()), ("statement_timeout", timeout_ms.as_str())]);
        let pool = PgPoolOptions::new()
            .max_connections(config.pool_size)
            .acquire_timeout(config.database_timeout)
            // A ping before each use would double the round trips; a dead connection costs one 503 instead.
            .test_before_acquire(false)
            .connect_with(options)
            .await?;
        migrate(&pool, &config.schema).await?;
        Ok(Self { pool })
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Guarded S2.
    pub(crate) async fn sync_backend(&self, change: &BackendChange<'_>) -> Result<Answer, sqlx::Error> {
        sqlx::query_as(
            "-- receiver.sync_backend_user
            select o_outcome, o_held_version, o_response from sync_backend_user($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(change.tenant_id)
        .bind(change.user_id)
        .bind(change.action)
        .bind(change.version)
        .bind(change.key)
        .bind(change.event_id)
        .bind(&change.body_sha256[..])
        .bind(Json(change.content))
        .fetch_one(&self.pool)
        .await
    }

    /// S0.
    pub(crate) async fn run_workflow(&self, run: &WorkflowRun<'_>) -> Result<Answer, sqlx::Error> {
        sqlx::query_as(
            "-- receiver.run_workflow
            select o_outcome, o_held_version, o_response from run_workflow($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(run.tenant_id)
        .bind(run.workflow)
        .bind(run.user_id)
        .bind(run.version)
        .bind(run.key)
        .bind(run.event_id)
        .bind(&run.body_sha256[..])
        .bind(Json(run.content))
        .bind(run.mail)
        .fetch_one(&self.pool)
        .await
    }

    /// Marks a few welcomes whose time has come as being sent, and gives them.
    pub(crate) async fn claim_welcome_emails(&self) -> Result<Vec<WelcomeEmail>, sqlx::Error> {
        sqlx::query_as(
            "-- receiver.claim_welcome_emails
            update welcome_emails as w set state = 'sending', changed_at = now()
             where email_id in (select email_id from welcome_emails where state = 'waiting' and next_at <= now()
                                 order by next_at limit 10 for update skip locked)
            returning email_id, convex_user_id, address, first_name",
        )
        .fetch_all(&self.pool)
        .await
    }

    /// A welcome was sent, or is tried again later, five times in all.
    pub(crate) async fn settle_welcome_email(&self, email_id: i64, sent: bool) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- receiver.settle_welcome_email
            update welcome_emails
               set state = case when $2 then 'sent' when attempts >= 4 then 'failed' else 'waiting' end,
                   attempts = attempts + case when $2 then 0 else 1 end,
                   next_at = now() + interval '5 s' * 4 ^ attempts,
                   changed_at = now()
             where email_id = $1",
        )
        .bind(email_id)
        .bind(sent)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Guard-less S2.
    pub(crate) async fn sample_backend(&self, change: &BackendChange<'_>) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- receiver.sample_backend_user
            select sample_backend_user($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(change.tenant_id)
        .bind(change.user_id)
        .bind(change.action)
        .bind(change.version)
        .bind(change.key)
        .bind(change.event_id)
        .bind(&change.body_sha256[..])
        .bind(Json(change.content))
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Guarded S3.
    pub(crate) async fn sync_crm(
        &self,
        batch: &CrmBatch<'_>,
        users: &CrmUsers<'_>,
    ) -> Result<Answer, sqlx::Error> {
        sqlx::query_as(
            "-- receiver.sync_crm_users
            select o_outcome, null::bigint as o_held_version, o_response
              from sync_crm_users($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(Json(batch.tenant))
        .bind(batch.source)
        .bind(batch.sync_type)
        .bind(batch.key)
        .bind(batch.event_id)
        .bind(&batch.body_sha256[..])
        .bind(&users.ids)
        .bind(&users.versions)
        .bind(&users.deleted)
        .bind(&users.codes)
        .bind(&users.errors)
        .bind(&users.contents)
        .fetch_one(&self.pool)
        .await
    }

    /// Guard-less S3; gives the answer's body.
    pub(crate) async fn sample_crm(
        &self,
        tenant_id: &str,
        envelope: &Envelope,
        body_sha256: &[u8; 32],
        users: &CrmUsers<'_>,
    ) -> Result<String, sqlx::Error> {
        sqlx::query_scalar(
            "-- receiver.sample_crm_users
            select o_response from sample_crm_users($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(tenant_id)
        .bind(&envelope.key)
        .bind(&envelope.event_id)
        .bind(&body_sha256[..])
        .bind(&users.ids)
        .bind(&users.versions)
        .bind(&users.deleted)
        .bind(&users.errors)
        .bind(&users.contents)
        .fetch_one(&self.pool)
        .await
    }

    /// Logs users of a request that changed nothing: refused before the database saw it, or failed by a fault.
    pub(crate) async fn log(
        &self,
        contract: &str,
        envelope: &Envelope,
        body_sha256: &[u8; 32],
        users: &[NamedUser<'_>],
        (status, outcome): (u16, &str),
    ) -> Result<(), sqlx::Error> {
        let storable = |user: &NamedUser<'_>| crate::shape::is_storable(user.content);
        sqlx::query(
            "-- receiver.log_unapplied
            insert into request_log (contract, tenant_id, user_id, version, action, event_id, idempotency_key,
                                     body_sha256, status, outcome, content)
            select $1, $2, u.id, u.version, u.action, $3, $4, $5, $6, $7, u.content
              from unnest($8::text[], $9::bigint[], $10::text[], $11::jsonb[])
                   with ordinality as u (id, version, action, content, position)
             order by u.position",
        )
        .bind(contract)
        .bind(envelope.tenant.as_deref().unwrap_or_default())
        .bind(&envelope.event_id)
        .bind(&envelope.key)
        .bind(&body_sha256[..])
        .bind(i32::from(status))
        .bind(outcome)
        .bind(users.iter().map(|user| user.id.replace('\0', "\u{fffd}")).collect::<Vec<_>>())
        .bind(users.iter().map(|user| user.version).collect::<Vec<_>>())
        .bind(users.iter().map(|user| user.action.replace('\0', "\u{fffd}")).collect::<Vec<_>>())
        .bind(users.iter().map(|user| storable(user).then_some(Json(user.content))).collect::<Vec<_>>())
        .execute(&self.pool)
        .await
        .map(drop)
    }
}

/// Creates or updates the receiver's tables and functions in `schema`, which is made if it is missing. Safe to run
/// again, and from several processes at once.
///
/// # Errors
/// A schema name that would need quoting, or what the database answers.
pub async fn migrate(pool: &PgPool, schema: &str) -> Result<(), ReceiverError> {
    check_schema_name(schema)?;
    let mut tx = pool.begin().await?;
    sqlx::query(
        "-- receiver.migrate_lock\nselect pg_advisory_xact_lock(hashtext('postbound-receiver migrate'))",
    )
    .execute(&mut *tx)
    .await?;
    let create = format!("-- receiver.create_schema\ncreate schema if not exists {schema}");
    // The name was checked to be a plain identifier.
    // "if not exists" would say so of every table, every time.
    sqlx::raw_sql("set local client_min_messages = warning").execute(&mut *tx).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut *tx).await?;
    sqlx::query("-- receiver.use_schema\nselect set_config('search_path', $1, true)")
        .bind(schema)
        .execute(&mut *tx)
        .await?;
    for script in MIGRATIONS {
        sqlx::raw_sql(script).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Removes remembered answers older than `retention`; gives how many. `pool` must have the schema as `search_path`,
/// as [`crate::Receiver::pool`] does. [`crate::serve`] calls this by itself.
///
/// # Errors
/// What the database answers.
pub async fn prune_idempotency_keys(pool: &PgPool, retention: Duration) -> Result<u64, ReceiverError> {
    let done = sqlx::query(
        "-- receiver.prune_idempotency_keys
        delete from idempotency_keys where created_at < now() - make_interval(secs => $1)",
    )
    .bind(retention.as_secs_f64())
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
