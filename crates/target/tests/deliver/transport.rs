use crate::server::{Server, answer, endless, half, mute, raw, stuck};
use crate::states::{arc, backend, brief, crm, deliver, settings, signed, updated};
use axum::response::Response;
use postbound_target::{AdapterSettings, Outcome, SecretFn, SecretsFn, Target, TargetError, TargetSettings};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// What becomes of one user's delivery to this URL.
async fn check_url(url: &str, adapter: AdapterSettings, expected: &str) {
    let quick = TargetSettings { timeout: Duration::from_millis(600), ..settings(url, adapter) };
    let quick = TargetSettings { connect_timeout: Duration::from_millis(300), ..quick };
    let outcome = deliver(quick, &[updated("u1", 1)]).await.remove(0);
    assert_eq!(brief(&outcome), expected, "{url}");
    if let Outcome::Failed(failure) = outcome {
        assert!(failure.detail.chars().count() <= 300, "{}", failure.detail);
        assert!(!failure.detail.contains("hidden"), "{} repeats the url", failure.detail);
    }
}

async fn check(reply: impl Fn() -> Response + Clone + Send + Sync + 'static, s2: &str, s3: &str) {
    let server = Server::start(move |_| reply()).await;
    check_url(&server.url(), backend(), s2).await;
    check_url(&server.url(), crm(), s3).await;
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_is_no_users_fault() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    check_url(&format!("http://{address}/?hidden"), backend(), "whole_target connection_refused").await;
    // A label of 64 characters is no name, whatever resolver is asked.
    check_url(&format!("http://{}.invalid/?hidden", "n".repeat(64)), backend(), "whole_target dns").await;
    let plain = Server::start(|_| answer(200, &[], "")).await.address;
    check_url(&format!("https://{plain}/?hidden"), backend(), "whole_target tls").await;
    check_url(&format!("https://{}/?hidden", mute().await), backend(), "whole_target connect_timeout").await;
}

#[tokio::test]
async fn a_request_without_an_answer_has_an_unknown_outcome() {
    check_url(&format!("http://{}/?hidden", mute().await), backend(), "unknown timeout").await;
    for bytes in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-OpenSSH_9.2\r\n"] {
        check_url(&format!("http://{}/?hidden", raw(bytes).await), backend(), "unknown no_answer").await;
    }
}

