//! Links are written with the ledger, and found from both sides.

use super::{answer, done, number, refused, sql};
use postbound_event::UserKey;
use postbound_store::{NewLink, Settlement, Verdict};
use postbound_tests::{Installation, Options, Role, TestDatabase, emit_states};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_delivery_the_id_is_found_from_both_sides() {
    let installation = Installation::start(Options::default().partitions(2)).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let mut producer = installation.database.connect(Role::Producer).await;
    emit_states(&mut producer, ("t0", "user"), 20, "created").await;
    installation.until_settled(&["backend", "crm"]).await;

    let links = done(&installation, &["links", "show", "t0", "user-7"]).await;
    let link = &links[0];
    assert_eq!(
        (links.as_array().unwrap().len(), &link["target"], &link["system"]),
        (1, &json!("crm"), &json!(""))
    );
    assert_eq!((&link["held_version"], &link["present"]), (&json!(1), &json!(true)));
    let first_synced = link["last_synced_at"].as_str().unwrap().to_owned();
    let id = link["external_id"].as_str().unwrap();
    let found = done(&installation, &["links", "find", "crm", id]).await;
    assert_eq!((found.as_array().unwrap().len(), &found[0]), (1, link));
    let (code, said) = refused(&installation, &["links", "find", "crm", "crm-none"]).await;
    assert!(code == 1 && said.contains("no user is linked to crm-none of crm"), "{said}");
    let elsewhere = ["links", "find", "crm", id, "--tenant", "t1"];
    assert_eq!(refused(&installation, &elsewhere).await.0, 1);
    let (code, said) = refused(&installation, &["links", "show", "t0", "nobody"]).await;
    assert!(code == 1 && said.contains("nobody has written user nobody"), "{said}");
    let (code, checked) = answer(&installation, &["links", "check"]).await;
    assert_eq!((code, &checked["findings"]), (0, &json!([])));

    // A later success says that the link holds still, without writing it again.
    emit_states(&mut producer, ("t0", "user"), 20, "updated").await;
    installation.until_settled(&["backend", "crm"]).await;
    let links = done(&installation, &["links", "show", "t0", "user-7"]).await;
    assert!(links[0]["last_synced_at"].as_str().unwrap() > first_synced.as_str(), "{links}");
    let rewritten = "select count(*) from postbound.identity_link where version <> 1";
    assert_eq!(number(&installation, rewritten).await, 0);

    // A deleted user's link stays: the target's own report of the delete has to find the user.
    emit_states(&mut producer, ("t0", "user"), 7, "deleted").await;
    installation.until_settled(&["backend", "crm"]).await;
    let found = done(&installation, &["links", "find", "crm", id]).await;
    assert_eq!((&found[0]["deleted"], &found[0]["present"]), (&json!(true), &json!(false)));
    assert_eq!(answer(&installation, &["links", "check"]).await.0, 0);
}

#[tokio::test]
async fn links_of_one_settlement_are_written_together_and_an_older_answer_changes_none() {
    let database = TestDatabase::new().await;
    let store = database.store(Role::Worker);
    let settled = |version: i64, ids: &[(&str, &str)]| {
        let links = ids
            .iter()
            .map(|(system, id)| NewLink { system: (*system).into(), external_id: (*id).to_owned() })
            .collect();
        Settlement {
            target: "workflow".into(),
            key: UserKey::new("t0", "u"),
            version,
            verdict: Verdict::Delivered { present: true, links },
            aftermath: None,
            under: None,
        }
    };
    let ids = async || -> Vec<(String, String, i64)> {
        sqlx::query_as("select system, external_id, version from postbound.identity_link order by system")
            .fetch_all(database.superuser())
            .await
            .unwrap()
    };
    let check = async |what: &str, settlement: Settlement, expected: &[(&str, &str, i64)]| {
        assert_eq!(store.settle(&[settlement]).await.unwrap(), [true], "{what}");
        let expected: Vec<_> = expected
            .iter()
            .map(|(system, id, version)| ((*system).to_owned(), (*id).to_owned(), *version))
            .collect();
        assert_eq!(ids().await, expected, "{what}");
    };
    check("an answer without ids", settled(1, &[]), &[]).await;
    let both = [("crmContactId", "c-1"), ("frontendUserId", "f-1")];
    check("two ids", settled(2, &both), &[("crmContactId", "c-1", 2), ("frontendUserId", "f-1", 2)]).await;
    check("the same later", settled(5, &both), &[("crmContactId", "c-1", 2), ("frontendUserId", "f-1", 2)])
        .await;
    let renewed = [("crmContactId", "c-9", 7), ("frontendUserId", "f-1", 2)];
    check("another id", settled(7, &[("crmContactId", "c-9")]), &renewed).await;
    check("an older answer that comes late", settled(3, &[("crmContactId", "c-1")]), &renewed).await;
    check(
        "an odd one",
        settled(8, &[("crmContactId", "\"c\\'\u{e9}")]),
        &[("crmContactId", "\"c\\'\u{e9}", 8), ("frontendUserId", "f-1", 2)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_user_is_not_linked_again_by_an_answer_that_comes_late() {
    let installation = super::idle().await;
    sql(
        &installation,
        "insert into postbound.user_head values ('t0', 'u', 4, true);
         insert into postbound.erased_user (tenant_id, user_id, version) values ('t0', 'u', 4);",
    )
    .await;
    let store = installation.database.store(Role::Worker);
    let late = |version| Settlement {
        target: "crm".into(),
        key: UserKey::new("t0", "u"),
        version,
        verdict: Verdict::Delivered {
            present: true,
            links: vec![NewLink { system: "".into(), external_id: "crm-1".to_owned() }],
        },
        aftermath: None,
        under: None,
    };
    let links = "select count(*) from postbound.identity_link";
    store.settle(&[late(4)]).await.unwrap();
    assert_eq!(number(&installation, links).await, 0);
    store.settle(&[late(5)]).await.unwrap();
    assert_eq!(number(&installation, links).await, 1, "who registers again is another matter");
}

/// The plan of a query as the superuser would have it, with these planner settings off.
async fn plan(database: &TestDatabase, query: &str) -> String {
    let mut connection = database.connect(Role::Operator).await;
    let lines: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("explain {query}")))
        .fetch_all(&mut connection)
        .await
        .unwrap();
    lines.join("\n")
}

#[tokio::test]
async fn both_directions_go_by_index() {
    let database = TestDatabase::new().await;
    sqlx::raw_sql(
        "insert into postbound.identity_link (target, tenant_id, user_id, external_id)
         select 'crm', 't' || n % 10, 'u-' || n, 'crm-' || n from generate_series(1, 20000) as n;
         analyze postbound.identity_link",
    )
    .execute(database.superuser())
    .await
    .unwrap();
    for (query, index) in [
        (
            "select * from postbound.identity_link where target = 'crm' and external_id = 'crm-7'",
            "identity_link_external_id",
        ),
        (
            "select * from postbound.identity_link where target = any(array['crm', 'backend']) and tenant_id = 't7' and user_id = 'u-7'",
            "identity_link_pk",
        ),
    ] {
        let plan = plan(&database, query).await;
        assert!(plan.contains(index) && !plan.contains("Seq Scan"), "{plan}");
    }
}
