//! What a front end asks for: is this user in sync, try it again, whose is this id.

use super::{SOON, idle, letters, number, parked, sql, states};
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, Process, Role, emit_states, eventually};
use reqwest::{Method, Response, header};
use serde_json::{Value, json};

/// For all tenants.
const TOKEN: &str = "status-token-of-the-tests";
/// For tenant t1 alone.
const OF_T1: &str = "status-token-of-tenant-t1";
/// For other things.
const OF_EVENTS: &str = "events-token-of-the-tests";

/// The process, and where it listens.
struct Served<'a> {
    installation: &'a Installation,
    address: String,
    _process: Process,
}

impl<'a> Served<'a> {
    async fn start(installation: &'a Installation, settings: &[(&str, &str)]) -> Self {
        let own = [
            ("ingress.listen", "127.0.0.1:0"),
            ("ingress.tokens.front.token", TOKEN),
            ("ingress.tokens.front.scopes", "status"),
            ("ingress.tokens.one.token", OF_T1),
            ("ingress.tokens.one.scopes", "status"),
            ("ingress.tokens.one.tenants", "t1"),
            ("ingress.tokens.producer.token", OF_EVENTS),
            ("ingress.tokens.producer.scopes", "events"),
        ];
        let process = installation.spawn(Role::Ingress, &["ingress"], &[&own, settings].concat());
        let address = process.address("ingress listening").await;
        Self { installation, address, _process: process }
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.installation.http.request(method, format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// Status and body of a request with this token.
    async fn ask(&self, method: Method, path: &str, token: &str) -> (u16, Value) {
        let answer = self.send(method, path, &[("authorization", &format!("Bearer {token}"))]).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn sync(&self, user: &str) -> Value {
        let (status, answer) = self.ask(Method::GET, &format!("/v1/users/t0/{user}/sync"), TOKEN).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// What the CRM's entry says, once the user stands there so.
    async fn until_crm(&self, user: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("the user stands so at the CRM", SOON, async || {
            let answer = self.sync(user).await;
            let crm =
                answer["targets"].as_array().unwrap().iter().find(|entry| entry["target"] == "crm").unwrap();
            wanted(crm).then(|| crm.clone())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_pending_then_synced_with_the_ids() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    let served = Served::start(&installation, &[]).await;
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), 1, "created").await;
    let answer = served.sync("user-1").await;
    assert_eq!((&answer["state"], &answer["version"]), (&json!("pending"), &json!(1)));
    assert_eq!(answer["targets"][1]["lastSyncedAt"], json!(null));

    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    installation.until_settled(&["backend", "crm"]).await;
    let answer = served.sync("user-1").await;
    assert_eq!((&answer["state"], &answer["deleted"]), (&json!("synced"), &json!(false)), "{answer}");
    let crm = &answer["targets"][1];
    assert_eq!(
        (&crm["version"], &crm["retriable"], &crm["reason"]),
        (&json!(1), &json!(false), &json!(null))
    );
    assert!(crm["lastSyncedAt"].is_string(), "{crm}");
    let id = crm["externalId"].as_str().unwrap();
    let links = format!("/v1/links?target=crm&externalId={id}");
    let (status, found) = served.ask(Method::GET, &links, TOKEN).await;
    let found = &found["links"][0];
    assert_eq!((status, &found["tenant"], &found["user"]), (200, &json!("t0"), &json!("user-1")));
    assert_eq!((&found["system"], &found["externalId"]), (&json!(null), &json!(id)));
    assert_eq!(served.ask(Method::GET, &links, OF_T1).await, (200, json!({ "links": [] })));
    assert_eq!(served.ask(Method::GET, "/v1/links?target=crm", TOKEN).await.0, 400);
    assert_eq!(served.ask(Method::GET, &format!("{links}&tenant=t0"), OF_T1).await.0, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_waits_for_a_retry_is_tried_at_once_when_the_button_is_pressed() {
    let options = Options::default()
        .partitions(2)
        .with("targets.crm.retry.delays", "[\"10ms\"]")
        .with("targets.crm.retry.schedule", "[\"1h\"]");
    let installation = Installation::start(options).await;
    installation.crm.fault(Fault { per_user_fail: vec!["user-1".to_owned()], ..Fault::default() }).await;
    let served = Served::start(&installation, &[("ingress.status.retry_pause", "1s")]).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), 2, "created").await;
    let crm =
        served.until_crm("user-1", |crm| crm["attempts"].as_i64().is_some_and(|attempts| attempts > 0)).await;
    assert_eq!((&crm["state"], &crm["retriable"]), (&json!("pending"), &json!(true)), "{crm}");
    assert!(
        crm["reason"].is_string() && crm["nextAttemptAt"].is_string() && crm["lastFailedAt"].is_string(),
        "{crm}"
    );

    installation.crm.behave().await;
    let retry = "/v1/users/t0/user-1/sync/retry?target=crm";
    let answer = eventually("the pause since the failure is over", SOON, async || {
        let (status, answer) = served.ask(Method::POST, retry, TOKEN).await;
        assert!([202, 429].contains(&status), "{answer}");
        (status == 202).then_some(answer)
    })
    .await;
    assert_eq!(answer, json!({ "targets": ["crm"] }));
    served.until_crm("user-1", |crm| crm["state"] == "synced").await;
    let audited = "select count(*) from postbound.audit where command = 'users retry' and acting_as = 'ingress token front'
                     and login = 'test_postbound_ingress'";
    assert_eq!(number(&installation, audited).await, 1);
    assert_eq!(served.ask(Method::POST, retry, TOKEN).await, (202, json!({ "targets": [] })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_was_given_up_has_failed_with_the_reason_and_no_word_of_the_targets() {
    let installation = idle().await;
    let seed = [
        states(2, 5),
        letters("crm", 1, "http_422", "permanent", 422),
        parked("backend", "u-1", 5, "updated"),
    ];
    sql(&installation, &seed.concat()).await;
    let served = Served::start(&installation, &[]).await;
    let answer = served.sync("u-1").await;
    assert_eq!(answer["state"], "failed");
    let [backend, crm] = [0, 1].map(|place| &answer["targets"][place]);
    assert_eq!(
        (&crm["state"], &crm["reason"], &crm["retriable"]),
        (&json!("failed"), &json!("http_422"), &json!(true))
    );
    assert_eq!((&backend["state"], &backend["attempts"]), (&json!("pending"), &json!(3)));
    assert!(
        !answer.to_string().contains("secret.example") && !answer.to_string().contains("said"),
        "{answer}"
    );

    let (status, retried) = served.ask(Method::POST, "/v1/users/t0/u-1/sync/retry", TOKEN).await;
    assert_eq!((status, &retried), (202, &json!({ "targets": ["backend", "crm"] })));
    assert_eq!(
        number(&installation, "select count(*) from postbound.job where kind = 'replay' and target = 'crm'")
            .await,
        1
    );
    let (status, early) = served.ask(Method::POST, "/v1/users/t0/u-1/sync/retry?target=nowhere", TOKEN).await;
    assert_eq!((status, &early["type"]), (404, &json!("/problems/not-found")));
    sql(&installation, "update postbound.parked_user set last_failed_at = now()").await;
    let hasty = served
        .send(Method::POST, "/v1/users/t0/u-1/sync/retry", &[("authorization", &format!("Bearer {TOKEN}"))])
        .await;
    assert_eq!(hasty.status(), 429);
    assert!(hasty.headers()[header::RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() <= 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_tenants_of_a_token_and_the_configured_origins_get_an_answer() {
    let installation = idle().await;
    sql(&installation, &states(1, 5)).await;
    let origin = "https://app.example.com";
    let served = Served::start(&installation, &[("ingress.status.cors_origins", origin)]).await;
    let path = "/v1/users/t0/u-1/sync";
    for (token, status, kind) in [
        (TOKEN, 200, Value::Null),
        (OF_T1, 403, json!("/problems/forbidden")),
        (OF_EVENTS, 403, json!("/problems/forbidden")),
        ("nobody's", 401, json!("/problems/unauthorized")),
    ] {
        let (answered, body) = served.ask(Method::GET, path, token).await;
        assert_eq!((answered, &body["type"]), (status, &kind), "{token}: {body}");
    }
    assert_eq!(served.ask(Method::GET, "/v1/users/t0/nobody/sync", TOKEN).await.0, 404);
    assert_eq!(served.ask(Method::POST, "/v1/users/t0/u-1/sync/retry", OF_T1).await.0, 403);

    let preflight = async |from: &str| {
        let asked = [
            ("origin", from),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        let answer = served.send(Method::OPTIONS, "/v1/users/t0/u-1/sync/retry", &asked).await;
        let allowed = answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        (answer.status().as_u16(), allowed.map(|allowed| allowed.to_str().unwrap().to_owned()))
    };
    assert_eq!(preflight(origin).await, (200, Some(origin.to_owned())));
    assert_eq!(preflight("https://evil.example.com").await.1, None);
    let refused = served.send(Method::GET, path, &[("origin", origin)]).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(
        refused.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN],
        origin,
        "a page may read why it was refused"
    );
}
