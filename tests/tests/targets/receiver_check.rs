//! `postbound receiver check` says of other teams' endpoints what Postbound will make of them.

mod sample;

use super::hook::Hook;
use crate::operators::{answer, refused};
use postbound_tests::{API_KEY, Installation, Options, Role, answers};
use sample::Sample;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What every endpoint is asked that takes one user a request and a key.
const ONE_BY_ONE: [&str; 11] = [
    "create",
    "duplicate",
    "resend",
    "update",
    "stale-version",
    "delete",
    "repeated-delete",
    "late-update",
    "return",
    "unknown-delete",
    "clean-up",
];

/// An installation with files of the secrets; its receivers run, no process does.
async fn installation(options: Options) -> Installation {
    let installation = Installation::configure(options).await;
    std::fs::write(installation.path("key"), API_KEY).unwrap();
    std::fs::write(installation.path("secret"), SECRET).unwrap();
    installation
}

/// The exit code and the report of a check.
async fn check(installation: &Installation, args: &[&str]) -> (i32, Value) {
    answer(installation, &[&["receiver", "check"], args].concat()).await
}

/// Checks that are not as they should be, with their verdicts.
fn flaws(report: &Value) -> BTreeMap<&str, &str> {
    let checks = report["checks"].as_array().unwrap().iter();
    let named =
        checks.map(|entry| (entry["check"].as_str().unwrap_or("others"), entry["verdict"].as_str().unwrap()));
    named.filter(|(_, verdict)| *verdict != "right").collect()
}

/// One check of a report.
fn finding<'r>(report: &'r Value, check: &str) -> &'r Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|entry| entry["check"] == check).unwrap_or_else(|| panic!("{check}: {report}"))
}

/// The checks of a report that were tried, in their order.
fn tried(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap().iter();
    let tried = checks.filter(|entry| entry["tookMs"].is_u64());
    tried.map(|entry| entry["check"].as_str().unwrap()).collect()
}

