//! Flow 6.

use super::Town;
use super::town::{Habits, TENANT};
use crate::operators::answer;
use postbound_receiver::Fault;
use postbound_tests::{Role, emit_states};
use serde_json::{Value, json};

const USERS: i64 = 120;

/// What the CRM's sync logs have of a resync: how many requests of each kind, how many users, of whom failed how many.
#[derive(Debug, PartialEq)]
struct Logged {
    requests: Vec<(String, i64)>,
    users: i64,
    failed: i64,
}

impl Logged {
    fn kinds(&self) -> Vec<&str> {
        self.requests.iter().map(|(kind, _)| kind.as_str()).collect()
    }
}

/// What is in the sync logs after the row with this number.
async fn logged_since(town: &Town, last: i64) -> Logged {
    let database = town.installation.database.superuser();
    let requests = sqlx::query_as(
        "select details ->> 'syncType', count(*) from receiver.sync_logs where id > $1 group by 1 order by 1",
    );
    let (users, failed) = sqlx::query_as(
        "select coalesce(sum(successful), 0)::bigint, coalesce(sum(failed), 0)::bigint
         from receiver.sync_logs where id > $1",
    )
    .bind(last)
    .fetch_one(database)
    .await
    .unwrap();
    Logged { requests: requests.bind(last).fetch_all(database).await.unwrap(), users, failed }
}

/// Runs a resync of the CRM to its end; gives how many items were delivered, and what its sync logs have of it.
async fn resync(town: &Town, only: &[&str]) -> (Value, Logged) {
    let before = town.number("select coalesce(max(id), 0)::bigint from receiver.sync_logs").await;
    let args = [&["resync", "--target", "crm", "--tenant", TENANT, "--yes"], only].concat();
    let (code, made) = answer(&town.installation, &args).await;
    assert_eq!(code, 0, "{made}");
    let job = made["job"]["job_id"].to_string();
    let (code, ended) = answer(&town.installation, &["jobs", "status", &job, "--watch"]).await;
    assert_eq!((code, &ended["state"]), (0, &json!("done")), "{ended}");
    (ended["items"]["delivered"].clone(), logged_since(town, before).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_6_a_bulk_sync_tells_of_each_user_and_can_be_repeated_without_harm() {
    let town = Town::start(Habits::default()).await;
    let mut producer = town.installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, (TENANT, "user"), i32::try_from(USERS).unwrap(), "created").await;
    town.until_at_rest().await;
    let ids = "select count(distinct crm_user_id) from receiver.crm_users";

    // Live changes are never a full sync.
    assert!(!logged_since(&town, 0).await.kinds().contains(&"full"));

    // Full, twice; what has changed of late; one user.
    for _ in 0..2 {
        let (delivered, logged) = resync(&town, &[]).await;
        assert_eq!((delivered, logged.kinds()), (json!(USERS), vec!["full"]), "{logged:?}");
        assert_eq!((logged.users, logged.failed), (USERS, 0));
        assert_eq!(town.number(ids).await, USERS);
    }
    for narrowed in [&["--changed-since", "1h"][..], &["--user", "user-7", "--user", "user-8"]] {
        let (_, logged) = resync(&town, narrowed).await;
        assert!(!logged.kinds().contains(&"full"), "{narrowed:?}: {logged:?}");
        let users = if narrowed.len() == 2 { USERS } else { 2 };
        assert_eq!((logged.users, logged.failed), (users, 0), "{narrowed:?}");
    }
    let (delivered, logged) = resync(&town, &["--user", "user-7"]).await;
    let single = Logged { requests: vec![("single_user".to_owned(), 1)], users: 1, failed: 0 };
    assert_eq!((delivered, logged), (json!(1), single));
    let mixed = "select count(*) from receiver.sync_logs where total_users > 100";
    assert_eq!(town.number(mixed).await, 0, "a batch is of 100 users at most");
    town.installation.assert_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_in_a_full_sync_and_is_tried_again_is_still_a_part_of_it() {
    let hurried = [("targets.crm.retry.delays", "[\"20ms\"]"), ("targets.crm.retry.schedule", "[\"50ms\"]")];
    let town = Town::start_with(Habits::default(), &hurried).await;
    let mut producer = town.installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, (TENANT, "user"), 20, "created").await;
    town.until_at_rest().await;
    // Three tries at once; the others after it was parked.
    let per_user_fail = vec!["user-7".to_owned()];
    town.installation.crm.fault(Fault { per_user_fail, times: Some(5), ..Fault::default() }).await;
    let (delivered, logged) = resync(&town, &[]).await;
    assert_eq!((delivered, logged.kinds()), (json!(20), vec!["full"]), "{logged:?}");
    assert_eq!((logged.users, logged.failed), (20, 5));
}
