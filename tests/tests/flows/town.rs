//! All systems of the contracts, running.

use postbound_receiver::NotifyConfig;
use postbound_target::signature::{SigningKey, sign};
use postbound_tests::{API_KEY, Installation, Options, Process, Role, eventually};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use std::io::Write as _;
use std::time::Duration;
use time::OffsetDateTime;

/// A bound for what takes moments on an idle machine, no claim.
pub(super) const SOON: Duration = Duration::from_secs(180);
/// The tenant of everybody here.
pub(super) const TENANT: &str = "default";

const CLERK: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BACKEND: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const CRM: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const SERVICE: &str = "directory-token-of-the-tests";

/// What differs from town to town.
#[derive(Default, Clone, Copy)]
pub(super) struct Habits {
    /// Registrations trigger the backend's workflow, and its webhooks name users by the ids that it told.
    pub(super) workflow: bool,
    /// Backend and CRM tell back everything they are told.
    pub(super) echo: bool,
}

/// A running relay, worker and ingress, and the systems around them.
pub(super) struct Town {
    pub(super) installation: Installation,
    pub(super) ingress: Process,
    address: String,
    workflow: bool,
    pub(super) relay: Process,
    _worker: Process,
}

impl Town {
    pub(super) async fn start(habits: Habits) -> Self {
        Self::start_with(habits, &[]).await
    }

    /// With more settings.
    pub(super) async fn start_with(habits: Habits, settings: &[(&str, &str)]) -> Self {
        let mut installation = Installation::configure(options(settings)).await;
        if habits.workflow {
            let toml = format!(
                "\n[targets.workflow]\nadapter = \"workflow-trigger\"\nurl = \"{}\"\napi_key = \"{API_KEY}\"\n\
                 actions = [\"created\"]\ncoalesce = false\n\
                 [ingress.sources.backend]\nlink_target = \"workflow\"\nlink_system = \"frontendUserId\"\n",
                installation.backend.base_url()
            );
            let path = installation.path("postbound.toml");
            let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(toml.as_bytes()).unwrap();
        }
        installation.apply_topology().await;
        let ingress = installation.spawn(Role::Ingress, &["ingress"], &[]);
        let address = ingress.address("ingress listening").await;
        let notify = |path: &str, secret: &str| {
            let url = format!("http://{address}{path}");
            Some(NotifyConfig { url, secret: secret.to_owned(), echo: habits.echo })
        };
        let (backend, crm) =
            (notify("/api/webhooks/backend-sync", BACKEND), notify("/api/webhooks/crm", CRM));
        installation.backend.serve_with(|config| config.notify = backend).await;
        installation.crm.serve_with(|config| config.notify = crm).await;
        let (relay, worker) = (installation.relay(), installation.worker(&[]));
        Self { installation, ingress, address, workflow: habits.workflow, relay, _worker: worker }
    }

