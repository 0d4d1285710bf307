//! Sends one request and reads its answer, both within limits; says what broke when there is no answer.

use crate::disposition::Fault;
use crate::headers::Unsendable;
use crate::redaction::shorten;
use crate::retry_after;
use crate::settings::{TargetError, TargetSettings};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Response, Url};
use std::error::Error as _;
use std::io;
use std::time::Duration;
use time::OffsetDateTime;

/// Idle connections are given up before common servers do (Node's close after 5 s): a request that meets a closing
/// connection has an unknown outcome.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long an answer nobody needs is read, so that its connection can be used again.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(100);

/// One target's connections.
#[derive(Debug)]
pub(crate) struct HttpClient {
    client: Client,
    url: Url,
    response_bytes_max: usize,
}

/// An answer, as far as it matters here.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    /// Host a redirect points to.
    pub(crate) location_host: Option<String>,
    pub(crate) is_plain_text: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) end: BodyEnd,
}

/// How reading a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    Whole,
    TooLarge,
    Timeout,
    Cut,
}

impl HttpClient {
    /// Builds the client; nothing is connected yet.
    pub(crate) fn new(settings: &TargetSettings) -> Result<Self, TargetError> {
        let refused = || TargetError::Url { target: settings.name.clone() };
        let url = Url::parse(&settings.url).map_err(|_| refused())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(refused());
        }
        // Fails when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .timeout(settings.timeout)
            .connect_timeout(settings.connect_timeout)
            .pool_max_idle_per_host(settings.concurrency)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .user_agent(settings.user_agent.as_str());
        if url.scheme() == "http" {
            // No TLS will happen: do not load, or miss, the system's root certificates.
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .build()
            .map_err(|error| TargetError::Client { target: settings.name.clone(), reason: chain(&error) })?;
        Ok(Self { client, url, response_bytes_max: settings.response_bytes_max })
    }

    /// Posts the body and reads the answer. `is_final` says of a status that nothing of the body is needed.
    pub(crate) async fn post(
        &self,
        headers: HeaderMap,
        body: Vec<u8>,
        now: OffsetDateTime,
        is_final: impl Fn(u16) -> bool,
    ) -> Result<Answer, Unsendable> {
        let request = self.client.request(Method::POST, self.url.clone()).headers(headers).body(body);
        let mut response = request.send().await.map_err(|error| (fault(&error), chain(&error)))?;
        let mut answer = self.head(&response, now);
        if is_final(answer.status) {
            let drained = self.read(&mut response, &mut answer.body);
            let _ = tokio::time::timeout(DRAIN_TIME_MAX, drained).await;
        } else {
            answer.end = self.read(&mut response, &mut answer.body).await;
        }
        Ok(answer)
    }

    /// Asks the endpoint for its options, which changes nothing, and gives the status of its answer.
    pub(crate) async fn options(&self) -> Result<u16, Unsendable> {
        let request = self.client.request(Method::OPTIONS, self.url.clone());
        let response = request.send().await.map_err(|error| (fault(&error), chain(&error)))?;
        Ok(response.status().as_u16())
    }

    fn head(&self, response: &Response, now: OffsetDateTime) -> Answer {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let location = text(LOCATION).and_then(|location| self.url.join(location).ok());
        Answer {
            status: response.status().as_u16(),
            retry_after: text(RETRY_AFTER).and_then(|value| retry_after::parse(value, now)),
            location_host: location.and_then(|url| url.host_str().map(str::to_owned)),
            is_plain_text: text(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/plain")),
            body: Vec::new(),
            end: BodyEnd::Whole,
        }
    }

    async fn read(&self, response: &mut Response, body: &mut Vec<u8>) -> BodyEnd {
        let declared =
            response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if declared.is_some_and(|bytes: usize| bytes > self.response_bytes_max) {
            return BodyEnd::TooLarge;
        }
        body.reserve_exact(declared.unwrap_or(0));
        loop {
            match response.chunk().await {
                Ok(None) => return BodyEnd::Whole,
                Ok(Some(chunk)) if body.len() + chunk.len() > self.response_bytes_max => {
                    return BodyEnd::TooLarge;
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(error) if error.is_timeout() => return BodyEnd::Timeout,
                Err(_) => return BodyEnd::Cut,
            }
        }
    }
}

/// Where on the way a request without an answer was lost.
fn fault(error: &reqwest::Error) -> Fault {
    if error.is_builder() {
        return Fault::RequestInvalid;
    }
    if !error.is_connect() {
        // Past the connection, whatever broke broke after something may have been sent.
        return if error.is_timeout() { Fault::Timeout } else { Fault::NoAnswer };
    }
    if error.is_timeout() {
        return Fault::ConnectTimeout;
    }
    if error.is_dns() {
        return Fault::Dns;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            if io.kind() == io::ErrorKind::ConnectionRefused {
                return Fault::ConnectionRefused;
            }
            if is_tls(io) {
                return Fault::Tls;
            }
        }
        source = cause.source();
    }
    Fault::ConnectFailed
}

/// Whether the error wraps one of TLS. `io::Error` leaves what it wraps out of the chain of sources, at each level.
fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        inner.is::<rustls::Error>() || inner.downcast_ref::<io::Error>().is_some_and(is_tls)
    })
}

/// The causes of an error without the URL, which may hold credentials.
fn chain(error: &reqwest::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let word = cause.to_string();
        if words.last() != Some(&word) {
            words.push(word);
        }
        source = cause.source();
    }
    shorten(&words.join(": "))
}
