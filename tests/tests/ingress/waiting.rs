//! Changes of users who are not linked yet.

use super::{Door, SOON, count, options};
use postbound_client::{Change, emit};
use postbound_tests::{Installation, Role, eventually};
use serde_json::{Value, json};

fn change(event: &str, id: &str, title: &str) -> Value {
    json!({"event": event, "data": {"frontendUserId": id, "title": title}})
}

async fn linked_installation() -> Installation {
    Installation::start(options().with("ingress.sources.backend.link_target", "crm")).await
}

async fn create(installation: &Installation, user: &str) {
    let mut producer = installation.database.connect(Role::Producer).await;
    let state = json!({"email": format!("{user}@example.com"), "name": user});
    emit(&mut producer, &Change::created("t0", user).data(&state).unwrap()).await.unwrap();
}

async fn link(installation: &Installation, user: &str, external_id: &str) {
    sqlx::query(
        "insert into postbound.identity_link (target, tenant_id, user_id, external_id) values ('crm', 't0', $1, $2)",
    )
    .bind(user)
    .bind(external_id)
    .execute(installation.database.superuser())
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_looked_up_among_the_links_that_deliveries_left() {
    let installation = linked_installation().await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let door = Door::open(&installation).await;
    create(&installation, "u-1").await;
    let id = eventually("it is linked", SOON, async || {
        let id = "select external_id from postbound.identity_link where target = 'crm' and user_id = 'u-1'";
        sqlx::query_scalar::<_, String>(id).fetch_optional(installation.database.superuser()).await.unwrap()
    })
    .await;
    let (status, answer) = door.backend("m-1", &change("user.updated", &id, "Dr")).await;
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("applied")), "{answer}");
    let log = door.log().await;
    assert_eq!((log[1].tenant_id.as_str(), log[1].user_id.as_str()), ("t0", "u-1"));
    assert_eq!(log[1].data["title"], "Dr");
    assert!(log[1].data.get("frontendUserId").is_none(), "{}", log[1].data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_an_unlinked_id_are_kept_shown_and_applied_in_order_when_the_link_appears() {
    let installation = linked_installation().await;
    let door = Door::open(&installation).await;
    create(&installation, "u-1").await;
    for (id, title) in [("m-1", "first"), ("m-2", "second")] {
        let (status, answer) = door.backend(id, &change("user.updated", "fe-1", title)).await;
        assert_eq!((status, answer["outcome"].as_str()), (202, Some("waiting")), "{answer}");
    }
    let (status, answer) = door.backend("m-2", &change("user.updated", "fe-1", "second")).await;
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("repeated")), "{answer}");
    door.backend("m-3", &change("user.updated", "fe-of-nobody", "never")).await;
    eventually("it was tried again", SOON, async || {
        let tried =
            count(&installation, "select count(*) from postbound.inbound_waiting where tries > 0").await;
        (tried == 3).then_some(())
    })
    .await;
    assert_eq!(door.log().await.len(), 1);
    let list = installation.run(Role::Operator, &["inbound", "list", "--json"]).await;
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let shown: Vec<_> =
        list["waiting"].as_array().unwrap().iter().map(|one| one["external_id"].clone()).collect();
    assert_eq!(shown, ["fe-1", "fe-1", "fe-of-nobody"]);
    assert!(!list.to_string().contains("second"), "{list}");
    let waiting = door.process.until_ready("it is ready", |readiness| readiness.status == 200).await;
    assert_eq!(waiting.state("ingress"), "ready", "what waits is no fault of the process");

    link(&installation, "u-1", "fe-1").await;
    let log = eventually("both are applied", SOON, async || {
        let log = door.log().await;
        (log.len() == 3).then_some(log)
    })
    .await;
    assert_eq!([&log[1].data["title"], &log[2].data["title"]], ["first", "second"]);
    assert_eq!(log[2].origin.as_deref(), Some("backend"));
    assert_eq!(count(&installation, "select count(*) from postbound.inbound_waiting").await, 1);
    let applied = "select count(*) from postbound.inbound_message where outcome = 'applied'";
    assert_eq!(count(&installation, applied).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_hurried_or_thrown_away_by_an_operator() {
    let installation = linked_installation().await;
    let door = Door::open(&installation).await;
    create(&installation, "u-1").await;
    door.backend("m-1", &change("user.updated", "fe-1", "first")).await;
    door.backend("m-2", &change("user.updated", "fe-of-nobody", "never")).await;
    let later = "update postbound.inbound_waiting set due_at = 'infinity'";
    sqlx::raw_sql(later).execute(installation.database.superuser()).await.unwrap();
    link(&installation, "u-1", "fe-1").await;
    let list = installation.run(Role::Viewer, &["inbound", "list", "--source", "backend"]).await;
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(
        list.lines().nth(2).is_some_and(|line| line.contains("fe-of-nobody") && line.contains("crm")),
        "{list}"
    );
    let retried = installation.run(Role::Operator, &["inbound", "retry", "--as", "ada"]).await;
    assert!(retried.status.success(), "{retried:?}");
    eventually("it is applied", SOON, async || (door.log().await.len() == 2).then_some(())).await;
    let nobodys =
        count(&installation, "select min(waiting_id) from postbound.inbound_waiting").await.to_string();
    let dropped = installation.run(Role::Operator, &["inbound", "drop", &nobodys]).await;
    assert!(dropped.status.success(), "{dropped:?}");
    assert_eq!(count(&installation, "select count(*) from postbound.inbound_waiting").await, 0);
    assert_eq!(
        count(&installation, "select count(*) from postbound.audit where command like 'inbound %'").await,
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_message_never_overtakes_an_older_one_that_waits() {
    let installation = linked_installation().await;
    let door = Door::open(&installation).await;
    create(&installation, "u-1").await;
    door.backend("m-1", &change("user.updated", "fe-1", "older")).await;
    // Nobody tries it again meanwhile.
    let later = "update postbound.inbound_waiting set due_at = 'infinity'";
    sqlx::raw_sql(later).execute(installation.database.superuser()).await.unwrap();
    link(&installation, "u-1", "fe-1").await;
    let (_, answer) = door.backend("m-2", &change("user.updated", "fe-1", "newer")).await;
    assert_eq!(answer["version"], 3, "{answer}");
    let log = door.log().await;
    assert_eq!([&log[1].data["title"], &log[2].data["title"]], ["older", "newer"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_piled_up_is_applied_in_steps_and_in_order_and_nothing_newer_overtakes_it() {
    /// More than one transaction applies.
    const PILE: usize = 130;
    let installation = linked_installation().await;
    let door = Door::open(&installation).await;
    create(&installation, "u-1").await;
    for number in 0..PILE {
        let (status, _) = door
            .backend(&format!("m-{number}"), &change("user.updated", "fe-1", &format!("title {number}")))
            .await;
        assert_eq!(status, 202);
    }
    let later = "update postbound.inbound_waiting set due_at = 'infinity'";
    sqlx::raw_sql(later).execute(installation.database.superuser()).await.unwrap();
    link(&installation, "u-1", "fe-1").await;
    let (status, answer) = door.backend("m-new", &change("user.updated", "fe-1", "newest")).await;
    assert_eq!((status, answer["outcome"].as_str()), (202, Some("waiting")), "{answer}");
    let log = eventually("all are applied", SOON, async || {
        let log = door.log().await;
        (log.len() == PILE + 2).then_some(log)
    })
    .await;
    let titles: Vec<String> =
        log[1..].iter().map(|entry| entry.data["title"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> =
        (0..PILE).map(|number| format!("title {number}")).chain(["newest".to_owned()]).collect();
    assert_eq!(titles, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_user_of_one_tenant_is_not_applied_to_one_of_another_by_the_same_id() {
    let options = options()
        .with("ingress.sources.backend.link_target", "crm")
        .with("ingress.sources.backend.tenant_pointer", "/data/organization");
    let installation = Installation::start(options).await;
    let door = Door::open(&installation).await;
    create(&installation, "u-1").await;
    let of = |tenant: &str, title: &str| {
        let mut change = change("user.updated", "fe-1", title);
        change["data"]["organization"] = json!(tenant);
        change
    };
    for (message, tenant, title) in [("m-1", "t9", "theirs"), ("m-2", "t0", "ours")] {
        let (status, answer) = door.backend(message, &of(tenant, title)).await;
        assert_eq!(status, 202, "{answer}");
    }
    link(&installation, "u-1", "fe-1").await;
    eventually("ours is applied, though theirs is older and waits", SOON, async || {
        (door.log().await.len() == 2).then_some(())
    })
    .await;
    let (_, answer) = door.backend("m-3", &of("t0", "newer")).await;
    assert_eq!(answer["outcome"], "applied", "{answer}");
    // A delete may name nobody's tenant: the link tells it.
    let delete = json!({"event": "user.deleted", "data": {"frontendUserId": "fe-1"}});
    let (_, answer) = door.backend("m-4", &delete).await;
    assert_eq!(answer["outcome"], "applied", "{answer}");
    let log = door.log().await;
    let told: Vec<_> = log[1..].iter().map(|entry| (&*entry.tenant_id, &entry.data["title"])).collect();
    assert_eq!(told[..2], [("t0", &json!("ours")), ("t0", &json!("newer"))]);
    assert_eq!((log.len(), log[3].action.as_str()), (4, "deleted"));
    assert_eq!(count(&installation, "select count(*) from postbound.inbound_waiting").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_user_leaves_nothing_among_what_waits() {
    let installation = linked_installation().await;
    let door = Door::open(&installation).await;
    create(&installation, "u-1").await;
    for id in ["fe-1", "fe-2"] {
        door.backend(id, &change("user.updated", id, "Dr")).await;
    }
    let later = "update postbound.inbound_waiting set due_at = 'infinity'";
    sqlx::raw_sql(later).execute(installation.database.superuser()).await.unwrap();
    link(&installation, "u-1", "fe-1").await;
    let erase = "select postbound.erase_user('t0', 'u-1', true)";
    sqlx::raw_sql(erase).execute(installation.database.superuser()).await.unwrap();
    let left: Vec<String> = sqlx::query_scalar("select external_id from postbound.inbound_waiting")
        .fetch_all(installation.database.superuser())
        .await
        .unwrap();
    assert_eq!(left, ["fe-2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_waited_for_too_long_is_dropped_and_counted() {
    let installation = linked_installation().await;
    let door = Door::open(&installation).await;
    for id in ["fe-1", "fe-2"] {
        door.backend(id, &change("user.updated", id, "Dr")).await;
    }
    drop(door);
    sqlx::raw_sql(
        "update postbound.inbound_waiting
         set received_at = now() - case external_id when 'fe-1' then 31 else 29 end * interval '1 day'",
    )
    .execute(installation.database.superuser())
    .await
    .unwrap();
    let door = Door::open(&installation).await;
    eventually("it is counted", SOON, async || {
        let labels = ["source=\"backend\"", "outcome=\"dropped\""];
        (door.process.metric("postbound_ingress_webhooks_total", &labels).await == 1.0).then_some(())
    })
    .await;
    let left: Vec<String> = sqlx::query_scalar("select external_id from postbound.inbound_waiting")
        .fetch_all(installation.database.superuser())
        .await
        .unwrap();
    assert_eq!(left, ["fe-2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_for_which_too_much_waits_is_asked_to_come_again_until_there_is_room() {
    let installation = linked_installation().await;
    let door = Door::open(&installation).await;
    let execute = async |statement: &'static str| {
        sqlx::raw_sql(statement).execute(installation.database.superuser()).await.unwrap();
    };
    execute(
        "insert into postbound.inbound_waiting
             (source, message_id, target, system, external_id, body, reason, due_at)
         select 'backend', 'old-' || n, 'crm', '', 'fe-' || n, '{}', 'not linked', 'infinity'
         from generate_series(1, 100000) as n",
    )
    .await;
    let until = async |expected: u16| {
        let what = format!("it answers {expected}");
        eventually(&what, SOON, async || {
            let id = uuid::Uuid::new_v4().to_string();
            let (status, _) = door.backend(&id, &change("user.updated", "fe-new", "Dr")).await;
            (status == expected).then_some(())
        })
        .await;
    };
    until(503).await;
    execute("delete from postbound.inbound_waiting where message_id like 'old-%'").await;
    until(202).await;
}
