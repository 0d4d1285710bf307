//! The flows of the contracts, told by the life of one user: she registers, registers while the backend is down, changes,
//! is changed in the backend and deleted there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

/// Her tenant: the only one whose registrations trigger the workflow.
pub(crate) const TENANT: &str = "flows";

/// Where her systems are.
#[derive(Clone)]
pub(crate) struct Systems {
    pub(crate) ingress: SocketAddr,
    pub(crate) backend: SocketAddr,
    /// What services present to both.
    pub(crate) key: String,
}

/// Plays flows 1 to 4, and tells what came of each step.
///
/// # Errors
/// When a step fails, or its effect is not there in time.
pub(crate) async fn play(systems: &Systems, pool: &PgPool) -> Result<()> {
    let http = Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(10)).build()?;
    let play = Play { systems, pool, http };
    play.registers().await?;
    play.registers_while_the_backend_is_down().await?;
    play.changes().await?;
    play.is_changed_in_the_backend().await
}

struct Play<'a> {
    systems: &'a Systems,
    pool: &'a PgPool,
    http: Client,
}

impl Play<'_> {
    async fn registers(&self) -> Result<()> {
        println!("\nflow 1: ada registers");
        self.register("ada", "Ada Lovelace").await?;
        self.shows(
            "the directory",
            "select email || ', theme ' || theme from directory.users where id = 'ada'",
        )
        .await?;
        self.shows("the backend", &backend("ada", "version = 1")).await?;
        self.shows("the CRM", &crm("ada", "version = 1")).await?;
        for system in ["frontendUserId", "crmContactId"] {
            let linked = format!(
                "select external_id from postbound.identity_link
                 where target = 'workflow' and user_id = 'ada' and system = '{system}'"
            );
            self.shows(&format!("{system}, linked"), &linked).await?;
        }
        Ok(())
    }

    async fn registers_while_the_backend_is_down(&self) -> Result<()> {
        println!("\nflow 2: the backend is down, and grace registers");
        let faults = format!("http://{}/_faults", self.systems.backend);
        let down = json!([{"contract": "s2", "respond": {"status": 503, "headers": {"Retry-After": "2"}}}]);
        self.call(Method::PUT, &faults, &down).await?;
        let started = Instant::now();
        self.register("grace", "Grace Hopper").await?;
        println!("  {:<24} after {} ms", "registered", started.elapsed().as_millis());
        self.shows("the CRM", &crm("grace", "version = 1")).await?;
        let sync = format!("http://{}/v1/users/{TENANT}/grace/sync", self.systems.ingress);
        println!("  {:<24} {}", "her sync", self.call(Method::GET, &sync, &Value::Null).await?["state"]);
        self.call(Method::DELETE, &faults, &Value::Null).await?;
        println!("  the backend is back");
        self.shows("the backend", &backend("grace", "version = 1")).await
    }

    async fn changes(&self) -> Result<()> {
        println!("\nflow 3: ada changes her name, and grace leaves");
        let users = format!("http://{}/api/users", self.systems.ingress);
        self.call(Method::PUT, &users, &json!({"id": "ada", "displayName": "Ada King", "theme": "dark"}))
            .await?;
        self.call(Method::DELETE, &format!("{users}?id=grace&reason=asked"), &Value::Null).await?;
        self.shows("the backend", &backend("ada", "display_name = 'Ada King'")).await?;
        self.shows("the CRM", &crm("ada", "name = 'Ada King'")).await?;
        self.shows("the backend, softly", &backend("grace", "deleted_at is not null")).await?;
        self.shows("the CRM, softly", &crm("grace", "deleted_at is not null")).await
    }

    async fn is_changed_in_the_backend(&self) -> Result<()> {
        println!("\nflow 4: the backend changes ada, then deletes her; a signed webhook tells us");
        let admin = format!("http://{}/admin/users/{TENANT}/ada", self.systems.backend);
        let sessions = format!("http://{}/api/sessions", self.systems.ingress);
        self.call(Method::POST, &sessions, &json!({"userId": "ada", "sessionId": "sess_ada"})).await?;
        self.call(Method::PUT, &admin, &json!({"displayName": "Countess of Lovelace"})).await?;
        self.shows(
            "the directory",
            "select state ->> 'displayName' || ', theme ' || theme from directory.users
             where id = 'ada' and state ->> 'displayName' like 'Countess%'",
        )
        .await?;
        self.shows("the CRM", &crm("ada", "name like 'Countess%'")).await?;
        self.call(Method::DELETE, &format!("{admin}?reason=left"), &Value::Null).await?;
        self.shows(
            "the directory, softly",
            "select 'reason: ' || delete_reason from directory.users where id = 'ada' and deleted_at is not null",
        )
        .await?;
        self.shows(
            "her session",
            "select 'ended: ' || end_reason from directory.sessions where session_id = 'sess_ada' and ended_at is not null",
        )
        .await?;
        self.shows("the CRM, softly", &crm("ada", "deleted_at is not null")).await?;
        let login = self.send(Method::POST, &sessions, &json!({"userId": "ada"})).await?;
        ensure!(login.0 == 403, "a deleted user may sign in: {login:?}");
        println!("  {:<24} {}", "her next login", login.1["detail"]);
        Ok(())
    }

    async fn register(&self, id: &str, name: &str) -> Result<()> {
        let (first, last) = name.split_once(' ').unwrap_or((name, ""));
        let user = json!({
            "id": id, "email": format!("{id}@example.com"), "displayName": name, "firstName": first, "lastName": last
        });
        self.call(Method::POST, &format!("http://{}/api/users", self.systems.ingress), &user).await?;
        Ok(())
    }

    /// A request that has to succeed.
    async fn call(&self, method: Method, url: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.send(method.clone(), url, body).await?;
        ensure!((200..300).contains(&status), "{method} {url} is answered {status}: {answer}");
        Ok(answer)
    }

    async fn send(&self, method: Method, url: &str, body: &Value) -> Result<(u16, Value)> {
        let key = &self.systems.key;
        let request = self.http.request(method, url).bearer_auth(key);
        let request = if body.is_null() { request } else { request.json(body) };
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    }

    /// Waits until the query gives a text, and tells it.
    async fn shows(&self, what: &str, query: &str) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let started = Instant::now();
        loop {
            // Made of this file's words alone.
            let shown: Option<Option<String>> =
                sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_optional(self.pool).await?;
            if let Some(Some(shown)) = shown {
                println!("  {what:<24} {shown}");
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                bail!("not there after {} s: {what}", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn backend(user: &str, holds: &str) -> String {
    format!(
        "select concat_ws(', ', display_name, 'version ' || version, case when deleted_at is not null then 'deleted' end)
         from receiver.backend_users where tenant_id = '{TENANT}' and user_id = '{user}' and {holds}"
    )
}

fn crm(user: &str, holds: &str) -> String {
    format!(
        "select concat_ws(', ', name, 'version ' || version, crm_user_id, case when deleted_at is not null then 'deleted' end)
         from receiver.crm_users where tenant_id = '{TENANT}' and user_id = '{user}' and {holds}"
    )
}
