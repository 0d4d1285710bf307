//! What is sent: the same bytes under the same key, each attempt signed anew.

use super::{only_request, serve};
use crate::adapters::{ADAPTERS, Adapter};
use crate::server::{Received, Server, answer};
use crate::states::{NOW, OLD_SECRET, SECRET, arc, brief, deliver, state, tenant, updated};
use postbound_event::Action;
use postbound_target::signature::{HeaderNames, SigningKey, Verifier};
use postbound_target::{
    Clock, Delivery, Outcome, SecretFn, SecretsFn, Target, TargetError, TargetSettings, TenantInfo,
};
use std::sync::{Arc, Mutex};
use time::macros::datetime;

/// Headers that belong to the attempt and not to the state.
const OF_THE_ATTEMPT: [&str; 2] = ["webhook-timestamp", "webhook-signature"];

/// The request of these states, to a target of this name.
async fn request(adapter: &Adapter, name: &str, states: &[Delivery]) -> Received {
    let server = serve(|| answer(500, &[], "")).await;
    let named = TargetSettings { name: name.to_owned(), ..adapter.signed(&server.url()) };
    only_request(&server, named, states).await.0
}

fn key(request: &Received) -> &str {
    let quoted = request.header("idempotency-key").unwrap();
    let key = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("it is quoted");
    assert!(key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{quoted}");
    key
}

#[tokio::test]
async fn a_retry_repeats_bytes_and_key_and_only_its_signature_tells_the_time() {
    for adapter in ADAPTERS {
        for states in adapter.crowds() {
            let server = serve(|| answer(503, &[], "")).await;
            let first = adapter.signed(&server.url());
            let later =
                TargetSettings { clock: Clock::new(|| datetime!(2030-01-01 0:00 UTC)), ..first.clone() };
            let (first, _) = only_request(&server, first, &states).await;
            let (later, _) = only_request(&server, later, &states).await;
            assert_eq!(first.body, later.body, "{}", adapter.name);
            assert_eq!(first.headers.len(), later.headers.len(), "{}", adapter.name);
            for (name, value) in &first.headers {
                let changes = OF_THE_ATTEMPT.contains(&name.as_str());
                assert_eq!(later.headers.get(name) != Some(value), changes, "{}: {name}", adapter.name);
            }
        }
    }
}

#[tokio::test]
async fn the_order_of_the_states_does_not_matter() {
    for adapter in ADAPTERS {
        for states in adapter.crowds() {
            let turned: Vec<Delivery> = states.iter().rev().cloned().collect();
            let [one, other] = [
                request(adapter, "the-target", &states).await,
                request(adapter, "the-target", &turned).await,
            ];
            assert_eq!((&one.body, key(&one)), (&other.body, key(&other)), "{}", adapter.name);
        }
    }
}

#[tokio::test]
async fn another_body_event_target_or_resend_has_another_key() {
    for adapter in ADAPTERS {
        for states in adapter.crowds() {
            let changed = |change: fn(&mut Delivery)| {
                let mut states = states.clone();
                change(states.last_mut().unwrap());
                states
            };
            let base = request(adapter, "the-target", &states).await;
            let others = [
                request(adapter, "other-target", &states).await,
                request(adapter, "the-target", &changed(|one| one.data = updated("x", 1).data)).await,
                request(adapter, "the-target", &changed(|one| one.event_id = uuid::Uuid::from_u128(99)))
                    .await,
                request(adapter, "the-target", &changed(|one| one.resend = 1)).await,
                request(adapter, "the-target", &changed(|one| one.resend = 2)).await,
            ];
            let mut keys: Vec<&str> = others.iter().chain([&base]).map(key).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), 6, "{}", adapter.name);
        }
    }
}

#[tokio::test]
async fn a_resend_is_the_same_bytes_that_no_receiver_takes_for_a_duplicate() {
    for adapter in ADAPTERS {
        for states in adapter.crowds() {
            let mut again = states.clone();
            again[0].resend = 1;
            let [first, again, retried] = [
                request(adapter, "the-target", &states).await,
                request(adapter, "the-target", &again).await,
                request(adapter, "the-target", &again).await,
            ];
            assert_eq!(first.body != again.body, adapter.resends_in_body, "{}", adapter.name);
            assert_eq!(again.body, retried.body, "{}", adapter.name);
            for name in ["idempotency-key", "webhook-id"] {
                assert_ne!(first.header(name), again.header(name), "{}: {name}", adapter.name);
                assert_eq!(again.header(name), retried.header(name), "{}: {name}", adapter.name);
            }
            for name in ["postbound-event-id", "postbound-user-version"] {
                assert_eq!(first.header(name), again.header(name), "{}: {name}", adapter.name);
            }
        }
    }
}