#[tokio::test]
async fn a_status_counts_where_the_body_is_not_needed_and_not_where_it_is() {
    check(|| half(200, r#"{"success":tr"#), "delivered", "unknown answer_cut").await;
    check(|| stuck(200, r#"{"success":tr"#), "delivered", "unknown timeout").await;
    check(|| half(422, "{"), "permanent http_422", "permanent http_422").await;
    check(|| stuck(422, "{"), "permanent http_422", "permanent http_422").await;
}

#[tokio::test]
async fn an_answer_beyond_the_cap_is_not_read() {
    const BYTES: usize = 10 << 20;
    check(|| endless(200, BYTES), "delivered", "transient response_too_large").await;
    check(|| answer(200, &[], vec![b' '; BYTES]), "delivered", "transient response_too_large").await;
    check(|| endless(400, BYTES), "permanent http_400", "permanent http_400").await;
}

#[tokio::test]
async fn a_success_with_a_dripping_body_does_not_hold_up_the_lane() {
    let server = Server::start(|_| stuck(200, "{")).await;
    let patient = TargetSettings { timeout: Duration::from_secs(60), ..settings(&server.url(), backend()) };
    let start = Instant::now();
    let outcomes = deliver(patient, &[updated("u1", 1)]).await;
    assert_eq!(brief(&outcomes[0]), "delivered");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn connections_are_used_again_after_success_and_refusal() {
    let server = Server::start(|request| {
        let status = if request.header("postbound-user-version") == Some("2") { 422 } else { 200 };
        answer(status, &[], r#"{"success":true,"padding":"................"}"#)
    })
    .await;
    let target = Target::new(settings(&server.url(), backend())).unwrap();
    for version in 1..=4 {
        target.deliver(&[updated("u1", version)], &crate::states::tenant()).await;
    }
    let received = server.received();
    assert_eq!(received.len(), 4);
    assert!(received.iter().all(|request| request.peer == received[0].peer), "{received:?}");
}

#[tokio::test]
async fn a_delivery_can_be_spawned() {
    let server = Server::start(|_| answer(200, &[], "")).await;
    let target = Target::new(settings(&server.url(), backend())).unwrap();
    let task = async move { target.deliver(&[updated("u1", 1)], &crate::states::tenant()).await };
    assert_eq!(brief(&tokio::spawn(task).await.unwrap()[0]), "delivered");
}

#[tokio::test]
async fn secrets_are_asked_for_anew_and_nothing_is_sent_without_them() {
    let server = Server::start(|_| answer(200, &[], "")).await;
    let answers = Mutex::new(vec![
        Ok(None),
        Err("the file is gone".to_owned()),
        Ok(Some(arc("second"))),
        Ok(Some(arc("first"))),
    ]);
    let api_key = SecretFn::new(move || answers.lock().unwrap().pop().unwrap());
    let target = Target::new(TargetSettings { api_key, ..settings(&server.url(), backend()) }).unwrap();
    let mut outcomes = Vec::new();
    for version in 1..=4 {
        outcomes.extend(target.deliver(&[updated("u1", version)], &crate::states::tenant()).await);
    }
    let unavailable = "whole_target secret_unavailable";
    assert_eq!(
        outcomes.iter().map(brief).collect::<Vec<_>>(),
        ["delivered", "delivered", unavailable, "delivered"]
    );
    let keys: Vec<_> =
        server.received().iter().map(|r| r.header("x-internal-api-key").map(str::to_owned)).collect();
    assert_eq!(keys, [Some("first".to_owned()), Some("second".to_owned()), None]);
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_sends_nothing() {
    let server = Server::start(|_| answer(200, &[], "")).await;
    let base = settings(&server.url(), backend());
    let broken = [
        TargetSettings { signing_secrets: SecretsFn::fixed(["not-a-secret"]), ..base.clone() },
        TargetSettings { bearer_token: SecretFn::fixed("line\nbreak"), ..base },
    ];
    for settings in broken {
        let outcomes = deliver(settings, &[updated("u1", 1)]).await;
        assert_eq!(brief(&outcomes[0]), "whole_target secret_unavailable");
    }
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_without_repeating_them() {
    let check = |settings: TargetSettings, expected: &str| {
        let error: TargetError = Target::new(settings).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    for url in ["", "/path", "ftp://hidden@host", "http://", "mailto:hidden"] {
        check(settings(url, backend()), "the url of target the-target is not an absolute http or https url");
    }
    for (name, value) in [("bad name", "hidden"), ("X-Good", "hid\nden")] {
        let headers = vec![(name.to_owned(), value.to_owned())];
        let refused = TargetSettings { headers, ..settings("http://host", backend()) };
        check(refused, &format!("header {name:?} of target the-target cannot be sent"));
    }
    let shown = format!(
        "{:?}",
        Target::new(signed("http://host/?hidden", backend()))
            .unwrap()
            .deliver(&[], &crate::states::tenant())
            .await
    );
    assert_eq!(shown, "[]");
    let shown = format!("{:?}", signed("http://host/?hidden", backend()));
    for secret in ["hidden", "the-api-key", "the-token", "whsec", "extra-value"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn a_probe_changes_nothing_and_tells_what_is_wrong() {
    let server = Server::start(|_| answer(404, &[], "")).await;
    Target::new(signed(&server.url(), backend())).unwrap().probe().await.unwrap();
    let request = server.last();
    assert_eq!((request.method.as_str(), request.body.as_str()), ("OPTIONS", ""));
    assert_eq!(request.header("x-internal-api-key"), None);
    let gateway = Server::start(|_| answer(502, &[], "")).await;
    let error = Target::new(settings(&gateway.url(), backend())).unwrap().probe().await.unwrap_err();
    assert_eq!(error, "http_502: a gateway answers, but not the target");
    let error = Target::new(settings("http://127.0.0.1:1/", crm())).unwrap().probe().await.unwrap_err();
    assert!(error.starts_with("connection_refused: "), "{error}");
}
