//! What an answer says: dispositions of statuses, `Retry-After`, versions that are held.

use super::{assert_all, only_request, serve};
use crate::adapters::{ADAPTERS, Success};
use crate::server::{Server, answer};
use crate::states::{brief, deliver, detail, updated};
use axum::response::Response;

/// A status of each class and special case: what it means to one user, and whether several are bisected.
/// `disposition.rs` pins every single one.
const REFUSALS: &[(u16, &str, bool)] = &[
    (300, "whole_target redirect", false),
    (400, "permanent http_400", true),
    (401, "whole_target http_401", false),
    (403, "whole_target http_403", false),
    (404, "whole_target http_404", false),
    (405, "whole_target http_405", false),
    (408, "transient http_408", false),
    (409, "transient http_409", false),
    (410, "whole_target http_410", false),
    (412, "permanent http_412", true),
    (413, "permanent http_413", true),
    (415, "whole_target http_415", false),
    (422, "permanent http_422", true),
    (425, "transient http_425", false),
    (429, "whole_target http_429", false),
    (499, "permanent http_4xx", true),
    (500, "transient http_500", true),
    (501, "whole_target http_501", false),
    (502, "unknown http_502", false),
    (503, "transient http_503", false),
    (504, "unknown http_504", false),
    (520, "unknown http_520", false),
    (599, "transient http_5xx", false),
];

