//! The guard-less receivers, with the faults they are kept for.

use postbound_receiver::{Mode, ReceiverConfig};
use serde_json::{Value, json};

use crate::stage::Stage;

fn guardless(config: &mut ReceiverConfig) {
    config.mode = Mode::Guardless;
}

fn batch(email: &str, name: &str) -> Value {
    json!({
        "operation": "user_sync", "tenant": {"id": "acme", "name": "Company"},
        "users": [{"id": "u1", "email": email, "name": name, "roles": ["user"]}],
        "metadata": {"syncType": "single_user"}
    })
}

#[tokio::test]
async fn the_backend_sample_lets_an_older_state_win_and_logs_the_version_it_was_sent() {
    let stage = Stage::start(guardless).await;
    let user =
        |email: &str, action: &str| json!({"id": "u1", "email": email, "isActive": true, "action": action});
    let answer = stage.backend(&[("postbound-user-version", "2")], &user("new@x.io", "created")).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"success": true})));
    stage.backend(&[("postbound-user-version", "1")], &user("old@x.io", "updated")).await;
    let held = "select jsonb_build_array(email, version, is_active) from backend_users";
    assert_eq!(stage.row(held).await, json!(["old@x.io", 1, true]));
    stage.backend(&[("postbound-user-version", "3")], &user("", "deleted")).await;
    assert_eq!(stage.row(held).await, json!(["old@x.io", 3, false]));
    assert_eq!(stage.log().await, ["u1 2 applied 200", "u1 1 applied 200", "u1 3 applied 200"]);
}

#[tokio::test]
async fn the_backend_sample_answers_200_to_updates_of_users_it_does_not_know() {
    let stage = Stage::start(guardless).await;
    for action in ["updated", "deleted", "renamed"] {
        let answer = stage.backend(&[], &json!({"id": "u1", "email": "a@x.io", "action": action})).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"success": true})), "{action}");
    }
    assert_eq!(stage.log().await, ["u1 - ignored 200"; 3]);
    let answer = stage.backend(&[], &json!({"id": 7})).await;
    assert_eq!((answer.status, answer.json()), (400, json!({"error": "Invalid payload"})));
}

#[tokio::test]
async fn the_crm_sample_answers_in_its_own_shape_and_makes_a_second_record_of_a_changed_email() {
    let stage = Stage::start(guardless).await;
    let first = stage.crm(&[("postbound-user-version", "1")], &batch("a@x.io", "A")).await.json();
    let expected = json!({
        "success": true, "message": "Synced 1 users",
        "results": [{"userId": "u1", "status": "created", "crmUserId": first["results"][0]["crmUserId"]}],
        "tenant": "acme", "syncedAt": first["syncedAt"]
    });
    assert_eq!(first, expected);
    let again = stage.crm(&[], &batch("a@x.io", "B")).await.json();
    assert_eq!(again["results"][0]["status"], "updated");
    let moved = stage.crm(&[], &batch("b@x.io", "B")).await.json();
    assert_eq!(moved["results"][0]["status"], "created");
    let held = stage
        .row("select jsonb_agg(jsonb_build_array(user_id, email, name) order by email) from crm_users")
        .await;
    assert_eq!(held, json!([["u1", "a@x.io", "B"], ["u1", "b@x.io", "B"]]));
    assert_eq!(stage.log().await[0], "u1 1 applied 200");
}

#[tokio::test]
async fn the_crm_sample_refuses_any_field_the_document_does_not_list() {
    let stage = Stage::start(|config| {
        guardless(config);
        config.api_key = Some("k".to_owned());
    })
    .await;
    let unauthorized = stage.crm(&[], &batch("a@x.io", "A")).await;
    let expected = json!({"success": false, "error": "Unauthorized - Invalid API key"});
    assert_eq!((unauthorized.status, unauthorized.json()), (401, expected));

    let key = [("x-internal-api-key", "k")];
    let good = batch("a@x.io", "A");
    assert_eq!(stage.crm(&key, &good).await.status, 200);
    for pointer in ["", "/tenant", "/users/0", "/metadata"] {
        let mut body = good.clone();
        body.pointer_mut(pointer).unwrap()["version"] = json!(1);
        let answer = stage.crm(&key, &body).await;
        assert_eq!(answer.status, 400, "{pointer}");
        let body = answer.json();
        assert_eq!((&body["success"], &body["error"]), (&json!(false), &json!("Invalid request format")));
        assert!(body["details"][0]["message"].as_str().unwrap().contains("version"), "{body}");
    }
    for (email, name) in [("", "A"), ("nobody", "A"), ("a@x", "A"), ("a@x.io", "")] {
        assert_eq!(stage.crm(&key, &batch(email, name)).await.status, 400, "{email} {name}");
    }
}
