use super::{done, held, idle, letters, number, parked, refused, sql, states};
use postbound_tests::{Installation, Options, Role};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconcile_sends_only_users_for_whom_nothing_is_on_its_way() {
    let installation = idle().await;
    let seed = [
        states(8, 5),
        // u-1 is in sync, u-2 parked, u-3 dead, u-4 too young, u-5 not for it, u-6 paused; u-7 and u-8 are stale.
        held("crm", "u-1", 5),
        parked("crm", "u-2", 5, "updated"),
        letters("crm", 3, "http_422", "permanent", 422),
        "delete from postbound.dead_letter where user_id <> 'u-3';
         insert into postbound.delivery_ledger (target, tenant_id, user_id, dead_version, dead_at) values ('crm', 't0', 'u-3', 5, now());
         update postbound.user_state set logged_at = now() where user_id = 'u-4';
         update postbound.user_state set targets = '{backend}' where user_id = 'u-5';
         update postbound.user_state set tenant_id = 't1' where user_id = 'u-6';
         insert into postbound.breaker (target, tenant_id, cause, reason, paused_by, pause_reason)
         values ('crm', 't1', 'operator', 'paused', 'ada', 'noisy');"
            .to_owned(),
        held("crm", "u-7", 4),
        (1..=8).map(|n| held("backend", &format!("u-{n}"), 5)).collect(),
        "update postbound.delivery_ledger set tenant_id = 't1' where target = 'backend' and user_id = 'u-6';".to_owned(),
    ];
    sql(&installation, &seed.concat()).await;
    let dry = done(&installation, &["reconcile", "--dry-run"]).await;
    let found = |answer: &serde_json::Value| {
        let targets = answer.as_array().unwrap().iter();
        targets
            .map(|target| (target["target"].to_string(), target["stale_users"].as_i64().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&dry), [("\"backend\"".to_owned(), 0), ("\"crm\"".to_owned(), 2)]);
    let sent = done(&installation, &["reconcile", "--as", "ada"]).await;
    assert_eq!((&sent[0]["job"], &sent[1]["job"]["items"]), (&json!(null), &json!(2)));
    let users: Vec<String> = sqlx::query_scalar("select user_id from postbound.job_item order by item")
        .fetch_all(installation.database.superuser())
        .await
        .unwrap();
    assert_eq!(users, ["u-7", "u-8"]);
    let again = done(&installation, &["reconcile", "--target", "crm"]).await;
    assert!(again[0]["left_out"].as_str().unwrap().contains("another reconcile"), "{again}");
    assert_eq!(number(&installation, "select count(*) from postbound.audit").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_may_reconcile_and_only_one_at_a_time_does() {
    let installation = idle().await;
    sql(&installation, &states(20, 5)).await;
    let stores = [installation.database.store(Role::Relay), installation.database.store(Role::Relay)];
    let age = Duration::from_secs(900);
    assert_eq!(stores[0].stale_users("crm", age).await.unwrap(), 20);
    let (one, other) = tokio::join!(
        stores[0].create_reconcile_job("crm", age, None),
        stores[1].create_reconcile_job("crm", age, None)
    );
    let made = [one.unwrap(), other.unwrap()];
    assert_eq!(made.iter().flatten().count(), 1, "{made:?}");
    assert_eq!(number(&installation, "select count(*) from postbound.job_item").await, 20);
    assert_eq!(
        stores[0].create_reconcile_job("backend", Duration::from_secs(7200), None).await.unwrap(),
        None
    );
    assert_eq!(number(&installation, "select count(*) from postbound.job").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_an_import_are_left_to_it_and_for_good_where_it_was_cancelled() {
    let installation = idle().await;
    let seed = [
        states(3, 1),
        (1..=3).map(|n| held("backend", &format!("u-{n}"), 1)).collect(),
        "insert into postbound.job (kind, target, filter, state) values ('import', 'crm', '{}', 'paused');
         insert into postbound.job_item (job_id, item, tenant_id, user_id) select 1, n, 't0', 'u-' || n from generate_series(1, 3) as n;"
            .to_owned(),
    ];
    sql(&installation, &seed.concat()).await;
    let look = async || done(&installation, &["reconcile", "--target", "crm", "--dry-run"]).await[0].clone();
    for state in ["filling", "running", "paused", "stopped"] {
        sql(&installation, &format!("update postbound.job set state = '{state}'")).await;
        let found = look().await;
        assert!(found["left_out"].as_str().is_some_and(|why| why.contains("an import")), "{state}: {found}");
        assert!(!installation.database.store(Role::Relay).may_reconcile("crm").await.unwrap(), "{state}");
    }
    done(&installation, &["jobs", "cancel", "1", "--yes"]).await;
    assert_eq!((&look().await["left_out"], &look().await["stale_users"]), (&json!(null), &json!(0)));
    sql(&installation, "update postbound.user_state set version = 2 where user_id = 'u-2'").await;
    assert_eq!(look().await["stale_users"], 1, "who has changed since is no more of that import's business");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_gets_every_event_is_never_sent_newest_states_by_hand() {
    let installation = Installation::start(Options::default().with("targets.crm.coalesce", "false")).await;
    let seed = [
        states(3, 5),
        letters("crm", 2, "http_422", "permanent", 422),
        letters("backend", 1, "http_422", "permanent", 422),
    ];
    sql(&installation, &seed.concat()).await;
    for args in [
        &["resync", "--target", "crm", "--all", "--yes"][..],
        &["resync", "--target", "crm", "--tenant", "t0", "--dry-run"],
        &["reconcile", "--target", "crm", "--yes"],
        &["dead-letters", "replay", "--all", "--current", "--yes"],
    ] {
        let (code, said) = refused(&installation, args).await;
        assert!(code == 2 && said.contains("crm gets every event (coalesce = false)"), "{args:?}: {said}");
    }
    assert_eq!(number(&installation, "select count(*) from postbound.job").await, 0);
    let found = done(&installation, &["reconcile", "--yes"]).await;
    assert_eq!((&found[0]["stale_users"], &found[1]["stale_users"]), (&json!(3), &json!(0)));
    assert!(found[1]["left_out"].as_str().unwrap().contains("every event"), "{found}");
    let store = installation.database.store(Role::Relay);
    assert_eq!(store.create_reconcile_job("crm", Duration::from_secs(60), None).await.unwrap(), None);
    let replay = done(&installation, &["dead-letters", "replay", "--target", "crm"]).await;
    assert_eq!(replay["jobs"][0]["items"], 2, "its letters are replayed as they are");
}