#[tokio::test]
async fn a_request_of_one_user_says_which_event_and_version_and_one_of_several_does_not() {
    for adapter in ADAPTERS {
        for mut states in adapter.crowds() {
            let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            states[0].traceparent = Some(trace.to_owned());
            let request = request(adapter, "the-target", &states).await;
            let event = "00000000-0000-0000-0000-000000000007";
            let alone = states.len() == 1;
            for (name, value) in
                [("postbound-event-id", event), ("postbound-user-version", "7"), ("traceparent", trace)]
            {
                assert_eq!(request.header(name), alone.then_some(value), "{}: {name}", adapter.name);
            }
            let id = if alone { event } else { key(&request) };
            assert_eq!(request.header("webhook-id"), Some(id), "{}", adapter.name);
        }
    }
}

#[tokio::test]
async fn credentials_and_headers_are_sent_as_configured_and_nothing_else_is() {
    for adapter in ADAPTERS {
        let bare = serve(|| answer(500, &[], "")).await;
        let mut state = updated("a", 7);
        state.traceparent = Some("broken\n".to_owned());
        let (bare, _) = only_request(&bare, adapter.settings(&bare.url()), &[state]).await;
        let full = request(adapter, "the-target", &[updated("a", 7)]).await;
        assert_eq!(full.method, "POST");
        for (name, value) in [
            (adapter.api_key, "the-api-key"),
            ("authorization", "Bearer the-token"),
            ("x-extra", "extra-value"),
            ("webhook-timestamp", &NOW.to_string()),
        ] {
            assert_eq!(full.header(name), Some(value), "{}: {name}", adapter.name);
            assert_eq!(bare.header(name), None, "{}: {name}", adapter.name);
        }
        let user_agent = concat!("postbound/", env!("CARGO_PKG_VERSION"));
        for (name, value) in [("content-type", adapter.content_type), ("user-agent", user_agent)] {
            assert_eq!(bare.header(name), Some(value), "{}: {name}", adapter.name);
        }
        for absent in ["referer", "accept-encoding", "traceparent", "webhook-id", "webhook-signature"] {
            assert_eq!(bare.header(absent), None, "{}: {absent}", adapter.name);
        }
    }
}

#[tokio::test]
async fn what_is_sent_verifies_under_each_secret() {
    for adapter in ADAPTERS {
        for states in adapter.crowds() {
            let request = request(adapter, "the-target", &states).await;
            for secret in [SECRET, OLD_SECRET] {
                let keys = vec![SigningKey::parse(secret).unwrap()];
                let verifier = Verifier { keys, names: HeaderNames::Standard, body_bytes_max: 4096 };
                let id = verifier.verify(&request.headers, request.body.as_bytes(), NOW).unwrap();
                assert_eq!(Some(id), request.header("webhook-id"), "{}", adapter.name);
            }
        }
    }
}

#[tokio::test]
async fn more_states_than_fit_go_out_as_several_requests_in_order() {
    for adapter in ADAPTERS {
        let good = adapter.good;
        let server = Server::start(move |request| answer(200, &[], good(&request.body))).await;
        let target = Target::new(adapter.settings(&server.url())).unwrap();
        assert_eq!(target.batch_users_max(), adapter.users_max);
        let states: Vec<Delivery> =
            (1..=2 * adapter.users_max + 1).map(|n| updated(&format!("u{n:04}"), n as i64)).collect();
        let outcomes = target.deliver(&states, &tenant()).await;
        assert_eq!(outcomes, vec![Outcome::DELIVERED; states.len()], "{}", adapter.name);
        let received = server.received();
        assert_eq!(received.len(), 3, "{}", adapter.name);
        for (request, states) in received.iter().zip(states.chunks(adapter.users_max)) {
            for state in states {
                assert!(request.body.contains(&format!("\"{}\"", state.key.user)), "{}", adapter.name);
            }
        }
        assert_eq!(target.deliver(&[], &tenant()).await, []);
    }
}

