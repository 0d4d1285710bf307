//! The HTTP API of RabbitMQ's management plugin.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::RabbitMq;

/// Sends a request; a missing thing is an answer, any other refusal an error.
pub(crate) async fn request(
    rabbitmq: &RabbitMq,
    method: Method,
    path: &[&str],
    body: Option<&Value>,
) -> Result<(StatusCode, String)> {
    let path: Vec<String> = path.iter().map(|segment| encoded(segment)).collect();
    let url = format!("{}/api/{}", rabbitmq.management_url(), path.join("/"));
    let mut request =
        client()?.request(method.clone(), &url).basic_auth(&rabbitmq.user, Some(&rabbitmq.password));
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.with_context(|| format!("{method} {url}"))?;
    let status = response.status();
    Ok((status, response.text().await?))
}

/// Sends a request that has to succeed.
pub(crate) async fn demand(
    rabbitmq: &RabbitMq,
    method: Method,
    path: &[&str],
    body: Option<&Value>,
) -> Result<String> {
    let (status, text) = request(rabbitmq, method.clone(), path, body).await?;
    if !status.is_success() {
        bail!("RabbitMQ answers {status} to {method} {}: {text}", path.join("/"));
    }
    Ok(text)
}

/// Deletes something that may be gone already.
pub(crate) async fn delete(rabbitmq: &RabbitMq, path: &[&str]) -> Result<()> {
    let (status, text) = request(rabbitmq, Method::DELETE, path, None).await?;
    if !status.is_success() && status != StatusCode::NOT_FOUND {
        bail!("RabbitMQ answers {status} to DELETE {}: {text}", path.join("/"));
    }
    Ok(())
}

/// The `name` of each thing in a list.
pub(crate) async fn names(rabbitmq: &RabbitMq, path: &[&str]) -> Result<Vec<String>> {
    let list: Vec<Value> = serde_json::from_str(&demand(rabbitmq, Method::GET, path, None).await?)?;
    Ok(list.iter().filter_map(|thing| thing["name"].as_str().map(str::to_owned)).collect())
}

/// Escapes a path segment; the default virtual host is named `/`.
pub(crate) fn encoded(segment: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    segment.bytes().map(escape).collect()
}

fn client() -> Result<&'static Client> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    // Another part of the process may have installed one first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(60))
        // Every test has a runtime of its own: a pooled connection would outlive the one that drives it.
        .pool_max_idle_per_host(0)
        .build()?;
    Ok(CLIENT.get_or_init(|| client))
}
