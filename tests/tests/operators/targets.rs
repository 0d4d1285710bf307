use super::{done, idle, letters, number, parked, refused, sql};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_target_says_who_paused_it_and_why_until_it_is_resumed() {
    let installation = idle().await;
    let seed = [letters("crm", 2, "http_422", "permanent", 422), parked("crm", "u-9", 3, "updated")];
    sql(&installation, &seed.concat()).await;
    done(&installation, &["targets", "pause", "crm", "--reason", "migration", "--as", "ada"]).await;
    done(&installation, &["targets", "pause", "backend", "--tenant", "t0", "--reason", "noisy"]).await;
    let list = done(&installation, &["targets", "list"]).await;
    let [backend, crm] = [&list[0], &list[1]];
    assert_eq!((&backend["target"], &crm["target"]), (&json!("backend"), &json!("crm")));
    assert_eq!(
        (&crm["open_letters"], &crm["parked_users"], &crm["partitions"]),
        (&json!(2), &json!(1), &json!(2))
    );
    assert_eq!(
        (&crm["closed"][0]["paused_by"], &crm["closed"][0]["pause_reason"]),
        (&json!("ada"), &json!("migration"))
    );
    assert_eq!(
        (&backend["closed"][0]["tenant"], &backend["closed"][0]["paused_by"]),
        (&json!("t0"), &json!("test_postbound_operator"))
    );
    let resumed = done(&installation, &["targets", "resume", "crm"]).await;
    assert_eq!(resumed["state"], "open");
    let again = done(&installation, &["targets", "resume", "crm"]).await;
    assert_eq!(again["state"], "not_paused");
    assert_eq!(done(&installation, &["targets", "list"]).await[1]["closed"], json!([]));
    let audit = done(&installation, &["audit", "list"]).await;
    let commands: Vec<_> =
        audit.as_array().unwrap().iter().map(|row| &row["command"]).collect::<Vec<&Value>>();
    assert_eq!(commands, ["targets resume", "targets pause", "targets pause"]);
    let (code, said) = refused(&installation, &["targets", "pause", "cmr", "--reason", "typo"]).await;
    assert!(code == 2 && said.contains("there is no target cmr; there are: backend, crm"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_name_never_means_all() {
    let installation = idle().await;
    sql(&installation, &letters("crm", 2, "http_422", "permanent", 422)).await;
    for args in [
        &["targets", "pause", "crm", "--tenant", "", "--reason", "typo"][..],
        &["targets", "resume", "crm", "--tenant", ""],
        &["dead-letters", "discard", "--text", ""],
        &["dead-letters", "replay", "--tenant", ""],
        &["resync", "--target", "crm", "--tenant", "t0", "--user", ""],
        &["reconcile", "--target", ""],
        &["users", "retry", "t0", "u-1", "--target", ""],
    ] {
        let (code, said) = refused(&installation, args).await;
        assert!(code == 2 && said.contains("it is empty"), "{args:?}: {said}");
    }
    assert_eq!(number(&installation, "select count(*) from postbound.audit").await, 0);
    assert_eq!(number(&installation, "select count(*) from postbound.breaker").await, 0);
}
