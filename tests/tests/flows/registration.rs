//! Flows 1 to 3.

use super::town::{Habits, TENANT, clerk_user, said};
use super::{SOON, Town};
use postbound_tests::{Role, eventually};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_1_a_registered_user_exists_everywhere_and_both_ids_come_back() {
    let town = Town::start(Habits { workflow: true, echo: false }).await;
    let (status, answer) =
        town.clerk("msg_1", &clerk_user("user.created", "user_1", "Ada", 1_700_000_000_000)).await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("applied")), "{answer}");
    // The sender did not hear the answer and sends it again; the user signs in, of which Clerk tells, too.
    town.clerk("msg_1", &clerk_user("user.created", "user_1", "Ada", 1_700_000_000_000)).await;
    town.clerk("msg_2", &clerk_user("user.updated", "user_1", "Ada", 1_700_000_000_500)).await;
    town.until_at_rest().await;

    let user = town.user("user_1").await;
    assert_eq!((&user["email"], &user["theme"]), (&json!("user_1@example.com"), &json!("system")), "{user}");
    for held in [
        "select count(*) from receiver.backend_users where user_id = 'user_1' and display_name = 'Ada Lovelace' and is_active",
        "select count(*) from receiver.crm_users where user_id = 'user_1' and email = 'user_1@example.com' and is_active",
        "select count(*) from receiver.request_log where contract = 's0' and user_id = 'user_1'",
        "select count(*) from receiver.frontend_users as f join postbound.identity_link as i
           on i.external_id = f.frontend_user_id and i.target = 'workflow' and i.system = 'frontendUserId'
          where f.convex_user_id = 'user_1' and i.user_id = 'user_1'",
        "select count(*) from receiver.crm_contacts as c join postbound.identity_link as i
           on i.external_id = c.crm_contact_id and i.target = 'workflow' and i.system = 'crmContactId'
          where c.email = 'user_1@example.com' and i.user_id = 'user_1'",
        "select count(*) from receiver.crm_users as c join postbound.identity_link as i
           on i.external_id = c.crm_user_id and i.target = 'crm' where i.user_id = 'user_1'",
    ] {
        assert_eq!(town.number(held).await, 1, "{held}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_2_a_backend_that_is_down_delays_no_registration_and_gets_it_when_it_is_back() {
    let mut town = Town::start(Habits::default()).await;
    town.installation.backend.stop().await;
    town.register("u-1", "Ada").await;
    town.until_one("the CRM has the user", "select count(*) from receiver.crm_users where user_id = 'u-1'")
        .await;

    let status = town.installation.run(Role::Operator, &["users", "show", TENANT, "u-1", "--json"]).await;
    assert_eq!(status.status.code(), Some(4), "{status:?}");
    let shown: Value = serde_json::from_slice(&status.stdout).unwrap();
    let backend = shown["targets"].as_array().unwrap().iter().find(|at| at["target"] == "backend").unwrap();
    assert_eq!(backend["held_version"], 0, "{backend}");
    let sync = town.ask(Method::GET, "/v1/users/default/u-1/sync", &Value::Null).await;
    assert!(sync.0 == 200 && sync.1.to_string().contains("pending"), "{sync:?}");

    town.installation.backend.start_again().await;
    town.until_at_rest().await;
    let held = "select count(*) from receiver.backend_users where user_id = 'u-1' and version = 1";
    assert_eq!(town.number(held).await, 1);
    eventually("the operator sees it", SOON, async || {
        let status = town.installation.run(Role::Operator, &["users", "show", TENANT, "u-1"]).await;
        status.status.success().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_3_an_update_and_a_delete_reach_every_target_and_a_delete_is_soft_there() {
    let town = Town::start(Habits::default()).await;
    town.register("u-1", "Ada").await;
    let (status, user) = town
        .ask(Method::PUT, "/api/users", &json!({"id": "u-1", "displayName": "Augusta", "theme": "dark"}))
        .await;
    assert_eq!((status, &user["theme"], &user["version"]), (200, &json!("dark"), &json!(2)), "{user}");
    // The same once more says nothing new.
    let (_, user) =
        town.ask(Method::PUT, "/api/users", &json!({"id": "u-1", "displayName": "Augusta"})).await;
    assert_eq!(user["version"], 2);
    town.until_at_rest().await;
    for held in [
        "select count(*) from receiver.backend_users where user_id = 'u-1' and display_name = 'Augusta' and version = 2",
        "select count(*) from receiver.crm_users where user_id = 'u-1' and name = 'Augusta' and version = 2",
    ] {
        assert_eq!(town.number(held).await, 1, "{held}");
    }

    let request = town.request(Method::DELETE, "/api/users?id=u-1&reason=asked%20for");
    let unknown = said(request.try_clone().unwrap().bearer_auth("nobody").send().await.unwrap()).await;
    assert_eq!(unknown.0, 401, "{unknown:?}");
    let (status, user) = town.ask(Method::DELETE, "/api/users?id=u-1&reason=asked%20for", &Value::Null).await;
    assert_eq!(
        (status, &user["isActive"], &user["reason"]),
        (200, &json!(false), &json!("asked for")),
        "{user}"
    );
    town.until_at_rest().await;
    for held in [
        "select count(*) from receiver.backend_users where user_id = 'u-1' and deleted_at is not null and not is_active",
        "select count(*) from receiver.crm_users where user_id = 'u-1' and deleted_at is not null and not is_active",
        "select count(*) from directory.users where id = 'u-1' and deleted_at is not null and not is_active",
    ] {
        assert_eq!(town.number(held).await, 1, "{held}");
    }
}
