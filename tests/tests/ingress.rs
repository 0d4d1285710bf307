//! What comes in over HTTP, from those who sign and those who do not: real processes on both sides.

pub(crate) mod clients;
mod events;
mod openapi;
mod origins;
mod plans;
mod refusals;
mod rights;
mod taking;
pub(crate) mod typescript;
mod waiting;

use postbound_target::signature::{SigningKey, sign};
use postbound_tests::{Installation, LogEntry, Options, Process, Role, log_entries};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use std::time::Duration;
use time::OffsetDateTime;

/// A bound for what takes moments on an idle machine, no claim.
const SOON: Duration = Duration::from_secs(90);
/// Clerk's secret.
const CLERK: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The backend's secret, and the one it had before.
const BACKEND: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const BACKEND_BEFORE: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
/// For all tenants.
const TOKEN: &str = "events-token-of-the-tests";

const CLERK_PATH: &str = "/api/webhooks/clerk";
const BACKEND_PATH: &str = "/api/webhooks/backend-sync";

/// An installation whose ingress takes webhooks of Clerk and of the backend.
fn options() -> Options {
    Options::default()
        .with("ingress.listen", "127.0.0.1:0")
        .with("ingress.sources.clerk.kind", "clerk")
        .with("ingress.sources.clerk.signing_secrets", CLERK)
        .with("ingress.sources.backend.kind", "backend-sync")
        .with("ingress.sources.backend.signing_secrets", &format!("{BACKEND},{BACKEND_BEFORE}"))
        .with("ingress.tokens.convex.token", TOKEN)
        .with("ingress.tokens.convex.scopes", "events")
}

/// A running `postbound ingress`.
struct Door<'a> {
    installation: &'a Installation,
    process: Process,
    address: String,
}

impl<'a> Door<'a> {
    async fn open(installation: &'a Installation) -> Self {
        Self::open_with(installation, &[]).await
    }

    async fn open_with(installation: &'a Installation, settings: &[(&str, &str)]) -> Self {
        let process = installation.spawn(Role::Ingress, &["ingress"], settings);
        let address = process.address("ingress listening").await;
        Self { installation, process, address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let body: Vec<u8> = body.into();
        self.installation.http.post(self.url(path)).header("content-type", "application/json").body(body)
    }

    /// Sends a message as Clerk does; gives status and answer.
    async fn clerk(&self, id: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        said(self.signed("svix", CLERK, CLERK_PATH, (id, now(), &body)).send().await.unwrap()).await
    }

    /// Sends a message as the backend does; gives status and answer.
    async fn backend(&self, id: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        said(self.signed("webhook", BACKEND, BACKEND_PATH, (id, now(), &body)).send().await.unwrap()).await
    }

    fn signed(
        &self,
        prefix: &str,
        secret: &str,
        path: &str,
        (id, at, body): (&str, i64, &str),
    ) -> RequestBuilder {
        let signature = sign(&[SigningKey::parse(secret).unwrap()], id, at, body.as_bytes());
        self.post(path, body)
            .header(format!("{prefix}-id"), id)
            .header(format!("{prefix}-timestamp"), at)
            .header(format!("{prefix}-signature"), signature)
    }

    async fn log(&self) -> Vec<LogEntry> {
        log_entries(self.installation.database.superuser()).await
    }
}

async fn said(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Clerk's user as of a time of its own, in milliseconds.
fn clerk_user(event: &str, id: &str, first_name: &str, updated_at: i64) -> Value {
    json!({
        "type": event, "object": "event", "timestamp": updated_at,
        "data": {
            "id": id, "first_name": first_name, "last_name": "Lovelace", "image_url": "https://img.example/a.png",
            "email_addresses": [{"id": "idn_1", "email_address": format!("{id}@example.com")}],
            "primary_email_address_id": "idn_1", "created_at": 1_700_000_000_000_i64, "updated_at": updated_at,
            "private_metadata": {"never": "forwarded"}
        }
    })
}

fn clerk_delete(id: &str) -> Value {
    json!({"type": "user.deleted", "object": "event", "data": {"id": id, "object": "user", "deleted": true}})
}

/// One number of the database.
async fn count(installation: &Installation, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(installation.database.superuser()).await.unwrap()
}
