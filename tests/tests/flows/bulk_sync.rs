//! Flow 6.

use super::Town;
use super::town::{Habits, TENANT};
use crate::operators::answer;
use postbound_tests::{Role, emit_states};
use serde_json::{Value, json};

const USERS: i64 = 120;

/// Runs a resync of the CRM to its end; gives how many items were delivered and how many users its sync logs count.
async fn resync(town: &Town, only: &[&str]) -> (Value, i64) {
    let counted = "select coalesce(sum(successful), 0)::bigint from receiver.sync_logs";
    let before = town.number(counted).await;
    let args = [&["resync", "--target", "crm", "--tenant", TENANT, "--yes"], only].concat();
    let (code, made) = answer(&town.installation, &args).await;
    assert_eq!(code, 0, "{made}");
    let job = made["job"]["job_id"].to_string();
    let (code, ended) = answer(&town.installation, &["jobs", "status", &job, "--watch"]).await;
    assert_eq!((code, &ended["state"]), (0, &json!("done")), "{ended}");
    (ended["items"]["delivered"].clone(), town.number(counted).await - before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_6_a_bulk_sync_tells_of_each_user_and_can_be_repeated_without_harm() {
    let town = Town::start(Habits::default()).await;
    let mut producer = town.installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, (TENANT, "user"), i32::try_from(USERS).unwrap(), "created").await;
    town.until_at_rest().await;
    let ids = "select count(distinct crm_user_id) from receiver.crm_users";

    // Full, twice; what has changed of late; one user.
    for _ in 0..2 {
        assert_eq!(resync(&town, &[]).await, (json!(USERS), USERS));
        assert_eq!(town.number(ids).await, USERS);
    }
    assert_eq!(resync(&town, &["--changed-since", "1h"]).await, (json!(USERS), USERS));
    assert_eq!(resync(&town, &["--user", "user-7"]).await, (json!(1), 1));
    let failed = "select coalesce(sum(failed), 0)::bigint from receiver.sync_logs";
    assert_eq!(town.number(failed).await, 0);
    let mixed = "select count(*) from receiver.sync_logs where total_users > 100";
    assert_eq!(town.number(mixed).await, 0, "a batch is of 100 users at most");
    town.installation.assert_converged().await;
}
