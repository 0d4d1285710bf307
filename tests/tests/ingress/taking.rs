use super::{CLERK, CLERK_PATH, Door, SOON, clerk_delete, clerk_user, count, now, options, said};
use nix::sys::signal::Signal;
use postbound_tests::{Installation, eventually};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_clerk_reaches_directory_and_targets_and_is_deleted_everywhere() {
    let installation = Installation::start(options()).await;
    let (_relay, _worker) = (installation.relay(), installation.worker(&[]));
    let door = Door::open(&installation).await;
    let (status, answer) = door.clerk("msg_1", &clerk_user("user.created", "user_1", "Ada", 1000)).await;
    assert_eq!((status, &answer["outcome"], &answer["version"]), (200, &json!("applied"), &json!(1)));
    let (status, answer) = door.clerk("msg_2", &clerk_user("user.updated", "user_1", "Augusta", 2000)).await;
    assert_eq!((status, &answer["version"]), (200, &json!(2)));
    let (status, _) = door.clerk("msg_3", &clerk_delete("user_1")).await;
    assert_eq!(status, 200);

    let log = door.log().await;
    let actions: Vec<_> = log.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["created", "updated", "deleted"]);
    assert_eq!(log[1].data["firstName"], "Augusta");
    assert_eq!(log[1].data["email"], "user_1@example.com");
    assert_eq!(log[1].origin.as_deref(), Some("clerk"));
    assert!(!log[1].data.to_string().contains("never"), "{}", log[1].data);
    let gone = "select count(*) from directory.users where id = 'user_1' and deleted_at is not null and not is_active";
    assert_eq!(count(&installation, gone).await, 1);
    installation.until_settled(&["backend", "crm"]).await;
    let held = "select count(*) from receiver.backend_users as b join receiver.crm_users as c using (user_id)
        where user_id = 'user_1' and b.deleted_at is not null and not c.is_active and b.version = 3";
    assert_eq!(count(&installation, held).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_message_is_answered_by_any_process_and_changes_nothing() {
    let installation = Installation::start(options()).await;
    let (door, other) = (Door::open(&installation).await, Door::open(&installation).await);
    let body = clerk_user("user.created", "user_1", "Ada", 1000);
    let both = (0..4).flat_map(|_| [door.clerk("msg_1", &body), other.clerk("msg_1", &body)]);
    let answers = futures_util::future::join_all(both).await;
    let mut outcomes: Vec<_> =
        answers.iter().map(|(_, answer)| answer["outcome"].as_str().unwrap()).collect();
    outcomes.sort_unstable();
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(outcomes, [vec!["applied"], vec!["repeated"; 7]].concat());
    // The same content under another id: nothing new is said.
    let (status, answer) = door.clerk("msg_2", &body).await;
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("echo")));
    assert_eq!(door.log().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_no_interest_are_accepted_and_leave_nothing() {
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    let (status, answer) =
        door.clerk("msg_1", &json!({"type": "session.created", "data": {"id": "s"}})).await;
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("ignored")));
    assert_eq!(count(&installation, "select count(*) from postbound.inbound_message").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clerks_delete_finds_its_user_though_it_names_no_tenant() {
    let pointer = "/data/public_metadata/tenant";
    let installation =
        Installation::start(options().with("ingress.sources.clerk.tenant_pointer", pointer)).await;
    let door = Door::open(&installation).await;
    let of_acme = |user: &str| {
        let mut body = clerk_user("user.created", user, "Ada", 1000);
        body["data"]["public_metadata"] = json!({"tenant": "acme"});
        body
    };
    let (status, answer) = door.clerk("msg_1", &of_acme("user_1")).await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("applied")), "{answer}");
    let (status, answer) = door.clerk("msg_2", &clerk_delete("user_1")).await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("applied")), "{answer}");
    let log = door.log().await;
    assert_eq!((log[1].tenant_id.as_str(), log[1].action.as_str()), ("acme", "deleted"));

    // One that comes before its user's first word waits for it, and is final.
    let (status, answer) = door.clerk("msg_3", &clerk_delete("user_2")).await;
    assert_eq!((status, &answer["outcome"]), (202, &json!("waiting")), "{answer}");
    let (status, answer) = door.clerk("msg_4", &of_acme("user_2")).await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("deleted")), "{answer}");
    assert_eq!(
        (
            door.log().await.len(),
            count(&installation, "select count(*) from postbound.inbound_waiting").await
        ),
        (2, 0)
    );
    // Anything else has to name it.
    let (status, answer) = door.clerk("msg_5", &clerk_user("user.updated", "user_1", "Ada", 2000)).await;
    assert_eq!(status, 422, "{answer}");
}