/// Everything is right, and all users are deleted again.
fn assert_right(report: &(i32, Value), all: &[&str]) {
    let (code, report) = report;
    assert_eq!((*code, flaws(report)), (0, BTreeMap::new()), "{report:#}");
    let mut expected = all.to_vec();
    let mut asked = tried(report);
    expected.sort_unstable();
    asked.sort_unstable();
    assert_eq!(asked, expected);
    assert_eq!(report["leftBehind"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_receivers_answer_everything_right_and_hold_no_user_afterwards() {
    let mut installation = installation(Options::default()).await;
    let backend = [&ONE_BY_ONE[..], &["bad-key"]].concat();
    let crm = [&backend[..], &["partial-failure"]].concat();
    assert_right(&check(&installation, &["--target", "backend"]).await, &backend);
    assert_right(&check(&installation, &["--target", "crm"]).await, &crm);

    installation.backend.serve_with(|config| config.signing_secrets = vec![SECRET.to_owned()]).await;
    let (url, key, secret) =
        (installation.backend.base_url(), installation.path("key"), installation.path("secret"));
    let url = format!("{url}/internal/users/sync");
    let with = ["--api-key-file", key.to_str().unwrap(), "--secret-file", secret.to_str().unwrap()];
    let signed = [&["--contract", "backend-sync", "--url", &url], &with[..]].concat();
    let all = [&backend[..], &["bad-signature", "old-signature"]].concat();
    assert_right(&check(&installation, &signed).await, &all);

    for (table, users) in [("backend_users", 4), ("crm_users", 3)] {
        let sql = format!(
            "select count(*) filter (where deleted_at is null), count(*) from receiver.{table}
             where tenant_id = 'postbound-check'"
        );
        let counts: (i64, i64) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
        assert_eq!(counts, (0, users), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_sample_of_a_backend_is_told_what_it_lacks() {
    let installation = installation(Options::default().guardless()).await;
    let (code, report) = check(&installation, &["--target", "backend"]).await;
    assert_eq!(code, 4);
    let expected = [("bad-key", "wrong"), ("late-update", "weak"), ("stale-version", "weak")];
    assert_eq!(flaws(&report), expected.into(), "{report:#}");
    let stale = finding(&report, "stale-version");
    assert_eq!(stale["postbound"], "settles it as delivered");
    assert!(stale["mend"].as_str().unwrap().contains("postbound-user-version"), "{stale}");
    let why = finding(&report, "late-update")["why"].as_str().unwrap();
    assert!(why.contains("a deleted user is back"), "{why}");
    // Who knows of it can say so.
    let accepted = ["--accept", "bad-key", "--accept", "late-update", "--accept", "stale-version"];
    let (code, report) = check(&installation, &[&["--target", "backend"], &accepted[..]].concat()).await;
    assert_eq!((code, report["isRight"].as_bool()), (0, Some(true)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_sample_of_a_crm_is_told_what_it_lacks() {
    let installation = installation(Options::default().guardless()).await;
    let (url, key) = (installation.crm.base_url(), installation.path("key"));
    let strict = ["--contract", "crm-batch", "--url", &url, "--api-key-file", key.to_str().unwrap()];
    let (code, report) = check(&installation, &strict).await;
    assert_eq!(
        (code, flaws(&report)),
        (4, [("create", "wrong"), ("others", "skipped")].into()),
        "{report:#}"
    );
    let create = finding(&report, "create");
    assert!(create["answer"].as_str().unwrap().starts_with("400: "), "{create}");
    assert!(create["mend"].as_str().unwrap().contains("--no-versions"), "{create}");
    assert_eq!((&report["leftBehind"], &report["leftDeleted"]), (&json!([]), &json!([])));

    let (code, report) = check(&installation, &[&strict[..], &["--no-versions"]].concat()).await;
    let expected = [
        ("update", "wrong"),
        ("stale-version", "weak"),
        ("partial-failure", "weak"),
        ("late-update", "weak"),
        ("unknown-delete", "wrong"),
    ];
    assert_eq!((code, flaws(&report)), (4, expected.into()), "{report:#}");
    let update = finding(&report, "update");
    assert!(update["why"].as_str().unwrap().contains("there are two records"), "{update}");
    let partial = finding(&report, "partial-failure");
    assert!(partial["postbound"].as_str().unwrap().starts_with("halves the request"), "{partial}");
    assert_eq!((&report["leftBehind"], report["leftDeleted"].as_array().unwrap().len()), (&json!([]), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_express_sample_answers_both_its_contracts_right() {
    let installation = installation(Options::default()).await;
    let sample = Sample::express(&installation.database, API_KEY, SECRET).await;
    let (key, secret) = (installation.path("key"), installation.path("secret"));
    let args = ["--contract", "crm-batch", "--url", &sample.url(""), "--api-key-file", key.to_str().unwrap()];
    let all = [&ONE_BY_ONE[..], &["bad-key", "partial-failure"]].concat();
    assert_right(&check(&installation, &args).await, &all);
    let (hook, secret) = (sample.url("/webhooks/users"), secret.to_str().unwrap().to_owned());
    let args = ["--contract", "webhook", "--url", &hook, "--secret-file", &secret];
    let inside = ["--allow-private-addresses", "--external-id", "/id"];
    let all = [&ONE_BY_ONE[..], &["bad-signature", "old-signature"]].concat();
    let (code, report) = check(&installation, &[&args[..], &inside].concat()).await;
    assert_eq!(flaws(&report), [("bad-key", "skipped")].into(), "no key is sent: {report:#}");
    assert_eq!((code, report["leftBehind"].clone()), (0, json!([])));
    assert_eq!(tried(&report).len(), all.len());
    let there: i64 = sqlx::query_scalar("select count(*) from crm_user where deleted_at is null")
        .fetch_one(installation.database.superuser())
        .await
        .unwrap();
    assert_eq!(there, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_go_sample_answers_its_contract_right() {
    let installation = installation(Options::default()).await;
    let sample = Sample::go(&installation.database, API_KEY).await;
    let key = installation.path("key");
    let url = sample.url("/internal/users/sync");
    for credentials in ["--api-key-file", "--bearer-token-file"] {
        let args = ["--contract", "backend-sync", "--url", &url, credentials, key.to_str().unwrap()];
        assert_right(&check(&installation, &args).await, &[&ONE_BY_ONE[..], &["bad-key"]].concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_is_started_when_told_to_and_has_to_run_once_however_often_it_is_triggered() {
    let installation = installation(Options::default()).await;
    let (url, key) = (installation.backend.base_url(), installation.path("key"));
    let with_key = ["--api-key-file", key.to_str().unwrap()];
    let args = [&["--contract", "workflow-trigger", "--url", &url][..], &with_key].concat();
    let (code, why) = refused(&installation, &[&["receiver", "check"], &args[..]].concat()).await;
    assert!(code == 2 && why.contains("--start-workflows"), "{why}");
    let (code, report) = check(&installation, &[&args[..], &["--start-workflows"]].concat()).await;
    assert_eq!((code, flaws(&report)), (0, [("clean-up", "skipped")].into()), "{report:#}");
    assert_eq!(tried(&report), ["create", "duplicate", "return", "bad-key"]);
    assert_eq!(report["leftBehind"].as_array().unwrap().len(), 1, "{report:#}");
    let made = "select (select count(*) from receiver.frontend_users), (select count(*) from receiver.welcome_emails)";
    let made: (i64, i64) = sqlx::query_as(made).fetch_one(installation.database.superuser()).await.unwrap();
    assert_eq!(made, (1, 1));

    // One that makes another user each time, and tells one id of two.
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let hook = Hook::start(|_| {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        json!({ "success": true, "frontendUserId": format!("f{run}") })
    })
    .await;
    let args = ["--contract", "workflow-trigger", "--url", &hook.url(), "--start-workflows"];
    let (code, report) = check(&installation, &args).await;
    let expected = [("create", "weak"), ("duplicate", "wrong"), ("bad-key", "weak"), ("clean-up", "skipped")];
    assert_eq!((code, flaws(&report)), (4, expected.into()), "{report:#}");
    let why = finding(&report, "create")["why"].as_str().unwrap();
    assert!(why.contains("no crmContactId"), "{why}");
    let mend = finding(&report, "duplicate")["mend"].as_str().unwrap();
    assert!(mend.contains("Idempotency-Key"), "{mend}");
}

/// An endpoint that answers the requests of a check by these statuses, in their order, and what is said of one of them.
async fn answering(statuses: &[u16], check_name: &str, verdict: &str, field: &str, said: &str) {
    let installation = installation(Options::default()).await;
    let hook = Hook::start(|_| json!({})).await;
    hook.refuse(statuses);
    let (code, report) = check(&installation, &["--contract", "backend-sync", "--url", &hook.url()]).await;
    let found = finding(&report, check_name);
    assert_eq!((code, &found["verdict"]), (4, &json!(verdict)), "{statuses:?}: {report:#}");
    let text = found[field].as_str().unwrap_or_default();
    assert!(text.contains(said), "{statuses:?}: {found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_answer_is_explained_with_what_it_leads_to_and_how_to_mend_it() {
    for (statuses, check, verdict, field, said) in [
        (&[200, 409][..], "duplicate", "wrong", "postbound", "tries it again by the schedule"),
        (&[200, 409], "duplicate", "wrong", "mend", "answer 2xx for a state that is held already"),
        (&[200, 200, 422], "resend", "wrong", "postbound", "dead-letters the state after 3 such tries"),
        (&[200, 200, 200, 504], "update", "wrong", "postbound", "nobody knows whether it took effect"),
        (&[200, 200, 200, 200, 412], "stale-version", "wrong", "why", "refused, but not as one"),
        (&[200, 200, 200, 200, 200, 404], "delete", "wrong", "postbound", "opens the breaker"),
        (&[200, 200, 200, 200, 200, 404], "delete", "wrong", "mend", "the url names no user"),
        (&[503], "create", "wrong", "mend", "503 with Retry-After"),
        (&[429], "create", "weak", "why", "rate limit"),
        (&[307], "create", "wrong", "mend", "redirects are never followed"),
        (&[], "bad-key", "weak", "why", "can change and delete users"),
    ] {
        answering(statuses, check, verdict, field, said).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_lets_anybody_in_or_takes_wrong_keys_for_users_faults_hears_of_it() {
    let installation = installation(Options::default()).await;
    let key = installation.path("key");
    for (status, verdict, said) in [
        (200, "wrong", "can change and delete users"),
        (400, "weak", "as if the user were at fault"),
        (500, "weak", "a passing failure"),
        (403, "right", ""),
    ] {
        let hook = Hook::start(|_| json!({})).await;
        // Ten requests come before the one with the wrong key.
        hook.refuse(&[[200; 10].as_slice(), &[status]].concat());
        let args =
            ["--contract", "backend-sync", "--url", &hook.url(), "--api-key-file", key.to_str().unwrap()];
        let (code, report) = check(&installation, &args).await;
        let found = finding(&report, "bad-key");
        assert_eq!((code, &found["verdict"]), (4, &json!(verdict)), "{status}: {report:#}");
        assert!(found["why"].as_str().unwrap_or_default().contains(said), "{status}: {found}");
        let asked = hook.asked();
        assert_ne!(asked[10].header("x-internal-api-key"), API_KEY);
        assert!(
            asked
                .iter()
                .enumerate()
                .all(|(place, request)| { place == 10 || request.header("x-internal-api-key") == API_KEY })
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_away_is_asked_once_and_what_is_out_of_bounds_is_not_asked_at_all() {
    let mut installation = installation(Options::default()).await;
    let hook = Hook::start(|_| json!({})).await;
    let url = format!("https://{}/in", hook.address);
    let (code, report) = check(&installation, &["--contract", "webhook", "--url", &url]).await;
    let create = finding(&report, "create");
    assert_eq!(
        (code, &create["answer"].as_str().unwrap()[..26]),
        (4, "no answer, address_refused"),
        "{report:#}"
    );
    assert!(create["mend"].as_str().unwrap().contains("--allow-private-addresses"));

    installation.backend.stop().await;
    let (code, report) = check(&installation, &["--target", "backend"]).await;
    assert_eq!((code, tried(&report)), (4, vec!["create"]), "{report:#}");

    let plain = hook.url();
    for (args, said) in [
        (&["--contract", "webhook", "--url", &plain][..], "needs https"),
        (&["--contract", "backend-sync", "--url", "http://ada:secret@host/"], "must not hold credentials"),
        (&["--contract", "backend-sync", "--url", "host"], "is not a web address"),
        (&["--contract", "crm-batch", "--url", &plain, "--external-id", "/id"], "is for --contract webhook"),
        (&["--target", "nobody"], "there is no target nobody"),
        (&["--contract", "webhook"], "--url"),
        (&["--target", "crm", "--url", &plain], "cannot be used with"),
        (&[], "required"),
    ] {
        let (code, why) = refused(&installation, &[&["receiver", "check"], args].concat()).await;
        assert_eq!(code, 2, "{args:?}: {why}");
        assert!(why.contains(said), "{args:?}: {why}");
    }
    assert!(hook.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_read_each_answer_with_what_postbound_makes_of_it() {
    let installation = installation(Options::default()).await;
    let fault = postbound_receiver::Fault { times: Some(1), ..answers(503, &[("Retry-After", "7")]) };
    installation.backend.fault(fault).await;
    let output = installation.run(Role::Operator, &["receiver", "check", "--target", "backend"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("create  wrong    created, version 1: 503"), "{said}");
    assert!(said.contains("the target is closed for everybody, for the 7s it asks for"), "{said}");
    assert!(said.contains("0 ok, 0 weak, 1 wrong"), "{said}");
    let output = installation.run(Role::Operator, &["receiver", "check", "--target", "backend"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("stale-version    ok       updated, version 5: refused: it holds version 10"),
        "{said}"
    );
    assert!(said.contains("Postbound: settles it as superseded"), "{said}");
    assert!(said.contains("left there as deleted, in tenant postbound-check: postbound-check-"), "{said}");
    assert!(!said.contains(API_KEY) && !said.contains("@example.com"), "{said}");
}
