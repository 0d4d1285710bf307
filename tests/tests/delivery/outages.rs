//! What Postbound stands on goes away and comes back: a target, RabbitMQ's connections, Postgres' sessions.

use super::{SOON, Stream, emit};
use postbound_tests::{Installation, Options, Process, Role, answers, eventually};
use reqwest::Url;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

async fn until_logged(process: &Process, line: &str) {
    eventually(&format!("it logs: {line}"), SOON, async || process.log().contains(line).then_some(())).await;
}

/// Nobody's attempts were burnt on an outage, and no change was given up.
async fn assert_nobody_paid(installation: &Installation, worker: &Process, target: &str) {
    let label = format!("target=\"{target}\"");
    assert_eq!(worker.metric("postbound_retries_total", &[&label]).await, 0.0);
    let dead = installation.vhost.queue(&format!("postbound.{target}.dead")).await.unwrap();
    assert_eq!(dead.messages_ready, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_away_costs_nobody_an_attempt_and_gets_everything_when_it_is_back() {
    let mut installation = Installation::start(Options::default()).await;
    let _relay = installation.relay();
    let worker = installation.worker(&[]);
    installation.crm.stop().await;
    emit(&installation, "user", 30, "created").await;
    installation.until_settled(&["backend"]).await;
    until_logged(&worker, "connection_refused").await;
    assert_eq!(worker.readyz().await.status, 200, "readiness is not about targets");
    emit(&installation, "user", 30, "updated").await;
    installation.until_settled(&["backend"]).await;
    assert_eq!(installation.oracle().count("s3", None).await, 0);

    installation.crm.start_again().await;
    installation.assert_converged().await;
    assert_nobody_paid(&installation, &worker, "crm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_asks_for_a_pause_gets_it_and_costs_nobody_an_attempt() {
    let installation = Installation::start(Options::default()).await;
    let _relay = installation.relay();
    let worker = installation.worker(&[]);
    installation.backend.fault(answers(503, &[("Retry-After", "1")])).await;
    emit(&installation, "user", 100, "created").await;
    installation.until_settled(&["crm"]).await;
    until_logged(&worker, "http_503").await;
    eventually("it is asked again", SOON, async || {
        (worker.log().matches("http_503").count() > 2).then_some(())
    })
    .await;
    let asked = installation.backend.fault_hits().await;
    assert!(asked < 100, "{asked} requests to a target that asked for a pause");

    installation.backend.behave().await;
    installation.assert_converged().await;
    assert_nobody_paid(&installation, &worker, "backend").await;
}

/// Something breaks three times while changes come in.
async fn check(shake: impl AsyncFn(&Installation)) {
    let installation = Installation::start(Options::every_event()).await;
    let relay = installation.relay();
    let workers = [installation.worker(&[]), installation.worker(&[])];
    let stream = Stream::start(&installation).await;
    for round in 1..=3 {
        let wanted = installation.oracle().count("s3", None).await + 200;
        eventually(&format!("the stream flows, round {round}"), SOON, async || {
            (installation.oracle().count("s3", None).await >= wanted).then_some(())
        })
        .await;
        shake(&installation).await;
    }
    stream.stop().await;
    installation.assert_converged().await;
    for process in workers.iter().chain([&relay]) {
        process.until_ready("it is ready again", |readiness| readiness.status == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_by_rabbitmq_are_made_again_and_nothing_is_lost() {
    check(async |installation| installation.vhost.cut_connections().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_ended_by_postgres_are_made_again_and_nothing_is_lost() {
    check(async |installation| {
        let ended: i64 = sqlx::query_scalar(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and application_name in ('postbound relay', 'postbound worker')",
        )
        .fetch_one(installation.database.superuser())
        .await
        .unwrap();
        assert!(ended > 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_started_while_postgres_is_away_waits_for_it() {
    let installation = Installation::start(Options::default()).await;
    let mut url = Url::parse(&installation.database.url(Role::Worker)).unwrap();
    let postgres = (url.host_str().unwrap().to_owned(), url.port().unwrap());
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_port(Some(door.local_addr().unwrap().port())).unwrap();
    let worker = installation.spawn(Role::Worker, &["worker"], &[("database.url", url.as_str())]);
    // It has to come again after it was turned away.
    drop(door.accept().await.unwrap());
    until_logged(&worker, "Postgres cannot be used yet").await;
    let serving = tokio::spawn(async move {
        loop {
            let (mut client, _) = door.accept().await.unwrap();
            let mut server = TcpStream::connect((postgres.0.as_str(), postgres.1)).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let _relay = installation.relay();
    emit(&installation, "user", 5, "created").await;
    installation.assert_converged().await;
    serving.abort();
}
