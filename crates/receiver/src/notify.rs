//! Webhooks back to the sender (contract S0b): what somebody changes in the backend itself is told there, signed as
//! Standard Webhooks asks. `PUT` and `DELETE /admin/users/{tenant}/{user}` are the backend's own administration.

use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use postbound_http::{ApiRouter, read_body, read_object, require_json};
use reqwest::{Client, Url};
use serde::Deserialize;
use sha2::Sha256;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use crate::auth::check_key;
use crate::config::{Contract, ReceiverConfig, ReceiverError};
use crate::intake::Delivery;
use crate::problem::{Problem, Refusal, database};
use crate::server::Receiver;
use crate::{describe, shape};

/// How often the table is looked at while nothing waits.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// Time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Fields of a user that the administration may change.
pub(crate) const FIELDS: [&str; 6] = ["email", "username", "displayName", "avatar", "role", "isActive"];

/// Where the webhooks go.
#[derive(Clone, PartialEq, Eq)]
pub struct NotifyConfig {
    /// Postbound's ingress, such as `https://postbound.example/api/webhooks/backend-sync`.
    pub url: String,
    /// Standard Webhooks secret, `whsec_...`.
    pub secret: String,
    /// Whether everything that was received is told back as well: what naive systems do, for tests.
    pub echo: bool,
}

impl std::fmt::Debug for NotifyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotifyConfig").field("echo", &self.echo).finish_non_exhaustive()
    }
}

/// Who sends them.
pub(crate) struct Notifier {
    http: Client,
    url: Url,
    key: Vec<u8>,
    contracts: Vec<&'static str>,
}

impl Notifier {
    pub(crate) fn new(config: &NotifyConfig, contracts: &[Contract]) -> Result<Self, ReceiverError> {
        let refused = |what: &str| ReceiverError::Notify(what.to_owned());
        let url = Url::parse(&config.url).map_err(|_| refused("its URL cannot be read"))?;
        let encoded = config.secret.strip_prefix("whsec_");
        let key = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
        let key = key.ok_or_else(|| refused("its secret is not whsec_ followed by base64"))?;
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = client
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|_| refused("no HTTP client can be made: is a TLS provider installed?"))?;
        let contracts = contracts.iter().map(|contract| contract.as_str()).collect();
        Ok(Self { http, url, key, contracts })
    }

    /// Whether it was taken.
    async fn send(&self, waiting: &Waiting) -> bool {
        let timestamp = OffsetDateTime::now_utc().unix_timestamp().to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("an HMAC key may have any length");
        for part in [&waiting.message_id, ".", &timestamp, ".", &waiting.body] {
            mac.update(part.as_bytes());
        }
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        let request = self
            .http
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &waiting.message_id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(waiting.body.clone());
        match request.send().await {
            Ok(answer) if answer.status().is_success() => true,
            Ok(answer) => {
                tracing::warn!(status = answer.status().as_u16(), webhook.id = %waiting.message_id, "receiver.webhook.refused");
                false
            }
            Err(error) => {
                let error = error.without_url();
                tracing::warn!(%error, webhook.id = %waiting.message_id, "receiver.webhook.not_sent");
                false
            }
        }
    }
}

#[derive(sqlx::FromRow)]
struct Waiting {
    id: i64,
    message_id: String,
    body: String,
}

