//! Connections that fail, answers that end early, never, or far too late.

use super::{assert_all, serve};
use crate::adapters::{ADAPTERS, Adapter, Success};
use crate::server::{Server, answer, drip, dripping_head, endless, half, mute, raw, stuck};
use crate::states::{brief, deliver, tenant, updated};
use axum::response::Response;
use postbound_target::{Outcome, Target, TargetSettings};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;

/// The timeout of requests that shall meet it.
const SHORT: Duration = Duration::from_millis(500);
/// The timeout of requests that shall not, on a busy machine either.
const LONG: Duration = Duration::from_secs(30);
/// A busy machine may be late by so much.
const SLACK: Duration = Duration::from_secs(5);

/// What becomes of deliveries to this URL, which ends in `hidden`.
async fn check_url(adapter: &Adapter, timeout: Duration, url: &str, expected: &str, bisect: bool) {
    let settings =
        TargetSettings { timeout, connect_timeout: timeout / 2, ..adapter.signed(&format!("{url}?hidden")) };
    for states in adapter.crowds() {
        let started = Instant::now();
        let outcomes = deliver(settings.clone(), &states).await;
        let took = started.elapsed();
        assert!(took < SHORT + SLACK, "{}: {took:?}", adapter.name);
        assert_all(adapter, &outcomes, expected, bisect, url);
        if let Outcome::Failed(failure) = &outcomes[0] {
            assert!(failure.detail.chars().count() <= 300, "{}", failure.detail);
            assert!(!failure.detail.contains("hidden"), "{} repeats the url", failure.detail);
        }
    }
}

/// What becomes of deliveries that are answered so: where the status decides, and where results do.
async fn check(
    timeout: Duration,
    reply: impl Fn() -> Response + Clone + Send + Sync + 'static,
    by_status: &str,
    by_results: &str,
    bisect: bool,
) {
    let server = serve(reply).await;
    for adapter in ADAPTERS {
        let expected = match adapter.success {
            Success::Status | Success::StatusWithIds => by_status,
            Success::Results => by_results,
        };
        check_url(adapter, timeout, &format!("http://{}/", server.address), expected, bisect).await;
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_is_no_users_fault() {
    // Bound, so that nobody else gets the port, and not listening.
    let deaf = TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = format!("http://{}/", deaf.local_addr().unwrap());
    // A label of 64 characters is no name, whatever resolver is asked.
    let nowhere = format!("http://{}.invalid/", "n".repeat(64));
    let plain = format!("https://{}/", serve(|| answer(200, &[], "")).await.address);
    let mute = format!("https://{}/", mute().await);
    for adapter in ADAPTERS {
        check_url(adapter, LONG, &refused, "whole_target connection_refused", false).await;
        check_url(adapter, LONG, &nowhere, "whole_target dns", false).await;
        check_url(adapter, LONG, &plain, "whole_target tls", false).await;
        check_url(adapter, SHORT, &mute, "whole_target connect_timeout", false).await;
    }
}

#[tokio::test]
async fn a_request_without_an_answer_has_an_unknown_outcome() {
    for adapter in ADAPTERS {
        check_url(adapter, SHORT, &format!("http://{}/", mute().await), "unknown timeout", false).await;
        // Cut before, within, and instead of an answer.
        for bytes in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\xff\x01"] {
            check_url(adapter, LONG, &format!("http://{}/", raw(bytes).await), "unknown no_answer", false)
                .await;
        }
    }
}

#[tokio::test]
async fn half_an_answer_counts_only_as_far_as_it_is_needed() {
    check(LONG, || half(200, r#"{"success":tr"#), "delivered", "unknown answer_cut", false).await;
    check(SHORT, || stuck(200, r#"{"success":tr"#), "delivered", "unknown timeout", false).await;
    check(LONG, || half(422, "{"), "permanent http_422", "permanent http_422", true).await;
    check(SHORT, || stuck(422, "{"), "permanent http_422", "permanent http_422", true).await;
    check(
        LONG,
        || half(409, r#"{"code":"stale_version""#),
        "transient http_409",
        "transient http_409",
        false,
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_drips_ends_at_the_timeout() {
    check(SHORT, || drip(200), "delivered", "unknown timeout", false).await;
    check(SHORT, || drip(500), "transient http_500", "transient http_500", true).await;
    check(SHORT, || drip(429), "whole_target http_429", "whole_target http_429", false).await;
    for adapter in ADAPTERS {
        check_url(adapter, SHORT, &format!("http://{}/", dripping_head().await), "unknown timeout", false)
            .await;
    }
}

#[tokio::test]
async fn an_answer_beyond_the_cap_is_not_read() {
    const BYTES: usize = 10 << 20;
    let told = || answer(200, &[], vec![b' '; BYTES]);
    check(LONG, told, "delivered", "transient response_too_large", false).await;
    check(LONG, || endless(200, BYTES), "delivered", "transient response_too_large", false).await;
    check(LONG, || endless(400, BYTES), "permanent http_400", "permanent http_400", true).await;
    check(LONG, || endless(500, BYTES), "transient http_500", "transient http_500", true).await;
    // Beyond 10 MB, there is no end at all.
    check(LONG, || endless(200, usize::MAX), "delivered", "transient response_too_large", false).await;
}

#[tokio::test]
async fn a_success_that_needs_no_body_does_not_wait_for_it() {
    for adapter in ADAPTERS.iter().filter(|adapter| adapter.success == Success::Status) {
        let server = serve(|| stuck(200, "{")).await;
        let patient = TargetSettings { timeout: Duration::from_secs(60), ..adapter.settings(&server.url()) };
        let started = Instant::now();
        let outcomes = deliver(patient, &[updated("a", 1)]).await;
        assert_eq!(brief(&outcomes[0]), "delivered");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn connections_are_used_again_after_success_and_refusal() {
    for adapter in ADAPTERS {
        let good = adapter.good;
        let server = Server::start(move |request| {
            let status = if request.header("postbound-user-version") == Some("2") { 422 } else { 200 };
            answer(status, &[], good(&request.body))
        })
        .await;
        let target = Target::new(adapter.settings(&server.url())).unwrap();
        for version in 1..=4 {
            target.deliver(&[updated("a", version)], &tenant()).await;
        }
        let received = server.received();
        assert_eq!(received.len(), 4);
        assert!(received.iter().all(|request| request.peer == received[0].peer), "{}", adapter.name);
    }
}

#[tokio::test]
async fn a_probe_changes_nothing_and_tells_what_is_wrong() {
    for adapter in ADAPTERS {
        let server = serve(|| answer(404, &[], "")).await;
        Target::new(adapter.signed(&server.url())).unwrap().probe().await.unwrap();
        let request = server.last();
        assert_eq!((request.method.as_str(), request.body.as_str()), ("OPTIONS", ""));
        assert_eq!(request.header("x-internal-api-key"), None, "{}", adapter.name);
        let gateway = serve(|| answer(502, &[], "")).await;
        let error = Target::new(adapter.settings(&gateway.url())).unwrap().probe().await.unwrap_err();
        assert_eq!(error, "http_502: a gateway answers, but not the target");
        let nobody = adapter.settings("http://127.0.0.1:1/");
        let error = Target::new(nobody).unwrap().probe().await.unwrap_err();
        assert!(error.starts_with("connection_refused: "), "{error}");
    }
}
