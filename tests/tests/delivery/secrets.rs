//! Secrets are read again when they change, and neither they nor anyone's data get into a log.

use super::{SOON, emit};
use postbound_receiver::{Fault, FaultAnswer};
use postbound_tests::{API_KEY, Installation, Options, Role, eventually};
use sqlx::AssertSqlSafe;
use std::path::Path;

/// As Kubernetes and Vault agents do it: a new file, renamed over the old one.
fn write_key(file: &Path, key: &str) {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, format!("{key}\n")).unwrap();
    std::fs::rename(&draft, file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_rotated_in_its_file_is_used_without_a_restart() {
    let options = Options::default()
        .with("targets.backend.api_key", "")
        .with("targets.backend.api_key_file", "backend.key");
    let mut installation = Installation::configure(options).await;
    let file = installation.path("backend.key");
    write_key(&file, API_KEY);
    installation.apply_topology().await;
    let _relay = installation.relay();
    let worker = installation.worker(&[]);
    emit(&installation, "user", 5, "created").await;
    installation.assert_converged().await;

    installation.backend.expect_key("the-next-key").await;
    emit(&installation, "user", 5, "updated").await;
    eventually("the old key is refused", SOON, async || worker.log().contains("http_401").then_some(()))
        .await;
    write_key(&file, "the-next-key");
    installation.assert_converged().await;
    assert_eq!(
        worker.metric("postbound_retries_total", &[]).await,
        0.0,
        "a refused key burns nobody's attempts"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_password_rotated_in_its_file_is_used_by_the_next_connection() {
    let installation = Installation::start(Options::default()).await;
    let database = &installation.database;
    let login = format!("rotating_{}", database.name());
    let admin = async |sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(database.superuser()).await.unwrap();
    };
    admin(format!("create role {login} login password 'first' in role postbound_worker")).await;
    let file = installation.path("database.password");
    write_key(&file, "first");
    let url = database.postgres().url_as(&login, "not-this-one", database.name());
    let settings = [("database.url", url.as_str()), ("database.password_file", file.to_str().unwrap())];
    let worker = installation.spawn(Role::Worker, &["worker"], &settings);
    let _relay = installation.relay();
    emit(&installation, "user", 5, "created").await;
    installation.assert_converged().await;

    admin(format!("alter role {login} password 'second'")).await;
    write_key(&file, "second");
    admin(format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{login}'")).await;
    emit(&installation, "user", 5, "updated").await;
    installation.assert_converged().await;
    worker.until_ready("the worker is well", |readiness| readiness.state("worker") == "ready").await;
    drop(worker);
    admin(format!("drop owned by {login}; drop role {login}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_has_a_secret_or_anyones_data() {
    let detailed =
        "info,postbound_relay=debug,postbound_worker=debug,postbound_target=debug,postbound_store=debug";
    let options = Options::default()
        .with("telemetry.log", detailed)
        .with("targets.backend.retry.schedule", "[\"50ms\"]");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    let _misconfigured =
        installation.spawn(Role::Worker, &["worker"], &[("targets.crm.synced_by", "another")]);
    // A receiver that repeats what it was sent, in its refusal.
    let body = format!("user bad-1@t0.example.com with key {API_KEY} is refused");
    let headers = [("content-type".to_owned(), "text/plain".to_owned())].into();
    let respond = Some(FaultAnswer { status: 422, headers, body });
    let fault = Fault { for_users: vec!["bad-1".to_owned()], respond, ..Fault::default() };
    installation.backend.fault(fault).await;
    emit(&installation, "bad", 1, "created").await;
    let letter: String = eventually("the refused change is a dead letter", SOON, async || {
        // Enough of them for the one worker of the two that has the refused user to see some succeed.
        emit(&installation, "other", 12, "updated").await;
        sqlx::query_scalar("select (to_jsonb(d) - 'data')::text from postbound.dead_letter as d")
            .fetch_optional(installation.database.superuser())
            .await
            .unwrap()
    })
    .await;
    installation.vhost.cut_connections().await;
    installation.crm.fault(answers_503()).await;
    emit(&installation, "other", 20, "updated").await;
    eventually("the outage is told", SOON, async || {
        installation.logs().iter().any(|(_, log)| log.contains("http_503")).then_some(())
    })
    .await;
    installation.crm.behave().await;
    installation.until_settled(&["backend", "crm"]).await;

    let password = Role::Worker.password();
    let broker = postbound_testbed::Endpoints::from_env().unwrap().rabbitmq.password().to_owned();
    let mut logs = installation.logs();
    assert!(logs.iter().any(|(_, log)| log.contains("bad-1")), "nothing was told of the user at all");
    logs.push(("what is said of the dead letter".to_owned(), letter));
    for secret in ["t0.example.com", "https://example.com/", API_KEY, password, broker.as_str()] {
        for (file, log) in &logs {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} in {file}");
        }
    }
}

fn answers_503() -> Fault {
    postbound_tests::answers(503, &[("Retry-After", "1")])
}
