//! What a webhook is told beside users' states: who was linked, and that a resync is done.

use super::hook::{Hook, Request};
use super::{HURRIED, SOON, Town};
use postbound_store::Told;
use postbound_target::signature::{HeaderNames, SigningKey, Verifier};
use postbound_tests::{Installation, Options, Role, eventually};
use serde_json::json;
use time::OffsetDateTime;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A webhook that wants to hear of deleted users, and of these notices.
async fn subscribed(hook: &Hook, notices: &str) -> Town {
    let url = hook.url();
    Town::start("hook", |_| {
        format!(
            "adapter = \"webhook\"\nurl = \"{url}\"\nallow_private_addresses = true\nactions = [\"deleted\"]\n\
             notices = {notices}\nsigning_secrets = [\"{SECRET}\"]\nretry.permanent_attempts = 2\n{HURRIED}"
        )
    })
    .await
}

fn id_of_signed(request: &Request) -> String {
    let keys = vec![SigningKey::parse(SECRET).unwrap()];
    let verifier = Verifier { keys, names: HeaderNames::Standard, body_bytes_max: 1 << 20 };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    verifier.verify(&request.headers, &request.body, now).unwrap().to_owned()
}

/// The first request that was taken of this type and subject.
async fn until_taken(hook: &Hook, kind: &str, subject: &str) -> Request {
    eventually(&format!("{kind} of {subject} is taken"), SOON, async || {
        hook.taken().into_iter().find(|request| {
            let body = request.json();
            body["type"] == kind && body["subject"].as_str().unwrap_or_default() == subject
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_hears_of_links_and_of_a_finished_resync_once_each() {
    let hook = Hook::start(|_| json!({})).await;
    let town = subscribed(&hook, "[\"identity.linked\", \"sync.completed\"]").await;
    hook.refuse(&[500]);
    town.emit("t0", "u1", "created", r#"{"email": "u1@example.com"}"#).await;
    let told = until_taken(&hook, "identity.linked", "u1").await;
    let id = town.ask("select external_id from postbound.identity_link where target = 'crm'").await;
    let body = told.json();
    let linked = json!({ "tenant": "t0", "user": "u1", "target": "crm", "system": null, "externalId": id });
    assert_eq!(
        (&body["data"], &body["tenantid"], &body["specversion"]),
        (&linked, &json!("t0"), &json!("1.0"))
    );
    assert_eq!(told.header("content-type"), "application/cloudevents+json");
    let ids: Vec<_> = hook.asked().iter().map(id_of_signed).collect();
    assert_eq!(ids, [body["id"].as_str().unwrap(); 2], "the refused one was told again under its id");

    // The same link is no news.
    town.emit("t0", "u1", "updated", r#"{"email": "u1@example.org"}"#).await;
    town.installation.until_settled(&["backend", "crm"]).await;
    let resync = ["resync", "--target", "crm", "--tenant", "t0"];
    assert!(town.installation.run(Role::Operator, &resync).await.status.success());
    let done = until_taken(&hook, "sync.completed", "").await.json();
    let job: i64 = town.ask("select job_id from postbound.job").await.parse().unwrap();
    let counts =
        json!({ "job": job, "target": "crm", "delivered": 1, "superseded": 0, "dead": 0, "skipped": 0 });
    assert_eq!(done["data"], counts);
    eventually("nothing is left to tell", SOON, async || {
        (town.ask("select count(*) from postbound.notice").await == "0").then_some(())
    })
    .await;
    assert_eq!(hook.taken().len(), 2, "{:?}", hook.taken());
    for (outcome, times) in [("taken", 2.0), ("failed", 1.0), ("given_up", 0.0)] {
        let labels = ["target=\"hook\"", &format!("outcome=\"{outcome}\"")];
        assert_eq!(town.worker.metric("postbound_notices_total", &labels).await, times, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_that_is_refused_again_is_given_up_and_says_why_and_an_erasure_forgets_it() {
    let hook = Hook::start(|_| json!({})).await;
    let town = subscribed(&hook, "[\"identity.linked\"]").await;
    hook.refuse(&[422, 422]);
    town.emit("t0", "u1", "created", r#"{"email": "u1@example.com"}"#).await;
    eventually("it is given up", SOON, async || {
        let dead = "select count(*) from postbound.notice where dead_at is not null and reason = 'http_422' and attempts = 2";
        (town.ask(dead).await == "1").then_some(())
    })
    .await;
    // The others go on.
    town.emit("t0", "u2", "created", r#"{"email": "u2@example.com"}"#).await;
    until_taken(&hook, "identity.linked", "u2").await;
    // What was given up is told again when an operator asks for it.
    let notices = async |command: &[&str]| {
        let output =
            town.installation.run(Role::Operator, &[&["notices"], command, &["--json"]].concat()).await;
        (output.status.code(), serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap())
    };
    let (code, listed) = notices(&["list", "--target", "hook"]).await;
    assert_eq!(
        (code, &listed[0]["user_id"], &listed[0]["reason"]),
        (Some(4), &json!("u1"), &json!("http_422"))
    );
    eventually("the metrics have it", SOON, async || {
        let of_hook = async |metric| town.worker.metric(metric, &["target=\"hook\""]).await;
        let given_up = of_hook("postbound_notices_given_up").await;
        (given_up == 1.0 && of_hook("postbound_notices_waiting").await == 0.0).then_some(())
    })
    .await;
    let examined = town.installation.run(Role::Viewer, &["doctor", "--json"]).await;
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&examined.stdout).unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == "notices").unwrap();
    assert_eq!(
        (&finding["level"], &finding["what"]),
        (&json!("warning"), &json!("hook: 1 notice given up")),
        "{finding}"
    );
    hook.refuse(&[422, 422]);
    assert_eq!(notices(&["retry"]).await, (Some(0), json!({ "retried": 1 })));
    eventually("it is given up once more", SOON, async || {
        let dead = "select count(*) from postbound.notice where dead_at is not null and attempts = 2";
        (town.ask(dead).await == "1" && hook.asked().len() == 5).then_some(())
    })
    .await;
    let erase = ["users", "erase", "t0", "u1", "--force", "--yes"];
    assert!(town.installation.run(Role::Operator, &erase).await.status.success());
    assert_eq!(town.ask("select count(*) from postbound.notice").await, "0");
}

#[tokio::test]
async fn an_attempt_counts_when_it_has_failed_and_what_was_not_begun_is_due_at_once() {
    let installation = Installation::start(Options::default()).await;
    let superuser = installation.database.superuser();
    sqlx::raw_sql(
        "insert into postbound.notice (target, kind, data)
         select 'crm', 'identity.linked', '{}' from generate_series(1, 2)",
    )
    .execute(superuser)
    .await
    .unwrap();
    let hash: String = sqlx::query_scalar("select config_hash from postbound.target where name = 'crm'")
        .fetch_one(superuser)
        .await
        .unwrap();
    let store = installation.database.store(Role::Worker);
    let take = async || store.take_notices("crm", &hash, SOON, 10).await.unwrap();
    let attempts = async || -> Vec<i32> {
        sqlx::query_scalar("select attempts from postbound.notice order by notice_id")
            .fetch_all(superuser)
            .await
            .unwrap()
    };
    let taken = take().await;
    assert_eq!((taken.len(), attempts().await), (2, vec![0, 0]));
    assert!(take().await.is_empty(), "they are held");
    let ids: Vec<i64> = taken.iter().map(|notice| notice.notice_id).collect();
    store.settle_notice(ids[0], Told::Again("http_503", SOON)).await.unwrap();
    store.give_back_notices(&ids[1..]).await.unwrap();
    let again: Vec<i64> = take().await.iter().map(|notice| notice.notice_id).collect();
    assert_eq!((again, attempts().await), (ids[1..].to_vec(), vec![1, 0]));
}
