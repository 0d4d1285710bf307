//! Sends one request and reads its answer, both within limits; says what broke when there is no answer.

use crate::address::{AddressPolicy, AddressRefused};
use crate::disposition::Fault;
use crate::headers::Unsendable;
use crate::redaction::shorten;
use crate::retry_after;
use crate::settings::{TargetError, TargetSettings};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, Response, Url};
use std::error::Error as _;
use std::io;
use std::path::Path;
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
    addresses: AddressPolicy,
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
        } else {
            builder = with_tls_files(builder, settings)?;
        }
        if let Some(resolver) = settings.addresses.resolver() {
            builder = builder.dns_resolver(resolver);
        }
        let client = builder
            .build()
            .map_err(|error| TargetError::Client { target: settings.name.clone(), reason: chain(&error) })?;
        let addresses = settings.addresses.clone();
        Ok(Self { client, url, addresses, response_bytes_max: settings.response_bytes_max })
    }

    /// Posts the body and reads the answer. `is_final` says of a status that nothing of the body is needed.
    pub(crate) async fn post(
        &self,
        headers: HeaderMap,
        body: Vec<u8>,
        now: OffsetDateTime,
        is_final: impl Fn(u16) -> bool,
    ) -> Result<Answer, Unsendable> {
        self.check_address()?;
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
        self.check_address()?;
        let request = self.client.request(Method::OPTIONS, self.url.clone());
        let response = request.send().await.map_err(|error| (fault(&error), chain(&error)))?;
        Ok(response.status().as_u16())
    }

    /// No resolver is asked for a host that is an address.
    fn check_address(&self) -> Result<(), Unsendable> {
        self.addresses.check_url(&self.url).map_err(|refused| (Fault::AddressRefused, refused.to_string()))
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

fn with_tls_files(
    mut builder: ClientBuilder,
    settings: &TargetSettings,
) -> Result<ClientBuilder, TargetError> {
    let refused = |what, reason: String| TargetError::Tls { target: settings.name.clone(), what, reason };
    let read = |what, path: &Path| {
        std::fs::read(path).map_err(|error| refused(what, format!("{}: {error}", path.display())))
    };
    if let Some(path) = &settings.tls.ca {
        const WHAT: &str = "ca_file";
        let authorities = Certificate::from_pem_bundle(&read(WHAT, path)?)
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .ok_or_else(|| refused(WHAT, format!("{} holds no certificate in PEM", path.display())))?;
        builder = builder.tls_certs_only(authorities);
    }
    if let Some((certificate, key)) = &settings.tls.client {
        let mut pem = read("client_cert_file", certificate)?;
        pem.push(b'\n');
        pem.extend(read("client_key_file", key)?);
        let identity = Identity::from_pem(&pem).map_err(|_| {
            let files = format!("{} and {}", certificate.display(), key.display());
            refused("client_cert_file", format!("{files} are no certificate and its key in PEM"))
        })?;
        builder = builder.identity(identity);
    }
    Ok(builder)
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
    if is_refused_address(error) {
        return Fault::AddressRefused;
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

fn is_refused_address(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<AddressRefused>() {
            return true;
        }
        source = cause.source();
    }
    false
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
