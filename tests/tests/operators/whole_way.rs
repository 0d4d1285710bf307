use super::{answer, done, number, numbers};
use postbound_tests::Role;
use postbound_tests::{Installation, Options, emit_states, eventually};
use std::{fmt::Write as _, time::Duration};

/// Waits for the jobs' end, as an operator would.
async fn until_ended(installation: &Installation, jobs: &[i64]) {
    for job in jobs {
        let (code, ended) = answer(installation, &["jobs", "status", &job.to_string(), "--watch"]).await;
        assert_eq!((code, ended["state"].as_str()), (0, Some("done")), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_users_reach_every_target_and_go_on_from_there() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let mut lines = String::new();
    for user in 1..=60 {
        let _ = writeln!(
            lines,
            r#"{{"user_id": "old-{user}", "data": {{"email": "old-{user}@t0.example.com"}}}}"#
        );
    }
    let path = installation.path("users.ndjson");
    std::fs::write(&path, lines).unwrap();
    let path = path.display().to_string();
    let report = done(&installation, &["users", "import", "--tenant", "t0", &path, "--yes"]).await;
    assert_eq!(numbers(&report["jobs"], "items"), [60, 60]);
    until_ended(&installation, &numbers(&report["jobs"], "job_id")).await;
    let held = "select count(*) from postbound.delivery_ledger where present and delivered_version = 1";
    assert_eq!(number(&installation, held).await, 120);

    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "old"), 60, "updated").await;
    installation.until_settled(&["backend", "crm"]).await;
    let shown = eventually("user old-7 is in sync", Duration::from_secs(30), async || {
        let (code, shown) = answer(&installation, &["users", "show", "t0", "old-7"]).await;
        (code == 0).then_some(shown)
    })
    .await;
    assert_eq!(numbers(&shown["targets"], "held_version"), [2, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_sends_what_the_ledger_says_is_held() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), 30, "created").await;
    installation.until_settled(&["backend", "crm"]).await;
    let made = done(&installation, &["resync", "--target", "crm", "--tenant", "t0", "--yes"]).await;
    until_ended(&installation, &[made["job"]["job_id"].as_i64().unwrap()]).await;
    let delivered = "select count(*) from postbound.job_item where state = 'delivered'";
    assert_eq!(number(&installation, delivered).await, 30);
    installation.assert_converged().await;
}
