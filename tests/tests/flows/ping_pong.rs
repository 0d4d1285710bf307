//! Two systems that tell back everything they are told.

use super::Town;
use super::town::Habits;
use reqwest::Method;
use serde_json::json;

const USERS: i64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_echoed_by_everybody_come_to_rest() {
    let town = Town::start(Habits { workflow: false, echo: true }).await;
    let versions = "select coalesce(sum(version), 0)::bigint from postbound.user_head";

    // Registered here: one request to each system, and what they say back is nothing new.
    for user in 1..=USERS {
        town.register(&format!("u-{user}"), "One").await;
    }
    town.until_at_rest().await;
    assert_eq!(town.number(versions).await, USERS, "an echo was taken for a change");
    assert_eq!((town.requests("s2").await, town.requests("s3").await), (USERS, USERS));

    // Changed in the backend: the CRM is told, the backend is not.
    for user in 1..=USERS {
        town.in_backend(Method::PUT, &format!("u-{user}"), &json!({"displayName": "Two", "role": "editor"}))
            .await;
    }
    let two = "select count(*) / 10 from receiver.crm_users where name = 'Two'";
    town.until_one("the CRM has them", two).await;
    town.until_at_rest().await;
    assert_eq!(town.number(versions).await, 2 * USERS, "an echo was taken for a change");
    assert_eq!((town.requests("s2").await, town.requests("s3").await), (USERS, 2 * USERS));

    // Changed here, faster than the echoes come back: those of states that were replaced meanwhile must not return them.
    for name in ["Three", "Four", "Five"] {
        for user in 1..=USERS {
            let change = json!({"id": format!("u-{user}"), "displayName": name});
            let (status, answer) = town.ask(Method::PUT, "/api/users", &change).await;
            assert_eq!(status, 200, "{answer}");
        }
    }
    town.until_at_rest().await;
    for held in [
        "select count(*) from receiver.backend_users where display_name = 'Five' and role = 'editor'",
        "select count(*) from receiver.crm_users where name = 'Five'",
        "select count(*) from directory.users where state ->> 'displayName' = 'Five' and state ->> 'role' = 'editor'",
    ] {
        assert_eq!(town.number(held).await, USERS, "{held}");
    }
    let made = town.number(versions).await;
    assert_eq!(made, 5 * USERS, "an echo was taken for a change");
    let (backend, crm) = (town.requests("s2").await, town.requests("s3").await);
    assert!(backend <= 4 * USERS && crm <= 5 * USERS, "{backend} and {crm} requests");
    let echoes = town.number("select count(*) from receiver.notifications").await;
    report(&format!(
        "{made} versions of {USERS} users: {backend} users told to the backend, {crm} to the CRM, {echoes} webhooks back"
    ));
    town.installation.assert_no_complaints();
}

#[expect(clippy::print_stderr, reason = "how many requests it took is what the test is to show")]
fn report(text: &str) {
    eprintln!("{text}");
}
