use super::{answer, done, held, idle, letters, number, parked, refused, sql, states};
use serde_json::{Value, json};

/// State and reason of a user at the CRM, and the exit code.
async fn at_crm(installation: &postbound_tests::Installation, user: &str) -> (i32, String, String) {
    let (code, shown) = answer(installation, &["users", "show", "t0", user]).await;
    let crm = shown["targets"].as_array().unwrap().iter().find(|target| target["target"] == "crm").unwrap();
    (code, crm["state"].as_str().unwrap().to_owned(), crm["why"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn show_says_where_a_user_stands_at_each_target_and_why() {
    let installation = idle().await;
    let at_backend: String = (1..=6).map(|n| held("backend", &format!("u-{n}"), 5)).collect();
    let seed = [
        states(6, 5),
        at_backend,
        held("crm", "u-1", 5),
        parked("crm", "u-2", 5, "updated"),
        letters("crm", 3, "http_422", "permanent", 422),
        "delete from postbound.dead_letter where user_id <> 'u-3';
         update postbound.user_state set targets = '{backend}' where user_id = 'u-5';
         insert into postbound.identity_link (target, tenant_id, user_id, external_id) values ('crm', 't0', 'u-1', 'crm-1');"
            .to_owned(),
    ];
    sql(&installation, &seed.concat()).await;
    let check = async |user, code, state: &str, because: &str| {
        let found = at_crm(&installation, user).await;
        assert_eq!((found.0, found.1.as_str()), (code, state), "{user}: {found:?}");
        assert!(found.2.contains(because), "{user}: {found:?}");
    };
    check("u-1", 0, "in_sync", "since").await;
    check("u-2", 4, "parked", "attempt 3 failed: http_503 (maintenance); next at").await;
    check("u-3", 4, "dead", "letter 3: http_422").await;
    check("u-4", 4, "on_its_way", "which no worker serves").await;
    check("u-5", 0, "not_for_this_target", "not for this target").await;
    done(&installation, &["targets", "pause", "crm", "--reason", "migration", "--as", "ada"]).await;
    check("u-2", 4, "held_back", "the target is paused by ada").await;
    check("u-6", 4, "held_back", "migration").await;
    check("u-1", 0, "in_sync", "since").await;
    let (_, shown) = answer(&installation, &["users", "show", "t0", "u-1"]).await;
    assert_eq!((&shown["version"], &shown["targets"][1]["external_id"]), (&json!(5), &json!("crm-1")));
    let (code, said) = refused(&installation, &["users", "show", "t0", "nobody"]).await;
    assert!(code == 1 && said.contains("nobody has written user nobody"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_has_every_change_and_shows_data_only_to_those_who_ask() {
    let installation = idle().await;
    let mut producer = installation.database.connect(postbound_tests::Role::Producer).await;
    for action in ["created", "updated", "deleted"] {
        sqlx::query("select postbound.emit('t0', 'u-1', $1, '{\"email\": \"u-1@secret.example\"}')")
            .bind(action)
            .execute(&mut producer)
            .await
            .unwrap();
    }
    sql(&installation, &letters("crm", 1, "http_422", "permanent", 422)).await;
    let history = done(&installation, &["users", "history", "t0", "u-1"]).await;
    let actions: Vec<_> = history["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["version"].as_i64(), change["action"].as_str()))
        .collect();
    assert_eq!(actions, [(Some(3), Some("deleted")), (Some(2), Some("updated")), (Some(1), Some("created"))]);
    assert_eq!(history["letters"][0]["letter_id"], 1);
    assert!(!history.to_string().contains("secret.example"), "{history}");
    let with_data = done(&installation, &["users", "history", "t0", "u-1", "--data", "--limit", "1"]).await;
    assert_eq!(with_data["changes"][0]["data"]["email"], "u-1@secret.example");
    let none = done(&installation, &["users", "history", "t0", "u-1", "--since", "2100-01-01"]).await;
    assert_eq!(none["changes"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_wakes_a_parked_user_and_replays_a_dead_letter() {
    let installation = idle().await;
    let seed = [
        states(2, 5),
        parked("backend", "u-1", 5, "updated"),
        letters("crm", 1, "http_422", "permanent", 422),
        letters("backend", 1, "http_422", "permanent", 422),
    ];
    sql(&installation, &seed.concat()).await;
    let due = "select count(*) from postbound.parked_user where next_attempt_at <= clock_timestamp()";
    assert_eq!(number(&installation, due).await, 0);
    let retried = done(&installation, &["users", "retry", "t0", "u-1", "--as", "ada"]).await;
    assert_eq!(retried["retried"], json!(["backend"]));
    assert_eq!(number(&installation, due).await, 1);
    assert_eq!(
        super::numbers(&retried["jobs"], "items"),
        [1],
        "the backend's letter is older than what waits there"
    );
    assert_eq!(retried["jobs"][0]["target"], "crm");
    let nothing = done(&installation, &["users", "retry", "t0", "u-2"]).await;
    assert_eq!(nothing, json!({"retried": [], "jobs": []}));
    let audit: Vec<Value> = done(&installation, &["audit", "list"]).await.as_array().unwrap().clone();
    assert!(
        audit.iter().all(|row| row["command"] == "users retry" && row["acting_as"] == "ada"),
        "{audit:?}"
    );
    assert_eq!(audit.len(), 2);
}
