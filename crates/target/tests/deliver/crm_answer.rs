use crate::server::{Server, answer};
use crate::states::{brief, crm, deliver, detail, settings, updated};
use axum::http::header::CONTENT_TYPE;
use postbound_target::{FailureClass, Override, TargetSettings};

/// What becomes of the users `a` and `b` when the CRM answers so.
async fn check_status(status: u16, body: &str, expected: [&str; 2]) {
    let body = body.to_owned();
    let answered = body.clone();
    let server =
        Server::start(move |_| answer(status, &[(CONTENT_TYPE.as_str(), "application/json")], body.clone()))
            .await;
    let outcomes = deliver(settings(&server.url(), crm()), &[updated("a", 1), updated("b", 2)]).await;
    assert_eq!(outcomes.iter().map(brief).collect::<Vec<_>>(), expected, "{status} {answered}");
}

async fn check(results: &str, expected: [&str; 2]) {
    check_status(200, &format!(r#"{{"success":true,"results":[{results}]}}"#), expected).await;
}

#[tokio::test]
async fn both_shapes_of_the_seed_are_read() {
    let results = r#""results":[{"userId":"b","status":"updated","crmUserId":"c-2","message":"ok"},
        {"userId":"a","status":"created","crmUserId":17}]"#;
    let documented = format!(
        r#"{{"success":true,"message":"ok",{results},"tenant":{{"id":"acme","name":"Acme"}},
            "metadata":{{"operation":"user_sync","syncedAt":"2025","totalUsers":2,"successful":2,"failed":0}}}}"#
    );
    let sample = format!(r#"{{"success":true,"message":"ok",{results},"tenant":"acme","syncedAt":"2025"}}"#);
    for body in [documented, sample] {
        check_status(200, &body, ["delivered as 17", "delivered as c-2"]).await;
    }
}

#[tokio::test]
async fn each_user_is_settled_by_its_own_result() {
    let ok = r#"{"userId":"a","status":"updated"}"#;
    let with = |result: &str| format!("{ok},{result}");
    let failed = |more: &str| with(&format!(r#"{{"userId":"b","status":"failed"{more}}}"#));
    check(ok, ["delivered", "transient result_missing"]).await;
    // Without a hint whether another try is of use, there are not too many.
    check(&failed(""), ["delivered", "transient result_failed bounded"]).await;
    check(&failed(r#","error":{"odd":1},"code":7"#), ["delivered", "transient result_failed bounded"]).await;
    check(&failed(r#","code":"fault""#), ["delivered", "transient result_failed"]).await;
    check(&failed(r#","retryable":true"#), ["delivered", "transient result_failed"]).await;
    check(&failed(r#","code":"invalid_user""#), ["delivered", "permanent result_refused"]).await;
    check(&failed(r#","retryable":false"#), ["delivered", "permanent result_refused"]).await;
    check(&failed(r#","code":"invalid_user","retryable":true"#), ["delivered", "transient result_failed"])
        .await;
    check(&failed(r#","code":"stale_version","heldVersion":9"#), ["delivered", "stale Some(9)"]).await;
    check(&failed(r#","code":"stale_version""#), ["delivered", "stale None"]).await;
    check(&with(r#"{"userId":"b","status":"skipped"}"#), ["delivered", "transient result_unknown"]).await;
    check(&with(r#"{"userId":"b"}"#), ["delivered", "transient result_missing"]).await;
    check(&with("null, 7, {}"), ["delivered", "transient result_missing"]).await;
    check(&with(r#"{"userId":"zz","status":"updated"}"#), ["delivered", "transient result_missing"]).await;
}

#[tokio::test]
async fn a_doubled_result_counts_if_both_say_the_same() {
    let a = r#"{"userId":"a","status":"updated"}"#;
    let b = |id: &str| format!(r#"{{"userId":"b","status":"created","crmUserId":"{id}"}}"#);
    check(&format!("{a},{},{}", b("1"), b("1")), ["delivered", "delivered as 1"]).await;
    let different = ["delivered", "transient result_doubled"];
    check(&format!("{a},{},{}", b("1"), b("2")), different).await;
    check(&format!(r#"{a},{},{{"userId":"b","status":"failed"}}"#, b("1")), different).await;
}

#[tokio::test]
async fn an_external_id_is_a_string_or_a_number_that_can_be_kept() {
    let b = r#"{"userId":"b","status":"updated"}"#;
    let a = |id: &str| format!(r#"{{"userId":"a","status":"updated","crmUserId":{id}}},{b}"#);
    for (id, outcome) in [
        (r#""c\u00fc""#, "delivered as cü"),
        ("17", "delivered as 17"),
        ("-1.5", "delivered as -1.5"),
        (r#""""#, "delivered"),
        ("null", "delivered"),
        ("true", "delivered"),
        (r#"{"id":1}"#, "delivered"),
        (r#""a\u0000""#, "delivered"),
        (&format!("{:?}", "x".repeat(513)), "delivered"),
    ] {
        check(&a(id), [outcome, "delivered"]).await;
    }
}

#[tokio::test]
async fn users_are_matched_by_numeric_ids_too() {
    let server =
        Server::start(|_| answer(200, &[], r#"{"results":[{"userId":42,"status":"updated"}]}"#)).await;
    let outcomes = deliver(settings(&server.url(), crm()), &[updated("42", 1)]).await;
    assert_eq!(brief(&outcomes[0]), "delivered");
}

#[tokio::test]
async fn a_success_that_is_none_delivers_nobody() {
    for body in [r#"{"success":true}"#, r#"{"success":true,"results":{}}"#] {
        check_status(200, body, ["transient bad_response shared"; 2]).await;
    }
    let refused = ["transient success_false shared"; 2];
    check_status(200, r#"{"success":false,"error":"no"}"#, refused).await;
    check_status(201, r#"{"success":false,"results":[{"userId":"a","status":"created"}]}"#, refused).await;
    let one = r#"{"success":false,"results":[{"userId":"a","status":"created"},{"userId":"b","status":"failed","retryable":false}]}"#;
    check_status(200, one, [refused[0], "permanent result_refused"]).await;
}

#[tokio::test]
async fn a_result_means_what_the_target_is_said_to_mean() {
    let body = r#"{"results":[{"userId":"a","status":"failed"},{"userId":"b","status":"odd"}]}"#;
    let server = Server::start(move |_| answer(200, &[], body)).await;
    for (class, failed) in [
        (FailureClass::Permanent, "permanent result_failed"),
        // Said to pass, it may be tried as often as anything else.
        (FailureClass::Transient, "transient result_failed"),
    ] {
        let dispositions = vec![Override::Reason { word: "result_failed".to_owned(), class }];
        let settings = TargetSettings { dispositions, ..settings(&server.url(), crm()) };
        let outcomes = deliver(settings, &[updated("a", 1), updated("b", 2)]).await;
        let outcomes: Vec<String> = outcomes.iter().map(brief).collect();
        assert_eq!(outcomes, [failed, "transient result_unknown"]);
    }
}

#[tokio::test]
async fn a_failed_result_tells_why_without_naming_anyone() {
    let body =
        r#"{"results":[{"userId":"a","status":"failed","code":"taken","error":"a@example.com is taken"}]}"#;
    let server = Server::start(move |_| answer(200, &[], body)).await;
    let outcomes = deliver(settings(&server.url(), crm()), &[updated("a", 1)]).await;
    assert_eq!(detail(&outcomes[0]), "taken: *** is taken");
}
