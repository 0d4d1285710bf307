use super::{done, held, idle, number, numbers, refused, sql, states};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_sends_a_tenants_newest_states_and_says_who_is_not_for_the_target() {
    let installation = idle().await;
    let seed = [
        states(12, 5),
        held("crm", "u-1", 5),
        held("crm", "u-2", 4),
        "update postbound.user_state set targets = '{backend}' where user_id = 'u-12';
         update postbound.user_state set logged_at = now() where user_id in ('u-3', 'u-4');
         insert into postbound.user_state (tenant_id, user_id, version, action, event_id, logged_at, data)
         values ('t1', 'u-1', 1, 'created', gen_random_uuid(), now(), '{}');"
            .to_owned(),
    ];
    sql(&installation, &seed.concat()).await;
    let check = async |filter: &[&str], users: i64, skipped: i64| {
        let dry = done(&installation, &[&["resync", "--target", "crm", "--dry-run"], filter].concat()).await;
        assert_eq!((&dry["users"], &dry["skipped"]), (&json!(users), &json!(skipped)), "{filter:?}");
    };
    check(&["--tenant", "t0"], 11, 1).await;
    check(&["--tenant", "t0", "--only-missing"], 10, 1).await;
    check(&["--tenant", "t0", "--changed-since", "30m"], 2, 0).await;
    check(&["--tenant", "t0", "--user", "u-2", "--user", "u-12"], 1, 1).await;
    check(&["--all"], 12, 1).await;
    check(&["--tenant", "t9"], 0, 0).await;
    for (args, said) in [
        (&["resync", "--target", "crm"][..], "--tenant"),
        (&["resync", "--target", "cmr", "--all"], "there is no target cmr"),
        (&["resync", "--target", "crm", "--tenant", "t0"], "this would send 11 users to crm again"),
    ] {
        let (code, stderr) = refused(&installation, args).await;
        assert!(code == 2 && stderr.contains(said), "{stderr}");
    }
    assert_eq!(number(&installation, "select count(*) from postbound.job").await, 0);
    let made = done(&installation, &["resync", "--target", "crm", "--tenant", "t0", "--yes"]).await;
    let job = made["job"]["job_id"].to_string();
    let items = done(&installation, &["jobs", "status", &job, "--items"]).await;
    assert_eq!(numbers(&items, "item"), (1..=12).collect::<Vec<_>>());
    let skipped: Vec<_> =
        items.as_array().unwrap().iter().filter(|item| item["state"] == "skipped").collect();
    assert_eq!((skipped.len(), &skipped[0]["user_id"]), (1, &json!("u-12")));
    assert_eq!(skipped[0]["reason"], "not_for_this_target");
}
