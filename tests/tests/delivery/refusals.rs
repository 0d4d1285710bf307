//! A change its target refuses for good is kept for people, and holds up nobody.

use super::{SOON, emit};
use postbound_receiver::Fault;
use postbound_tests::{Installation, Letter, Options, answers, eventually};

/// Refusals are repeated soon.
fn impatient(target: &str) -> Options {
    Options::default()
        .with(&format!("targets.{target}.retry.schedule"), "[\"100ms\"]")
        .with(&format!("targets.{target}.retry.permanent_attempts"), "2")
}

/// Others' changes go on until a letter is in the archive: only while others get through is a delivery given up.
async fn until_dead(installation: &Installation, target: &str) -> Letter {
    eventually("the refused change is in the archive", SOON, async || {
        emit(installation, "other", 5, "created").await;
        installation.letters(target).await.into_iter().next()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_refused_for_good_ends_as_a_dead_letter_and_a_newer_change_revives_it() {
    let installation = Installation::start(impatient("backend")).await;
    let _relay = installation.relay();
    let worker = installation.worker(&[]);
    let refusal = Fault { for_users: vec!["bad-1".to_owned()], ..answers(422, &[]) };
    installation.backend.fault(refusal).await;
    emit(&installation, "bad", 1, "created").await;
    let letter = until_dead(&installation, "backend").await;
    assert_eq!(
        (letter.user_id.as_str(), letter.version, letter.reason.as_str(), letter.class.as_str()),
        ("bad-1", 1, "http_422", "permanent")
    );
    assert_eq!((letter.status, letter.is_open), (Some(422), true));
    // A try between which and the last nobody else got through does not count, but was one.
    assert!(letter.attempts >= 2, "{} attempts", letter.attempts);
    installation.until_settled(&["backend", "crm"]).await;
    assert_eq!(worker.metric("postbound_deliveries_total", &[r#"outcome="dead""#]).await, 1.0);

    installation.backend.behave().await;
    emit(&installation, "bad", 1, "updated").await;
    installation.assert_converged().await;
    // The backend never took it, so it is new there.
    assert_eq!(installation.oracle().taken("s2", "bad-1").await, [(2, "created".to_owned())]);
    let letters = installation.letters("backend").await;
    assert_eq!(letters.len(), 1);
    assert!(!letters[0].is_open, "a newer success closes the letter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_a_strict_crm_refuses_the_whole_batch_for_takes_no_neighbour_with_it() {
    let options = impatient("crm").guardless().with("targets.crm.linger", "50ms");
    let installation = Installation::start(options).await;
    sqlx::query("insert into postbound.outbox (tenant_id, user_id, action, data) values ('t0', 'bad-1', 'created', $1)")
        .bind(r#"{"email": "no address", "name": "v1", "avatar": "https://example.com/bad"}"#)
        .execute(&mut installation.database.connect(postbound_tests::Role::Producer).await)
        .await
        .unwrap();
    emit(&installation, "good", 40, "created").await;
    // All of them wait when the worker begins, so that they share requests.
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    eventually("the neighbours are there", SOON, async || {
        (installation.oracle().count("s3", Some("applied")).await >= 40).then_some(())
    })
    .await;
    let shared: i64 = sqlx::query_scalar(
        "select count(*) from receiver.request_log as bad join receiver.request_log as good using (body_sha256)
         where bad.user_id = 'bad-1' and bad.outcome = 'refused' and good.user_id like 'good-%'",
    )
    .fetch_one(installation.database.superuser())
    .await
    .unwrap();
    assert!(shared > 0, "it never shared a request");
    let letter = until_dead(&installation, "crm").await;
    assert_eq!(letter.reason, "http_400");
    installation.until_settled(&["backend", "crm"]).await;
    assert_eq!(installation.letters("crm").await.len(), 1);
    installation.oracle().assert_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_dead_letter_queue_a_refused_change_waits_and_holds_up_nobody() {
    let options = Options { coalesce: false, ..impatient("backend") };
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let worker = installation.worker(&[]);
    installation.vhost.delete_queue("postbound.backend.dead").await;
    let refusal = Fault { for_users: vec!["bad-1".to_owned()], ..answers(422, &[]) };
    installation.backend.fault(refusal).await;
    emit(&installation, "bad", 1, "created").await;
    eventually("the worker says what is missing", SOON, async || {
        emit(&installation, "other", 5, "updated").await;
        worker.log().contains("queue postbound.backend.dead is missing").then_some(())
    })
    .await;
    emit(&installation, "other", 5, "deleted").await;
    installation.until_settled(&["crm"]).await;
    eventually("the others are there", SOON, async || {
        let taken = installation.oracle().taken("s2", "other-5").await;
        taken.last().is_some_and(|(_, action)| action == "deleted").then_some(())
    })
    .await;
    let counts = installation.store().target_counts().await.unwrap();
    assert_eq!(counts.iter().map(|counts| counts.pending).sum::<i64>(), 1, "{counts:?}");

    installation.apply_topology().await;
    let letter = until_dead(&installation, "backend").await;
    assert_eq!(letter.status, Some(422));
    installation.until_settled(&["backend", "crm"]).await;
    installation.oracle().assert_sound().await;
}
