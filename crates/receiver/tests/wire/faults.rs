//! Injected faults.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgListener;

use crate::stage::Stage;

fn user(id: &str) -> Value {
    json!({"id": id, "email": "a@x.io", "action": "created"})
}

#[tokio::test]
async fn a_fault_answers_as_told_so_often_and_for_those_users_only() {
    let stage = Stage::start(|_| ()).await;
    stage
        .inject(&json!({
            "contract": "s2", "for_users": ["u1"], "times": 2,
            "respond": {"status": 503, "headers": {"retry-after": "30"}, "body": "down"}
        }))
        .await;
    assert_eq!(stage.backend(&[], &user("u2")).await.status, 200);
    for _ in 0..2 {
        let answer = stage.backend(&[], &user("u1")).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("30")));
        assert_eq!(answer.text, "down");
    }
    assert_eq!(stage.backend(&[], &user("u1")).await.status, 200);
    let plan = stage.send("GET", "/_faults", &[], String::new()).await.json();
    assert_eq!((&plan[0]["times"], &plan[0]["hits"]), (&json!(0), &json!(2)));
    assert_eq!(
        stage.log().await,
        ["u2 - applied 200", "u1 - fault 503", "u1 - fault 503", "u1 - applied 200"]
    );
}

#[tokio::test]
async fn deleting_the_plan_ends_it() {
    let stage = Stage::start(|_| ()).await;
    stage.inject(&json!([{"respond": {"status": 500}}, {"drop_connection": true}])).await;
    assert_eq!(stage.backend(&[], &user("u1")).await.status, 500);
    stage.send("DELETE", "/_faults", &[], String::new()).await;
    assert_eq!(stage.backend(&[], &user("u1")).await.status, 200);
}

#[tokio::test]
async fn a_dropped_connection_gives_no_answer_whether_or_not_the_change_was_made() {
    let stage = Stage::start(|_| ()).await;
    for (id, apply) in [("u1", false), ("u2", true)] {
        stage.inject(&json!({"drop_connection": true, "apply": apply, "times": 1})).await;
        let sent = stage.try_send("POST", "/internal/users/sync", &[], user(id).to_string()).await;
        assert!(sent.unwrap_err().is_request(), "{id}");
    }
    assert_eq!(stage.log().await, ["u1 - fault 0", "u2 - applied 200"]);
    assert_eq!(stage.row("select jsonb_agg(user_id) from backend_users").await, json!(["u2"]));
}

#[tokio::test]
async fn a_delayed_request_takes_effect_after_its_client_has_gone() {
    let stage = Stage::start(|_| ()).await;
    sqlx::raw_sql(
        "create function tell() returns trigger language plpgsql as $$ begin perform pg_notify('logged', ''); return null; end $$;
         create trigger tell after insert on request_log execute function tell();",
    )
    .execute(&stage.pool)
    .await
    .unwrap();
    let mut logged = PgListener::connect(&stage.database_url).await.unwrap();
    logged.listen("logged").await.unwrap();

    stage.inject(&json!({"delay_ms": 400})).await;
    let request = stage.http.post(format!("{}/internal/users/sync", stage.base)).json(&user("u1"));
    let sent = request.timeout(Duration::from_millis(50)).send().await;
    assert!(sent.unwrap_err().is_timeout());
    assert!(stage.log().await.is_empty());
    tokio::time::timeout(Duration::from_secs(20), logged.recv())
        .await
        .expect("the request was processed")
        .unwrap();
    assert_eq!(stage.log().await, ["u1 - applied 200"]);
}

#[tokio::test]
async fn without_the_switch_there_are_no_faults_to_inject() {
    let stage = Stage::start(|config| config.faults = false).await;
    let answer = stage.send("PUT", "/_faults", &[], "{}".to_owned()).await;
    assert_eq!(answer.status, 404);
}
