//! Rolling upgrades: messages of other versions are in the queues, as their relays wrote them.

use super::{SOON, emit};
use postbound_event::UserKey;
use postbound_tests::{Installation, Options, eventually};

/// As the first version wrote it: without `resend`, `jobid`, `jobitem`, `jobrepeats`, `origin`, `traceparent`.
const FIRST: &str = r#"[{"specversion":"1.0","id":"0190a1b2-0000-7000-8000-000000000001","source":"/postbound/outbox",
    "type":"user.created","subject":"of-the-first","time":"2026-01-02T03:04:05.678901Z","tenantid":"t0","userversion":"1",
    "logid":"1","data":{"email":"first@example.com","displayName":"First"}}]"#;

/// As a version to come may write it, with attributes and fields nobody knows yet.
const LATER: &str = r#"[{"specversion":"1.0","id":"0190a1b2-0000-7000-8000-000000000002","source":"/postbound/outbox",
    "type":"user.updated","subject":"of-a-later","time":"2030-01-02T03:04:05Z","tenantid":"t0","userversion":"7",
    "logid":"2","shard":"eu-1","priority":5,"labels":{"a":[1]},"data":{"email":"later@example.com","pronouns":"they"}}]"#;

async fn publish(installation: &Installation, partitions: u16, user: &str, message: &str) {
    let partition = UserKey::new("t0", user).partition(partitions);
    let routing_key = format!("g1.p{partition:03}");
    installation.vhost.publish(&installation.http, "postbound.backend", &routing_key, message).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_the_first_version_and_of_one_to_come_are_delivered_among_those_of_this_one() {
    let options = Options::default();
    let partitions = options.partitions;
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    emit(&installation, "now", 5, "created").await;
    publish(&installation, partitions, "of-the-first", FIRST).await;
    publish(&installation, partitions, "of-a-later", LATER).await;
    emit(&installation, "now", 5, "updated").await;
    for (user, taken) in [("of-the-first", (1, "created")), ("of-a-later", (7, "created"))] {
        eventually(&format!("the backend has {user}"), SOON, async || {
            let has = installation.oracle().taken("s2", user).await;
            (has == [(taken.0, taken.1.to_owned())]).then_some(())
        })
        .await;
    }
    installation.until_settled(&["backend", "crm"]).await;
    assert_eq!(installation.letters("backend").await.len(), 0);
}