    /// A request to the ingress.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.installation.http.request(method, format!("http://{}{path}", self.address))
    }

    /// A request of a service of ours, with a body.
    pub(super) async fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = self.request(method, path).bearer_auth(SERVICE);
        let request = if body.is_null() { request } else { request.json(body) };
        said(request.send().await.unwrap()).await
    }

    /// A user of the directory, as a service sees it.
    pub(super) async fn user(&self, id: &str) -> Value {
        let (status, user) = self.ask(Method::GET, &format!("/api/users?id={id}"), &Value::Null).await;
        assert_eq!(status, 200, "{id}: {user}");
        user
    }

    /// Registers a user at our own service.
    pub(super) async fn register(&self, id: &str, name: &str) {
        let user =
            json!({"id": id, "email": format!("{id}@example.com"), "displayName": name, "firstName": name});
        let (status, answer) = self.ask(Method::POST, "/api/users", &user).await;
        assert_eq!(status, 201, "{id}: {answer}");
    }

    /// A webhook of Clerk's.
    pub(super) async fn clerk(&self, message: &str, body: &Value) -> (u16, Value) {
        let request = self.signed("svix", CLERK, "/api/webhooks/clerk", (message, now(), &body.to_string()));
        said(request.send().await.unwrap()).await
    }

    /// A webhook of the backend's, signed as asked.
    pub(super) fn backend_webhook(&self, secret: Option<&str>, at: i64, body: &Value) -> RequestBuilder {
        let message = ("msg_1", at, &*body.to_string());
        self.signed("webhook", secret.unwrap_or(BACKEND), "/api/webhooks/backend-sync", message)
    }

    fn signed(
        &self,
        prefix: &str,
        secret: &str,
        path: &str,
        (id, at, body): (&str, i64, &str),
    ) -> RequestBuilder {
        let signature = sign(&[SigningKey::parse(secret).unwrap()], id, at, body.as_bytes());
        self.request(Method::POST, path)
            .header("content-type", "application/json")
            .header(format!("{prefix}-id"), id)
            .header(format!("{prefix}-timestamp"), at)
            .header(format!("{prefix}-signature"), signature)
            .body(body.to_owned())
    }

    /// Somebody works in the backend's own administration.
    pub(super) async fn in_backend(&self, method: Method, path: &str, body: &Value) {
        let url = format!("{}/admin/users/{TENANT}/{path}", self.installation.backend.base_url());
        let request = self.installation.http.request(method, url).header("x-internal-api-key", API_KEY);
        let request = if body.is_null() { request } else { request.json(body) };
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 204, "{path}");
    }

    /// Waits until nothing is on its way any more: no change to a target, no webhook back.
    pub(super) async fn until_at_rest(&self) {
        let mut targets = vec!["backend", "crm"];
        if self.workflow {
            targets.push("workflow");
        }
        let mut seen = -1;
        eventually("all is at rest", SOON * 3, async || {
            self.installation.until_settled(&targets).await;
            let waiting = "select count(*) from receiver.notifications where sent_at is null";
            let at_rest = self.number(waiting).await == 0;
            // A webhook that was taken while the targets were looked at may have changed something.
            let versions =
                self.number("select coalesce(sum(version), 0)::bigint from postbound.user_head").await;
            let unchanged = std::mem::replace(&mut seen, versions) == versions;
            (at_rest && unchanged).then_some(())
        })
        .await;
    }

    /// One number of the database.
    pub(super) async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(self.installation.database.superuser())
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Users in requests of a contract, those refused included.
    pub(super) async fn requests(&self, contract: &str) -> i64 {
        self.number(&format!("select count(*) from receiver.request_log where contract = '{contract}'")).await
    }

    /// Waits until a query gives one.
    pub(super) async fn until_one(&self, what: &str, query: &str) {
        eventually(what, SOON, async || (self.number(query).await == 1).then_some(())).await;
    }
}

fn options(settings: &[(&str, &str)]) -> Options {
    let options = Options::default()
        .with("ingress.listen", "127.0.0.1:0")
        .with("ingress.sources.clerk.kind", "clerk")
        .with("ingress.sources.clerk.signing_secrets", CLERK)
        .with("ingress.sources.backend.kind", "backend-sync")
        .with("ingress.sources.backend.signing_secrets", BACKEND)
        .with("ingress.sources.crm.kind", "backend-sync")
        .with("ingress.sources.crm.path", "/api/webhooks/crm")
        .with("ingress.sources.crm.signing_secrets", CRM)
        .with("ingress.tokens.app.token", SERVICE)
        .with("ingress.tokens.app.scopes", "directory,status");
    settings.iter().fold(options, |options, (key, value)| options.with(key, value))
}

pub(super) async fn said(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

pub(super) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Clerk's `user.created` or `user.updated`, as of a time of its own in milliseconds.
pub(super) fn clerk_user(event: &str, id: &str, first_name: &str, updated_at: i64) -> Value {
    json!({
        "type": event, "object": "event", "timestamp": updated_at,
        "data": {
            "id": id, "first_name": first_name, "last_name": "Lovelace", "image_url": "https://img.example/a.png",
            "email_addresses": [{"id": "idn_1", "email_address": format!("{id}@example.com")}],
            "primary_email_address_id": "idn_1", "created_at": 1_700_000_000_000_i64, "updated_at": updated_at
        }
    })
}

/// Clerk's `user.deleted`.
pub(super) fn clerk_delete(id: &str) -> Value {
    json!({"type": "user.deleted", "object": "event", "data": {"id": id, "object": "user", "deleted": true}})
}
