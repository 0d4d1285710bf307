//! The night with many dead letters: commands answer at once whatever is asked for.

use super::{done, held, idle, letters, sql, states};
use postbound_tests::Installation;
use std::time::{Duration, Instant};

/// A bound for a machine that does other things as well; on an idle one each answers within a second.
const AT_ONCE: Duration = Duration::from_secs(5);

async fn timed(installation: &Installation, args: &[&str]) -> serde_json::Value {
    let started = Instant::now();
    let answer = done(installation, args).await;
    let took = started.elapsed();
    assert!(took < AT_ONCE, "{args:?} took {took:?}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_letters_are_searched_and_replayed_at_once() {
    let installation = idle().await;
    let seed = [
        letters("crm", 90_000, "http_500", "transient", 500),
        letters("backend", 10_000, "http_422", "permanent", 422),
        "insert into postbound.delivery_ledger (target, tenant_id, user_id, delivered_version, present, delivered_at)
         select 'crm', 't0', 'u-' || n, case when n % 2 = 0 then 5 else 4 end, true, now() from generate_series(1, 90000) as n;
         analyze postbound.dead_letter; analyze postbound.delivery_ledger"
            .to_owned(),
    ];
    sql(&installation, &seed.concat()).await;
    timed(&installation, &["dead-letters", "list"]).await;
    timed(&installation, &["dead-letters", "list", "--user", "u-77777"]).await;
    timed(&installation, &["dead-letters", "list", "--text", "nowhere to be found"]).await;
    timed(&installation, &["dead-letters", "list", "--state", "closed", "--after", "50000"]).await;
    let summary = timed(&installation, &["dead-letters", "summary"]).await;
    assert_eq!(super::numbers(&summary, "letters"), [45_000, 10_000]);
    timed(&installation, &["targets", "list"]).await;
    let replay = ["dead-letters", "replay", "--target", "crm"];
    timed(&installation, &[&replay[..], &["--dry-run"]].concat()).await;
    let made = timed(&installation, &[&replay[..], &["--limit", "40000", "--yes"]].concat()).await;
    assert_eq!(super::numbers(&made["jobs"], "items"), [40_000]);
    timed(&installation, &["jobs", "status", "1"]).await;
    let rest = timed(&installation, &[&replay[..], &["--yes"]].concat()).await;
    assert_eq!(super::numbers(&rest["jobs"], "items"), [5000]);
    timed(&installation, &["jobs", "cancel", "1", "--yes"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_users_are_resynced_and_reconciled_by_one_statement() {
    let installation = idle().await;
    let seed = [states(200_000, 5), held("crm", "u-1", 5), "analyze postbound.user_state".to_owned()];
    sql(&installation, &seed.concat()).await;
    let resync = ["resync", "--target", "crm", "--tenant", "t0"];
    timed(&installation, &[&resync[..], &["--dry-run"]].concat()).await;
    let made = done(&installation, &[&resync[..], &["--yes"]].concat()).await;
    assert_eq!(made["job"]["items"], 200_000);
    done(&installation, &["jobs", "cancel", "1", "--yes"]).await;
    let made = done(&installation, &["reconcile", "--target", "crm", "--yes"]).await;
    assert_eq!(made[0]["job"]["items"], 199_999);
    timed(&installation, &["jobs", "list"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_day_one_are_imported_by_the_ten_thousand() {
    let installation = idle().await;
    let query =
        "select 'u-' || n as user_id, jsonb_build_object('email', 'u-' || n || '@secret.example') as data
                 from generate_series(1, 20000) as n";
    let import = ["users", "import", "--tenant", "t0", "--query", query];
    let report = timed(&installation, &[&import[..], &["--dry-run"]].concat()).await;
    assert_eq!(report["imported"], 20_000);
    let started = Instant::now();
    let report = done(&installation, &[&import[..], &["--yes"]].concat()).await;
    assert_eq!(super::numbers(&report["jobs"], "items"), [20_000, 20_000]);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
}