/// It dies there; the sender, who got no answer, sends the message again.
async fn check_crash(place: &str, taken_before: bool) {
    let installation = Installation::start(options()).await;
    let body = clerk_user("user.created", "user_1", "Ada", 1000).to_string();
    let mut door = Door::open_with(&installation, &[("failpoint", place)]).await;
    let unanswered = door.signed("svix", CLERK, CLERK_PATH, ("msg_1", now(), &body)).send().await;
    assert!(unanswered.is_err(), "{unanswered:?}");
    let status = door.process.ended().await;
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "at {place}: {status:?}");
    assert_eq!(door.log().await.len(), usize::from(taken_before), "at {place}");

    let door = Door::open(&installation).await;
    let again = door.signed("svix", CLERK, CLERK_PATH, ("msg_1", now(), &body)).send().await.unwrap();
    let (status, answer) = said(again).await;
    let outcome = if taken_before { "repeated" } else { "applied" };
    assert_eq!((status, answer["outcome"].as_str()), (200, Some(outcome)), "at {place}");
    assert_eq!(door.log().await.len(), 1, "at {place}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_the_commit_leaves_nothing_and_the_senders_retry_is_taken() {
    tokio::join!(check_crash("ingress.verified", false), check_crash("ingress.applied", false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_the_commit_loses_nothing_and_the_senders_retry_is_a_repetition() {
    check_crash("ingress.committed", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shuffled_and_duplicated_events_end_in_the_newest_state_and_no_deleted_user_is_back() {
    const USERS: i64 = 12;
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    let mut events: Vec<(String, Value)> = Vec::new();
    for user in 0..USERS {
        let id = format!("user_{user}");
        for at in 1..=6 {
            let event = if at == 1 { "user.created" } else { "user.updated" };
            let body = clerk_user(event, &id, &format!("Name {at}"), at * 1000);
            events.extend([(format!("msg_{user}_{at}"), body.clone()), (format!("msg_{user}_{at}"), body)]);
        }
        if user % 3 == 0 {
            events.push((format!("msg_{user}_gone"), clerk_delete(&id)));
        }
    }
    events.shuffle(&mut StdRng::seed_from_u64(20));
    for batch in events.chunks(8) {
        let answers =
            futures_util::future::join_all(batch.iter().map(|(id, body)| door.clerk(id, body))).await;
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    }
    for user in 0..USERS {
        let id = format!("user_{user}");
        let log = door.log().await;
        let last = log.iter().rfind(|entry| entry.user_id == id);
        if user % 3 == 0 {
            assert!(last.is_none_or(|last| last.action == "deleted"), "{id}: {last:?}");
        } else {
            assert_eq!(last.unwrap().data["firstName"], "Name 6", "{id}");
        }
    }
    let alive = "select count(*) from directory.users where deleted_at is null";
    assert_eq!(count(&installation, alive).await, USERS - USERS / 3);
    let newest = "select count(*) from directory.users where deleted_at is null and first_name = 'Name 6'";
    assert_eq!(count(&installation, newest).await, USERS - USERS / 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_written_is_not_acknowledged_and_is_taken_when_it_comes_again() {
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    let superuser = installation.database.superuser();
    let body = clerk_user("user.created", "user_1", "Ada", 1000);
    sqlx::raw_sql("alter table postbound.inbound_message rename to away").execute(superuser).await.unwrap();
    let (status, answer) = door.clerk("msg_1", &body).await;
    assert_eq!(status, 500, "{answer}");
    assert!(!answer.to_string().contains("Ada"), "{answer}");
    sqlx::raw_sql("alter table postbound.away rename to inbound_message").execute(superuser).await.unwrap();
    let (status, answer) = door.clerk("msg_1", &body).await;
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("applied")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_and_answers_are_forgotten_after_their_window_and_not_before() {
    let installation = Installation::start(options()).await;
    let fill = "insert into postbound.inbound_message (source, message_id, digest, outcome, received_at)
            select 'clerk', 'msg_' || days, sha256(''), 'applied', now() - days * interval '1 day' from unnest(array[1, 6, 8, 30]) as days;
        insert into postbound.inbound_answer (caller, key, digest, tenant_id, user_id, event_id, version, answered_at)
            select 'convex', 'k_' || days, sha256(''), 't', 'u', gen_random_uuid(), 1, now() - days * interval '1 day'
            from unnest(array[1, 6, 8, 30]) as days";
    sqlx::raw_sql(fill).execute(installation.database.superuser()).await.unwrap();
    let _door = Door::open(&installation).await;
    for (table, query) in [
        ("messages", "select array_agg(message_id order by message_id) from postbound.inbound_message"),
        ("answers", "select array_agg('msg' || substr(key, 2) order by key) from postbound.inbound_answer"),
    ] {
        let left = eventually(&format!("old {table} are gone"), SOON, async || {
            let left: Vec<String> =
                sqlx::query_scalar(query).fetch_one(installation.database.superuser()).await.unwrap();
            (left.len() <= 2).then_some(left)
        })
        .await;
        assert_eq!(left, ["msg_1", "msg_6"], "{table}");
    }
}
