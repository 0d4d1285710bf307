use super::{done, idle, letters, numbers, sql};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_action_leaves_a_row_that_nobody_can_take_back() {
    let installation = idle().await;
    sql(&installation, &letters("crm", 3, "http_422", "permanent", 422)).await;
    for letter in ["1", "2", "3"] {
        done(&installation, &["dead-letters", "discard", letter, "--as", "ada"]).await;
    }
    let newest = done(&installation, &["audit", "list", "--limit", "2"]).await;
    assert_eq!(numbers(&newest, "audit_id"), [3, 2]);
    let row = &newest[0];
    assert_eq!((&row["login"], &row["acting_as"]), (&"test_postbound_operator".into(), &"ada".into()));
    assert_eq!(row["filter"]["letters"]["letters"], serde_json::json!([3]));
    assert_eq!(row["counts"]["letters"], 1);
    assert_eq!(numbers(&done(&installation, &["audit", "list", "--after", "2"]).await, "audit_id"), [1]);
    let mut operator = installation.database.connect(postbound_tests::Role::Operator).await;
    for forbidden in [
        "delete from postbound.audit",
        "update postbound.audit set acting_as = 'grace'",
        "insert into postbound.audit (login, command) values ('grace', 'jobs cancel')",
        "insert into postbound.audit (at, command) values (now() - interval '1 day', 'jobs cancel')",
    ] {
        let error = sqlx::query(forbidden).execute(&mut operator).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{forbidden}");
    }
}
