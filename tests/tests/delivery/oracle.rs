//! The judge of all tests here is no rubber stamp: each promise, broken by hand, is seen to be broken.

use super::emit;
use futures_util::FutureExt as _;
use postbound_tests::{Installation, Options, Oracle};
use std::panic::AssertUnwindSafe;

/// Breaks something in the receivers' tables, asks, and mends it.
async fn check(
    installation: &Installation,
    (harm, mend): (&'static str, &'static str),
    ask: impl AsyncFn(&Oracle<'_>),
) {
    let oracle = installation.oracle();
    for (statement, expected) in [(harm, true), (mend, false)] {
        sqlx::raw_sql(statement).execute(installation.database.superuser()).await.unwrap();
        let noticed = AssertUnwindSafe(ask(&oracle)).catch_unwind().await.is_err();
        assert_eq!(noticed, expected, "after: {statement}");
    }
}

const LATE: &str = "
    insert into receiver.request_log
        (contract, tenant_id, user_id, version, action, event_id, idempotency_key, body_sha256, status, outcome, content)
    select contract, tenant_id, user_id, version, action, event_id, 'late', body_sha256, 200, 'applied', content
    from receiver.request_log where contract = 's2' and user_id = 'user-1' and version = 1";
const NO_LATE: &str = "delete from receiver.request_log where idempotency_key = 'late'";
const AGAIN: &str = "
    insert into receiver.request_log
        (contract, tenant_id, user_id, version, action, event_id, idempotency_key, body_sha256, status, outcome, content)
    select contract, tenant_id, user_id, version, action, event_id, idempotency_key, body_sha256, 200, 'replayed', content
    from receiver.request_log where contract = 's2' and user_id = 'user-1' and version = 1";
const NOT_AGAIN: &str = "delete from receiver.request_log where user_id = 'user-1' and outcome = 'replayed'";
const UNKNOWN: &str = "update receiver.request_log set content = jsonb_set(content, '{avatar}', '\"ghost\"')
    where contract = 's3' and user_id = 'user-2' and version = 2";
const KNOWN: &str =
    "update receiver.request_log as r set content = jsonb_set(content, '{avatar}', c.data->'avatar')
    from postbound.change_log as c where r.contract = 's3' and r.user_id = 'user-2' and r.version = 2
      and c.user_id = 'user-2' and c.version = 2";
const SKIPPED: &str =
    "update receiver.request_log set outcome = 'fault' where user_id = 'user-3' and version = 1";
const NOT_SKIPPED: &str =
    "update receiver.request_log set outcome = 'applied' where user_id = 'user-3' and version = 1";
const OLDER: &str = "update receiver.backend_users set display_name = 'v1' where user_id = 'user-4'";
const NEWEST: &str = "update receiver.backend_users set display_name = 'v2' where user_id = 'user-4'";
const ALIVE: &str =
    "update receiver.crm_users set is_active = true, deleted_at = null where user_id = 'gone-1'";
const DELETED: &str =
    "update receiver.crm_users set is_active = false, deleted_at = now() where user_id = 'gone-1'";
const OTHER_BODY: &str = "update receiver.request_log as r set idempotency_key = o.idempotency_key
    from receiver.request_log as o where r.contract = 's2' and o.contract = 's2' and r.user_id = 'user-5'
      and o.user_id = 'user-5' and r.version = 2 and o.version = 1";
const OWN_BODY: &str = "update receiver.request_log set idempotency_key = 'own'
    where contract = 's2' and user_id = 'user-5' and version = 2";
const BEHIND: &str = "update postbound.user_state set version = 1 where user_id = 'user-6'";
const NOT_BEHIND: &str = "update postbound.user_state set version = 2 where user_id = 'user-6'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_broken_promise_is_noticed() {
    let installation = Installation::start(Options::every_event()).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    for action in ["created", "updated"] {
        emit(&installation, "user", 10, action).await;
    }
    for action in ["created", "deleted"] {
        emit(&installation, "gone", 1, action).await;
    }
    installation.assert_converged().await;

    check(&installation, (LATE, NO_LATE), async |oracle| oracle.assert_order().await).await;
    check(&installation, (AGAIN, NOT_AGAIN), async |oracle| oracle.assert_sound().await).await;
    check(&installation, (UNKNOWN, KNOWN), async |oracle| oracle.assert_no_ghost().await).await;
    check(&installation, (SKIPPED, NOT_SKIPPED), async |oracle| oracle.assert_no_gap("s2").await).await;
    check(&installation, (OLDER, NEWEST), async |oracle| oracle.assert_equal_to_source("s2").await).await;
    check(&installation, (ALIVE, DELETED), async |oracle| oracle.assert_equal_to_source("s3").await).await;
    check(&installation, (OTHER_BODY, OWN_BODY), async |oracle| oracle.assert_one_body_per_key().await).await;
    check(&installation, (BEHIND, NOT_BEHIND), async |oracle| oracle.assert_user_state_is_newest().await)
        .await;
    installation.assert_converged().await;
}