#[tokio::test]
async fn a_state_that_is_no_object_fails_alone_and_is_not_sent() {
    for adapter in ADAPTERS {
        let good = adapter.good;
        let server = Server::start(move |request| answer(200, &[], good(&request.body))).await;
        for data in ["[1]", "7", "null", "\"{}\""] {
            let states = [state("broken", 1, Action::Updated, data), updated("sound", 2)];
            let outcomes = deliver(adapter.settings(&server.url()), &states).await;
            let outcomes: Vec<String> = outcomes.iter().map(brief).collect();
            assert_eq!(outcomes, ["permanent data_invalid", "delivered"], "{}: {data}", adapter.name);
        }
        assert!(!server.received().iter().any(|request| request.body.contains("broken")), "{}", adapter.name);
    }
}

#[tokio::test]
async fn an_id_that_no_header_can_carry_is_refused_before_it_is_sent() {
    for adapter in ADAPTERS {
        let server = serve(|| answer(200, &[], "")).await;
        let target = Target::new(adapter.settings(&server.url())).unwrap();
        for states in adapter.crowds() {
            let outcomes = target.deliver(&states, &TenantInfo::unknown("ac\nme")).await;
            super::assert_all(adapter, &outcomes, "permanent request_invalid", true, "a broken tenant");
        }
        assert!(server.received().is_empty(), "{}", adapter.name);
    }
}

#[tokio::test]
async fn secrets_are_asked_for_anew_and_nothing_is_sent_without_them() {
    for adapter in ADAPTERS {
        let good = adapter.good;
        let server = Server::start(move |request| answer(200, &[], good(&request.body))).await;
        let gone = || Err("the file is gone".to_owned());
        let answers: Mutex<Vec<Result<Option<Arc<str>>, String>>> =
            Mutex::new(vec![Ok(None), gone(), Ok(Some(arc("second"))), Ok(Some(arc("first")))]);
        let api_key = SecretFn::new(move || answers.lock().unwrap().pop().unwrap());
        let target = Target::new(TargetSettings { api_key, ..adapter.settings(&server.url()) }).unwrap();
        let mut outcomes = Vec::new();
        for version in 1..=4 {
            outcomes.extend(target.deliver(&[updated("a", version)], &tenant()).await.iter().map(brief));
        }
        let unavailable = "whole_target secret_unavailable";
        assert_eq!(outcomes, ["delivered", "delivered", unavailable, "delivered"], "{}", adapter.name);
        let received = server.received();
        let keys: Vec<_> = received.iter().map(|request| request.header(adapter.api_key)).collect();
        assert_eq!(keys, [Some("first"), Some("second"), None], "{}", adapter.name);
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_sends_nothing() {
    for adapter in ADAPTERS {
        let server = serve(|| answer(200, &[], "")).await;
        let base = adapter.settings(&server.url());
        let broken = [
            TargetSettings { signing_secrets: SecretsFn::fixed(["not-a-secret"]), ..base.clone() },
            TargetSettings { bearer_token: SecretFn::fixed("line\nbreak"), ..base },
        ];
        for settings in broken {
            let outcomes = deliver(settings, &[updated("a", 1)]).await;
            assert_eq!(brief(&outcomes[0]), "whole_target secret_unavailable", "{}", adapter.name);
        }
        assert!(server.received().is_empty(), "{}", adapter.name);
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_without_repeating_them() {
    let check = |settings: TargetSettings, expected: &str| {
        let error: TargetError = Target::new(settings).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    for adapter in ADAPTERS {
        for url in ["", "/path", "ftp://hidden@host", "http://", "mailto:hidden"] {
            check(adapter.settings(url), "the url of target the-target is not an absolute http or https url");
        }
        for (name, value) in [("bad name", "hidden"), ("X-Good", "hid\nden")] {
            let headers = vec![(name.to_owned(), value.to_owned())];
            let refused = TargetSettings { headers, ..adapter.settings("http://host") };
            check(refused, &format!("header {name:?} of target the-target cannot be sent"));
        }
        let settings = adapter.signed("http://host/?hidden");
        let shown = format!("{settings:?} {:?}", Target::new(settings.clone()).unwrap());
        for secret in ["the-api-key", "the-token", "whsec", "extra-value"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_delivery_can_be_spawned() {
    for adapter in ADAPTERS {
        let good = adapter.good;
        let server = Server::start(move |request| answer(200, &[], good(&request.body))).await;
        let target = Target::new(adapter.settings(&server.url())).unwrap();
        let task = async move { target.deliver(&[updated("a", 1)], &tenant()).await };
        assert_eq!(brief(&tokio::spawn(task).await.unwrap()[0]), "delivered");
    }
}
