//! A receiver without a version guard executes a request late, over a newer state. It ends at the newest all the same.

use super::{SOON, emit};
use postbound_receiver::Fault;
use postbound_tests::{Installation, Options, eventually};

async fn keys_of(installation: &Installation, user: &str, version: i64) -> Vec<String> {
    sqlx::query_scalar(
        "select idempotency_key from receiver.request_log
         where contract = 's2' and user_id = $1 and content->>'displayName' = 'v' || $2 order by id",
    )
    .bind(user)
    .bind(version)
    .fetch_all(installation.database.superuser())
    .await
    .unwrap()
}

async fn held_by_backend(installation: &Installation, user: &str) -> Option<String> {
    sqlx::query_scalar("select display_name from receiver.backend_users where user_id = $1")
        .bind(user)
        .fetch_optional(installation.database.superuser())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_executed_late_over_a_newer_success_is_put_right_by_the_newest_state_under_a_new_key() {
    let options = Options::default()
        .guardless()
        .with("targets.backend.timeout", "500ms")
        .with("targets.backend.connect_timeout", "500ms")
        .with("targets.backend.retry.schedule", "[\"1s\"]")
        .with("targets.backend.retry.schedule_jitter", "0.0")
        .with("targets.backend.doubt_after", "10s");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    // The first request is taken, and executed long after the sender has given it up.
    let late =
        Fault { for_users: vec!["user-1".to_owned()], times: Some(1), delay_ms: 9_000, ..Fault::default() };
    installation.backend.fault(late).await;
    emit(&installation, "user", 1, "created").await;
    eventually("it is parked", SOON, async || {
        let parked: i64 =
            sqlx::query_scalar("select count(*) from postbound.parked_user where class = 'unknown'")
                .fetch_one(installation.database.superuser())
                .await
                .unwrap();
        (parked == 1).then_some(())
    })
    .await;
    emit(&installation, "user", 1, "updated").await;
    eventually("the newer state is delivered", SOON, async || {
        (held_by_backend(&installation, "user-1").await.as_deref() == Some("v2")).then_some(())
    })
    .await;
    eventually("the older request is executed over it", SOON, async || {
        (held_by_backend(&installation, "user-1").await.as_deref() == Some("v1")).then_some(())
    })
    .await;
    eventually("the newest state is there again", SOON, async || {
        (held_by_backend(&installation, "user-1").await.as_deref() == Some("v2")).then_some(())
    })
    .await;
    let keys = keys_of(&installation, "user-1", 2).await;
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_ne!(keys[0], keys[1], "a receiver that remembers the key would not have applied it");
    eventually("the doubt is gone", SOON, async || {
        let left: i64 = sqlx::query_scalar("select count(*) from postbound.doubt")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
        (left == 0).then_some(())
    })
    .await;
}