/// Sends what waits, in order, until `shutdown`. What is not taken is sent again, for as long as it takes.
pub(crate) async fn notify_until(receiver: Receiver, shutdown: CancellationToken) {
    let Some(notifier) = receiver.notifier() else { return };
    loop {
        let pause = match next(receiver.pool(), &notifier.contracts).await {
            Ok(Some(waiting)) => {
                let sent = notifier.send(&waiting).await;
                if let Err(error) = settle(receiver.pool(), waiting.id, sent).await {
                    tracing::warn!(%error, "receiver.webhook.not_settled");
                }
                Duration::ZERO
            }
            Ok(None) => POLL_EVERY,
            Err(error) => {
                tracing::warn!(%error, "receiver.webhooks.not_read");
                POLL_EVERY * 10
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Tells the sender what it has just told us.
pub(crate) async fn echo(receiver: &Receiver, delivery: &Delivery) {
    let tenant = crate::intake::Envelope::lenient(&delivery.headers).tenant;
    let tenant = tenant.as_deref().unwrap_or(crate::backend::DEFAULT_TENANT);
    for user in delivery.users() {
        let echoed = sqlx::query("-- receiver.echo_user\nselect echo_user($1, $2, $3)")
            .bind(delivery.contract.as_str())
            .bind(tenant)
            .bind(user.id)
            .execute(receiver.pool())
            .await;
        if let Err(error) = echoed {
            tracing::error!(%error, "receiver.echo.not_written");
        }
    }
}

/// The backend's own administration of users.
pub(crate) fn admin_router(config: &ReceiverConfig) -> ApiRouter<Receiver> {
    ApiRouter::new().put("/admin/users/{tenant}/{user}", change, describe::change_user(config)).delete(
        "/admin/users/{tenant}/{user}",
        remove,
        describe::remove_user(config),
    )
}

/// Tenant and user as the path names them.
type NamedUser = Result<Path<(String, String)>, PathRejection>;

/// Why a user is removed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Removal {
    /// Told with the webhook.
    reason: Option<String>,
}

async fn change(
    State(receiver): State<Receiver>,
    named: NamedUser,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let (parts, body) = request.into_parts();
    check_key(receiver.config(), Contract::S2, &parts.headers)?;
    let (tenant, user) = named_user(named)?;
    require_json(&parts.headers)?;
    let fields = read_object(&read_body(body, receiver.config().body_bytes_max).await?)?;
    if let Some(error) = shape::wrong_type(&fields, shape::BACKEND_USER) {
        return Err(Problem::malformed(error).into());
    }
    if let Some(unknown) = fields.keys().find(|field| !FIELDS.contains(&field.as_str())) {
        return Err(Problem::unacceptable(format!("{unknown} cannot be changed")).into());
    }
    let found: bool =
        sqlx::query_scalar("-- receiver.change_backend_user\nselect change_backend_user($1, $2, $3)")
            .bind(&tenant)
            .bind(&user)
            .bind(sqlx::types::Json(&fields))
            .fetch_one(receiver.pool())
            .await
            .map_err(database)?;
    found_or_not(found)
}

async fn remove(
    State(receiver): State<Receiver>,
    named: NamedUser,
    removal: Result<Query<Removal>, QueryRejection>,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    check_key(receiver.config(), Contract::S2, &headers)?;
    let (tenant, user) = named_user(named)?;
    let Query(removal) = removal.map_err(|_| Problem::malformed("the query takes `reason` alone"))?;
    let found: bool =
        sqlx::query_scalar("-- receiver.remove_backend_user\nselect remove_backend_user($1, $2, $3)")
            .bind(&tenant)
            .bind(&user)
            .bind(removal.reason)
            .fetch_one(receiver.pool())
            .await
            .map_err(database)?;
    found_or_not(found)
}

fn named_user(named: NamedUser) -> Result<(String, String), Problem> {
    named
        .map(|Path(user)| user)
        .map_err(|_| Problem::malformed("the path must name tenant and user in UTF-8"))
}

fn found_or_not(found: bool) -> Result<StatusCode, Refusal> {
    if found { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found("there is no such user").into()) }
}

/// The oldest that is due, of users whose earlier ones are all taken.
async fn next(pool: &PgPool, contracts: &[&str]) -> Result<Option<Waiting>, sqlx::Error> {
    sqlx::query_as(
        "-- receiver.next_notification
        select n.id, n.message_id, n.body from notifications as n
         where n.sent_at is null and n.next_at <= now() and n.contract = any($1)
           and not exists (select from notifications as earlier
                            where earlier.sent_at is null and earlier.contract = n.contract and earlier.id < n.id
                              and earlier.tenant_id = n.tenant_id and earlier.user_id = n.user_id)
         order by n.id limit 1",
    )
    .bind(contracts)
    .fetch_optional(pool)
    .await
}

async fn settle(pool: &PgPool, id: i64, sent: bool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- receiver.settle_notification
        update notifications
           set sent_at = case when $2 then now() end, attempts = attempts + case when $2 then 0 else 1 end,
               next_at = now() + least(60, 2 ^ least(attempts, 6)) * interval '1 s'
         where id = $1",
    )
    .bind(id)
    .bind(sent)
    .execute(pool)
    .await
    .map(drop)
}
