//! Registrations start a workflow of the backend.

use super::{HURRIED, Town};
use postbound_receiver::{Contract, Fault};
use postbound_tests::{API_KEY, answers, emit_states, eventually};

/// A fault of the workflow alone, for so many requests.
fn of_workflow(times: u32, fault: Fault) -> Fault {
    Fault { contract: Some(Contract::S0), times: Some(times), ..fault }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_is_welcomed_once_however_often_its_trigger_is_retried() {
    let town = Town::start("signup", |installation| {
        let base = installation.backend.base_url();
        format!("adapter = \"workflow-trigger\"\nurl = \"{base}\"\napi_key = \"{API_KEY}\"\n{HURRIED}")
    })
    .await;
    let installation = &town.installation;
    // Run, and the answer lost; then not run at all.
    for fault in [
        of_workflow(8, Fault { apply: true, drop_connection: true, ..Fault::default() }),
        of_workflow(8, answers(500, &[])),
    ] {
        installation.backend.fault(fault).await;
        let mut producer = installation.database.connect(postbound_tests::Role::Producer).await;
        emit_states(&mut producer, ("t0", "user"), 6, "created").await;
        eventually("the fault is used up", super::SOON, async || {
            (installation.backend.fault_hits().await >= 8).then_some(())
        })
        .await;
        installation.until_settled(&["signup"]).await;
        for action in ["updated", "deleted"] {
            emit_states(&mut producer, ("t0", "user"), 6, action).await;
        }
        installation.until_settled(&["signup", "backend"]).await;
    }
    // Each registered twice, as each came back after a delete; the user and the welcome stay the same.
    assert_eq!(
        town.ask("select count(*) from receiver.request_log where contract = 's0' and outcome = 'applied'")
            .await,
        "12"
    );
    assert_eq!(town.ask("select count(*) from receiver.frontend_users").await, "6");
    assert_eq!(town.ask("select count(*) from receiver.welcome_emails").await, "6");
    let keys = "select count(distinct idempotency_key) from receiver.request_log where contract = 's0'";
    assert_eq!(town.ask(keys).await, "12", "a retry is the same request");
    assert_eq!(town.ask("select count(*) from postbound.doubt where target = 'signup'").await, "0");
    installation.oracle().assert_one_body_per_key().await;

    let linked = "select count(*) from postbound.identity_link as l join receiver.frontend_users as u
                  on l.user_id = u.convex_user_id collate \"C\" and l.tenant_id = u.tenant_id collate \"C\"
                  where l.target = 'signup'
                    and l.external_id = case l.system when 'frontendUserId' then u.frontend_user_id
                                                      when 'crmContactId' then u.crm_contact_id end collate \"C\"";
    assert_eq!(town.ask(linked).await, "12", "both ids of all six");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_down_at_registration_hears_of_it_when_it_is_back() {
    let mut town = Town::start("signup", |installation| {
        let base = installation.backend.base_url();
        format!("adapter = \"workflow-trigger\"\nurl = \"{base}\"\napi_key = \"{API_KEY}\"\n{HURRIED}")
    })
    .await;
    town.installation.backend.stop().await;
    for n in 0..5 {
        let data = format!(r#"{{"email": "u{n}@example.com", "authProvider": "google", "firstName": "U"}}"#);
        town.emit("t0", &format!("u{n}"), "created", &data).await;
    }
    town.installation.until_settled(&["crm"]).await;
    assert_eq!(town.ask("select count(*) from postbound.identity_link where target = 'signup'").await, "0");
    town.installation.backend.start_again().await;
    town.installation.until_settled(&["signup", "backend", "crm"]).await;
    assert_eq!(town.ask("select count(*) from postbound.identity_link where target = 'signup'").await, "10");
    let providers =
        "select string_agg(distinct custom_properties->>'authProvider', ' ') from receiver.frontend_users";
    assert_eq!(town.ask(providers).await, "google");
    assert!(town.installation.letters("signup").await.is_empty());
}
