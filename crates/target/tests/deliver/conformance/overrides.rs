//! What a target means otherwise than the built-in table.

use super::{assert_all, only_request, serve};
use crate::adapters::{ADAPTERS, Success};
use crate::server::{answer, mute};
use crate::states::{brief, deliver, updated};
use postbound_target::{FailureClass, Override, Target, TargetSettings};
use std::time::Duration;

fn statuses(from: u16, to: u16, class: FailureClass) -> Override {
    Override::Status { from, to, class: Some(class) }
}

fn reason(word: &str, class: FailureClass) -> Override {
    Override::Reason { word: word.to_owned(), class }
}

#[tokio::test]
async fn an_overridden_status_wins_over_the_table_and_the_narrower_range_over_the_wider() {
    let dispositions = vec![
        statuses(400, 499, FailureClass::Transient),
        statuses(404, 404, FailureClass::Permanent),
        statuses(420, 429, FailureClass::Unknown),
        statuses(500, 500, FailureClass::Unknown),
        statuses(503, 503, FailureClass::Permanent),
        statuses(200, 299, FailureClass::WholeTarget),
    ];
    let expectations = [
        (200, "whole_target http_2xx", false),
        (400, "transient http_400", true),
        (401, "transient http_401", false),
        (404, "permanent http_404", true),
        (418, "transient http_418", false),
        (422, "unknown http_422", false),
        (429, "unknown http_429 after 7 s", false),
        (500, "unknown http_500", false),
        (502, "unknown http_502", false),
        (503, "permanent http_503 after 7 s", true),
    ];
    for adapter in ADAPTERS {
        for (status, expected, bisect) in expectations {
            let headers: &[_] = if expected.contains("after") { &[("retry-after", "7")] } else { &[] };
            let server = serve(move || answer(status, headers, "")).await;
            let settings =
                TargetSettings { dispositions: dispositions.clone(), ..adapter.settings(&server.url()) };
            for states in adapter.crowds() {
                let (_, outcomes) = only_request(&server, settings.clone(), &states).await;
                assert_all(adapter, &outcomes, expected, bisect, &format!("{status}"));
            }
        }
    }
}

#[tokio::test]
async fn a_status_can_be_made_a_success_only_where_no_results_decide() {
    for adapter in ADAPTERS {
        let server = serve(|| answer(404, &[], "")).await;
        let dispositions = vec![Override::Status { from: 404, to: 404, class: None }];
        let settings = TargetSettings { dispositions, ..adapter.settings(&server.url()) };
        match adapter.success {
            Success::Status | Success::StatusWithIds => {
                let outcomes = deliver(settings, &[updated("a", 1)]).await;
                assert_eq!(brief(&outcomes[0]), "delivered", "{}", adapter.name);
            }
            Success::Results => {
                let expected = "a disposition of target the-target cannot be used: \
                                404 cannot be \"delivered\": the results decide";
                assert_eq!(Target::new(settings).unwrap_err().to_string(), expected);
            }
        }
    }
}

#[tokio::test]
async fn a_refused_version_stays_one_whatever_the_statuses_mean() {
    for adapter in ADAPTERS {
        let stale = adapter.stale;
        let server = serve(move || stale("a", Some(9)).late_response()).await;
        for class in [Some(FailureClass::Permanent), None] {
            if class.is_none() && adapter.success == Success::Results {
                continue;
            }
            let dispositions = vec![Override::Status { from: 400, to: 499, class }];
            let settings = TargetSettings { dispositions, ..adapter.settings(&server.url()) };
            let outcomes = deliver(settings, &[updated("a", 7)]).await;
            assert_eq!(brief(&outcomes[0]), "stale Some(9)", "{} {class:?}", adapter.name);
        }
    }
}

#[tokio::test]
async fn an_overridden_reason_changes_the_class_and_nothing_else() {
    let url = format!("http://{}/", mute().await);
    for adapter in ADAPTERS {
        for (class, word, bisect) in [
            (FailureClass::Transient, "transient", false),
            (FailureClass::Permanent, "permanent", true),
            (FailureClass::WholeTarget, "whole_target", false),
        ] {
            let settings = TargetSettings {
                dispositions: vec![reason("timeout", class), reason("dns", FailureClass::Permanent)],
                timeout: Duration::from_millis(100),
                ..adapter.settings(&url)
            };
            for states in adapter.crowds() {
                let outcomes = deliver(settings.clone(), &states).await;
                assert_all(adapter, &outcomes, &format!("{word} timeout"), bisect, "no answer");
            }
        }
    }
}

#[tokio::test]
async fn a_reason_that_is_none_or_of_our_own_making_is_refused() {
    assert!(Override::reasons().any(|word| word == "timeout"));
    for adapter in ADAPTERS {
        for word in ["http_404", "data_invalid", "request_invalid", "secret_unavailable", "nonsense"] {
            let dispositions = vec![reason(word, FailureClass::Permanent)];
            let settings = TargetSettings { dispositions, ..adapter.settings("http://host") };
            let expected = format!(
                "a disposition of target the-target cannot be used: \
                 {word:?} is no reason that can be overridden"
            );
            assert_eq!(Target::new(settings).unwrap_err().to_string(), expected);
        }
        let backwards = vec![statuses(500, 400, FailureClass::Permanent)];
        assert!(
            Target::new(TargetSettings { dispositions: backwards, ..adapter.settings("http://h") }).is_err()
        );
    }
}
