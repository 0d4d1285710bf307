//! What is told of a target's own words: no secret, nothing of the users' data.

use super::serve;
use crate::adapters::ADAPTERS;
use crate::server::answer;
use crate::states::{SECRET, deliver, detail, updated};
use postbound_target::Outcome;
use serde_json::json;

/// Everything that the request bore and that must not come back out.
const HIDDEN: [&str; 6] = ["the-api-key", "the-token", "extra-value", SECRET, "a@example.com", "example.com"];

fn assert_masked(outcomes: &[Outcome], what: &str) {
    assert!(detail(&outcomes[0]).contains("because"), "{what}: {outcomes:?}");
    let shown = format!("{outcomes:?}");
    for hidden in HIDDEN {
        assert!(!shown.contains(hidden), "{what}: {shown}");
    }
}

#[tokio::test]
async fn secrets_and_data_that_a_refusal_echoes_are_not_told() {
    let words = format!("because {}", HIDDEN.join(" or "));
    for adapter in ADAPTERS {
        for status in [400, 401, 409, 422, 429, 500, 503] {
            for (kind, body) in [
                ("text/plain", words.clone()),
                ("application/json", json!({ "success": false, "error": words }).to_string()),
                ("application/problem+json", json!({ "title": "No", "detail": words }).to_string()),
            ] {
                let server = serve(move || answer(status, &[("content-type", kind)], body.clone())).await;
                for states in adapter.crowds() {
                    let outcomes = deliver(adapter.signed(&server.url()), &states).await;
                    assert_masked(&outcomes, &format!("{}: {status} {kind}", adapter.name));
                }
            }
        }
        let (refusal, words) = (adapter.refusal, words.clone());
        let server = serve(move || refusal("a", &words).response()).await;
        let outcomes = deliver(adapter.signed(&server.url()), &[updated("a", 7)]).await;
        assert_masked(&outcomes, adapter.name);
    }
}

#[tokio::test]
async fn what_is_told_is_bounded() {
    for adapter in ADAPTERS {
        let refusal = adapter.refusal;
        let server = serve(move || refusal("a", &"ü ".repeat(5_000)).response()).await;
        let outcomes = deliver(adapter.signed(&server.url()), &[updated("a", 7)]).await;
        let detail = detail(&outcomes[0]);
        assert_eq!((detail.chars().count(), detail.chars().last()), (300, Some('…')), "{}", adapter.name);
    }
}
