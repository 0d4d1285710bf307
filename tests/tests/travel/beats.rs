use super::{SOON, emit, rebase, until_converged, until_halted, until_witnessed};
use nix::sys::signal::Signal;
use postbound_tests::{Installation, Options, Process, Role, eventually};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt as _;

/// From now on every question about the witness takes longer than what it tells may be acted on. Each is counted.
const SLOW: &str = "
    create schema slow;
    create sequence slow.asked;
    create function slow.down() returns boolean language plpgsql volatile security definer as $$
    begin
        perform nextval('slow.asked'), pg_sleep(0.55);
        return true;
    end $$;
    grant usage on schema slow to public;
    grant execute on function slow.down() to public;
    create policy slow on postbound.witness using (slow.down());
    alter table postbound.witness enable row level security";

/// Questions to be slow for: a relay that beats all the same has more than three beats by then.
const SLOW_QUESTIONS: i64 = 24;

async fn number(installation: &Installation, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(installation.database.superuser()).await.unwrap()
}

/// RabbitMQ's witness, as it is in the queue.
async fn witness(installation: &Installation) -> String {
    eventually("RabbitMQ tells its witness", SOON, async || {
        let messages = installation.vhost.peek(&installation.http, "postbound.witness").await;
        Some(messages.first()?["payload"].as_str()?.to_owned())
    })
    .await
}

/// Beats of both sides, which are in one history: Postgres, RabbitMQ.
async fn beats(installation: &Installation) -> (i64, i64) {
    let in_rabbitmq: Value = serde_json::from_str(&witness(installation).await).unwrap();
    let (lineage, in_postgres): (String, i64) =
        sqlx::query_as("select lineage::text, beat from postbound.witness")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
    assert_eq!(in_rabbitmq["lineage"], lineage.as_str());
    (in_postgres, in_rabbitmq["beat"].as_i64().unwrap())
}

fn assert_never_halted(relay: &Process) {
    assert!(!relay.log().contains("publishing is halted"), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_answers_late_is_not_taken_for_a_rabbitmq_that_lost_messages() {
    let installation = Installation::start(Options::default()).await;
    let relay = installation.relay();
    let _worker = installation.worker(&[]);
    emit(&installation, "user", 5, "created").await;
    until_witnessed(&installation, 0).await;
    sqlx::raw_sql(SLOW).execute(installation.database.superuser()).await.unwrap();
    eventually("it was slow for long", SOON * 2, async || {
        emit(&installation, "user", 1, "updated").await;
        (number(&installation, "select last_value from slow.asked").await >= SLOW_QUESTIONS).then_some(())
    })
    .await;
    let (in_postgres, in_rabbitmq) = beats(&installation).await;
    assert!(in_postgres <= in_rabbitmq + 1, "Postgres is at {in_postgres}, RabbitMQ at {in_rabbitmq}");
    // Both sides are looked at anew.
    installation.vhost.cut_connections().await;
    sqlx::raw_sql("alter table postbound.witness disable row level security")
        .execute(installation.database.superuser())
        .await
        .unwrap();
    emit(&installation, "user", 5, "updated").await;
    until_witnessed(&installation, in_postgres).await;
    installation.assert_converged().await;
    assert_never_halted(&relay);
}

/// So many relays die one after the other, each when Postgres has its beat and RabbitMQ has not.
async fn die_between_witnesses(installation: &Installation, times: u32) {
    for _ in 0..times {
        let mut relay = installation.spawn(Role::Relay, &["relay"], &[("failpoint", "relay.beat_written")]);
        emit(installation, "user", 1, "updated").await;
        let status = relay.ended().await;
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status:?}: {}", relay.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_die_one_after_the_other_between_two_witnesses_are_not_taken_for_lost_messages() {
    let installation = Installation::start(Options::default()).await;
    let mut relay = installation.relay();
    emit(&installation, "user", 5, "created").await;
    until_witnessed(&installation, 0).await;
    assert!(relay.terminate().await.success());
    die_between_witnesses(&installation, 4).await;
    let (in_postgres, in_rabbitmq) = beats(&installation).await;
    assert_eq!(in_postgres, in_rabbitmq + 1, "each gave RabbitMQ the beat of the one before");
    let relay = installation.relay();
    let _worker = installation.worker(&[]);
    emit(&installation, "user", 5, "updated").await;
    until_witnessed(&installation, in_postgres).await;
    installation.assert_converged().await;
    assert_never_halted(&relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_die_in_the_first_beats_of_a_history_are_not_taken_for_lost_messages() {
    let installation = Installation::start(Options::default()).await;
    emit(&installation, "user", 5, "created").await;
    die_between_witnesses(&installation, 3).await;
    assert_eq!(beats(&installation).await, (3, 2), "of the first history");
    // RabbitMQ's witness is of the history before, until the first relay has begun the next.
    rebase(&installation, &["--database"]).await;
    die_between_witnesses(&installation, 3).await;
    assert_eq!(beats(&installation).await, (3, 2), "of the next");
    let relay = installation.relay();
    let _worker = installation.worker(&[]);
    emit(&installation, "user", 5, "updated").await;
    until_witnessed(&installation, 3).await;
    until_converged(&installation).await;
    assert_never_halted(&relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_lives_through_a_rebase_gives_rabbitmq_the_historys_name_before_its_first_beat() {
    let installation = Installation::start(Options::default()).await;
    // It dies with the first beat of its second history.
    let mut dying = installation.spawn(Role::Relay, &["relay"], &[("failpoint", "relay.beat_written:2")]);
    until_witnessed(&installation, 0).await;
    rebase(&installation, &["--database"]).await;
    let status = dying.ended().await;
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status:?}: {}", dying.log());
    assert_eq!(beats(&installation).await, (1, 0));
    let relay = installation.relay();
    let _worker = installation.worker(&[]);
    emit(&installation, "user", 5, "created").await;
    until_witnessed(&installation, 1).await;
    until_converged(&installation).await;
    assert_never_halted(&relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rabbitmq_put_back_to_before_a_rebase_is_missed_from_the_first_beat_on() {
    let installation = Installation::start(Options::default()).await;
    let mut relay = installation.relay();
    until_witnessed(&installation, 0).await;
    let before = witness(&installation).await;
    rebase(&installation, &["--database"]).await;
    until_witnessed(&installation, 0).await;
    assert!(relay.terminate().await.success());
    installation.vhost.publish(&installation.http, "postbound.witness", "witness", &before).await;
    let why = until_halted(&installation.relay()).await;
    assert!(why.contains("RabbitMQ has lost messages"), "{why}");
}