#[tokio::test]
async fn a_refusal_means_what_its_status_says_whatever_its_body() {
    for adapter in ADAPTERS {
        for &(status, expected, bisect) in REFUSALS {
            for body in ["", "<html>no</html>", r#"{"success":false,"error":"no"}"#, r#"{"success":true}"#] {
                let server = serve(move || answer(status, &[], body)).await;
                for states in adapter.crowds() {
                    let (_, outcomes) = only_request(&server, adapter.settings(&server.url()), &states).await;
                    assert_all(adapter, &outcomes, expected, bisect, &format!("{status} {body}"));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_good_answer_delivers_everyone_under_every_success_status() {
    for adapter in ADAPTERS {
        let good = adapter.good;
        for status in [200, 201, 202, 207, 299] {
            let server = Server::start(move |request| answer(status, &[], good(&request.body))).await;
            for states in adapter.crowds() {
                let (_, outcomes) = only_request(&server, adapter.settings(&server.url()), &states).await;
                assert_all(adapter, &outcomes, "delivered", false, &format!("{status}"));
            }
        }
    }
}

#[tokio::test]
async fn a_success_that_is_garbage_counts_only_where_the_status_is_the_contract() {
    let nested = "[".repeat(100_000);
    for adapter in ADAPTERS {
        let expected = match adapter.success {
            // Seed 002: "Return HTTP 200 on success".
            Success::Status | Success::StatusWithIds => "delivered",
            // A page of HTML with a 200 is no result for anybody.
            Success::Results => "transient bad_response",
        };
        let bodies: [&[u8]; 7] = [
            b"",
            b"<html><body>It works!</body></html>",
            b"[]",
            b"7",
            b"{",
            b"\xff\xfe\0\x01 no text",
            nested.as_bytes(),
        ];
        for body in bodies {
            // Longer ones are cut by the settings of these tests.
            let body = body[..body.len().min(60_000)].to_vec();
            let name = String::from_utf8_lossy(&body[..body.len().min(20)]).into_owned();
            let html = [("content-type", "text/html")];
            let server = serve(move || answer(200, &html, body.clone())).await;
            for states in adapter.crowds() {
                let (_, outcomes) = only_request(&server, adapter.settings(&server.url()), &states).await;
                assert_all(adapter, &outcomes, expected, false, &name);
            }
        }
    }
}

#[tokio::test]
async fn retry_after_is_exact_in_seconds_and_as_a_date_whatever_the_status() {
    // The clock of these tests stands at 07:28:00.
    let values = [
        ("0", Some(0)),
        ("1", Some(1)),
        ("120", Some(120)),
        ("900", Some(900)),
        ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30)),
        ("Wed, 21 Oct 2015 09:28:00 GMT", Some(7200)),
        ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
        ("999999999", Some(86_400)),
        ("soon", None),
        ("-1", None),
    ];
    let statuses = [
        (429, ["whole_target http_429", "whole_target http_429"], false),
        // Asking for time makes it everyone's.
        (503, ["whole_target http_503", "transient http_503"], false),
        (409, ["transient http_409", "transient http_409"], false),
        (500, ["transient http_500", "transient http_500"], true),
        (422, ["permanent http_422", "permanent http_422"], true),
    ];
    for adapter in ADAPTERS {
        for (value, seconds) in values {
            for (status, [with, without], bisect) in statuses {
                let server = serve(move || answer(status, &[("retry-after", value)], "")).await;
                let expected = match seconds {
                    Some(seconds) => format!("{with} after {seconds} s"),
                    None => without.to_owned(),
                };
                for states in adapter.crowds() {
                    let (_, outcomes) = only_request(&server, adapter.settings(&server.url()), &states).await;
                    assert_all(adapter, &outcomes, &expected, bisect, &format!("{status} {value}"));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_stale_answer_tells_the_version_that_is_held_or_none() {
    for adapter in ADAPTERS {
        for held in [Some(9), Some(i64::MAX), None] {
            let stale = adapter.stale;
            let server = serve(move || stale("a", held).response()).await;
            let outcomes = deliver(adapter.settings(&server.url()), &[updated("a", 7)]).await;
            assert_eq!(brief(&outcomes[0]), format!("stale {held:?}"), "{}", adapter.name);
        }
    }
}

#[tokio::test]
async fn a_problem_is_stale_only_if_it_says_so_and_of_one_user() {
    let stale = r#"{"type":"/problems/stale-version","title":"The version is stale","heldVersion":9}"#;
    let problems = [
        (409, stale, "stale Some(9)"),
        (412, stale, "stale Some(9)"),
        (412, r#"{"code":"stale_version"}"#, "stale None"),
        (409, r#"{"code":"stale_version","heldVersion":"nine"}"#, "stale None"),
        (409, r#"{"code":"stale_version","heldVersion":-1}"#, "stale None"),
        (422, stale, "permanent http_422"),
        (412, "stale_version", "permanent http_412"),
        (409, r#"{"type":"/problems/idempotency-key-in-progress"}"#, "transient http_409"),
    ];
    for adapter in ADAPTERS {
        for (status, body, alone) in problems {
            let server = serve(move || answer(status, &[], body)).await;
            for states in adapter.crowds() {
                let (_, outcomes) = only_request(&server, adapter.settings(&server.url()), &states).await;
                // Whose version is stale cannot be told of several.
                let (expected, bisect) = match (states.len(), status) {
                    (1, _) => (alone.to_owned(), false),
                    (_, 409) => ("transient http_409".to_owned(), false),
                    (_, status) => (format!("permanent http_{status}"), true),
                };
                assert_all(adapter, &outcomes, &expected, bisect, &format!("{status} {body}"));
            }
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_its_query_not_told() {
    for adapter in ADAPTERS {
        let elsewhere = serve(|| answer(200, &[], "")).await;
        for status in [301, 302, 303, 307, 308] {
            let location = format!("{}&token=s3cret", elsewhere.url());
            let server = serve(move || -> Response { answer(status, &[("location", &location)], "") }).await;
            for states in adapter.crowds() {
                let (_, outcomes) = only_request(&server, adapter.signed(&server.url()), &states).await;
                assert_all(adapter, &outcomes, "whole_target redirect", false, &format!("{status}"));
                assert_eq!(detail(&outcomes[0]), "to host 127.0.0.1");
            }
            let itself = serve(move || answer(status, &[("location", "/sync")], "")).await;
            only_request(&itself, adapter.settings(&itself.url()), &[updated("a", 1)]).await;
        }
        assert!(elsewhere.received().is_empty(), "{}", adapter.name);
    }
}
