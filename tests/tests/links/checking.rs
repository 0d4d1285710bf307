//! What is wrong with links is found, and mended.

use super::{SOON, answer, done, held, idle, number, sql, states};
use postbound_tests::{Installation, Options, Role, emit_states, eventually};
use serde_json::Value;

/// What a check finds: fault, user and external id of each, and how it exits.
async fn findings(installation: &Installation, args: &[&str]) -> (i32, Vec<[String; 3]>) {
    let (code, checked) = answer(installation, &[&["links", "check"], args].concat()).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = checked["findings"].as_array().unwrap().iter();
    (code, found.map(|found| ["fault", "user_id", "external_id"].map(|field| text(&found[field]))).collect())
}

fn link(user: &str, system: &str, id: &str) -> String {
    format!(
        "insert into postbound.identity_link (target, tenant_id, user_id, system, external_id)
         values ('crm', 't0', '{user}', '{system}', '{id}');"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_names_what_is_missing_doubled_left_over_and_outlived() {
    let installation = idle().await;
    let seed = [
        states(6, 5),
        held("crm", "u-1", 5),
        held("crm", "u-2", 5),
        held("crm", "u-3", 5),
        held("crm", "u-4", 5),
        held("crm", "u-5", 4),
        // What the backend holds is missing nothing: it has never told an id.
        held("backend", "u-1", 5),
        link("u-1", "", "crm-1"),
        link("u-2", "", "crm-2"),
        link("u-3", "", "crm-2"),
        link("u-5", "", "crm-5"),
        link("u-9", "", "crm-9"),
        "update postbound.user_state set action = 'deleted' where user_id = 'u-5';
         insert into postbound.erased_user (tenant_id, user_id, version) values ('t0', 'u-1', 4);"
            .to_owned(),
    ];
    sql(&installation, &seed.concat()).await;
    let own = |fault: &str, user: &str, id: &str| [fault.to_owned(), user.to_owned(), id.to_owned()];
    let all = [
        own("missing", "u-4", ""),
        own("doubled", "u-2", "crm-2"),
        own("doubled", "u-3", "crm-2"),
        own("stray", "u-9", "crm-9"),
        own("outlived", "u-5", "crm-5"),
    ];
    assert_eq!(findings(&installation, &[]).await, (4, all.to_vec()));
    assert_eq!(findings(&installation, &["--target", "backend"]).await, (0, Vec::new()));
    assert_eq!(findings(&installation, &["--tenant", "t1"]).await, (0, Vec::new()));
    let patient = findings(&installation, &["--older-than", "2h"]).await;
    assert_eq!(patient, (4, all[..4].to_vec()), "the delete is an hour old");
    let (_, checked) = answer(&installation, &["links", "check", "--limit", "1"]).await;
    assert_eq!(
        (checked["findings"].as_array().unwrap().len(), &checked["faults"][1]["found"]),
        (4, &2.into())
    );

    // One user with an id of a system: of all who are held it is missing.
    sql(&installation, &link("u-1", "contact", "c-1")).await;
    let (_, found) = findings(&installation, &[]).await;
    let missing: Vec<_> =
        found.iter().filter(|[fault, ..]| fault == "missing").map(|[_, user, _]| user.as_str()).collect();
    assert_eq!(missing, ["u-4", "u-2", "u-3", "u-4", "u-5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_missing_comes_back_with_a_resync_of_the_user() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), 5, "created").await;
    installation.until_settled(&["backend", "crm"]).await;
    sql(&installation, "delete from postbound.identity_link where user_id = 'user-3'").await;
    let missing = ["missing".to_owned(), "user-3".to_owned(), String::new()];
    assert_eq!(findings(&installation, &[]).await, (4, vec![missing]));

    done(&installation, &["resync", "--target", "crm", "--tenant", "t0", "--user", "user-3"]).await;
    eventually("the link is back", SOON, async || {
        let linked = "select count(*) from postbound.identity_link where user_id = 'user-3'";
        (number(&installation, linked).await == 1).then_some(())
    })
    .await;
    assert_eq!(findings(&installation, &[]).await, (0, Vec::new()));
}
