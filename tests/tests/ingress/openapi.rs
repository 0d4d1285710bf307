//! What is served is what is described: schemathesis of PyPI reads `/openapi.json` of each server and tries every
//! operation, with what fits the document and with what does not.

use super::clients::{environment, run};
use super::{BACKEND, BACKEND_PATH, CLERK, CLERK_PATH, Door, options};
use postbound_receiver::NotifyConfig;
use postbound_tests::{API_KEY, Installation};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// What is installed.
const SCHEMATHESIS: [&str; 1] = ["schemathesis==4.32.5"];

/// The program.
async fn schemathesis() -> PathBuf {
    static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();
    let python = PYTHON.get_or_init(async || environment(&SCHEMATHESIS).await).await;
    python.with_file_name("schemathesis")
}

/// Tries one server, and says what came of it.
#[expect(clippy::print_stderr, reason = "the report is told")]
async fn check(server: &str, base_url: &str) {
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ingress/openapi");
    let folder = TempDir::new().unwrap();
    let report = folder.path().join("report.json");
    let mut command = Command::new(schemathesis().await);
    command
        .arg("--config-file")
        .arg(settings.join("schemathesis.toml"))
        .args(["run", &format!("{base_url}/openapi.json"), "--no-color", "--report-json-path"])
        .arg(&report)
        .current_dir(folder.path())
        .env("PYTHONPATH", &settings)
        .env("SCHEMATHESIS_HOOKS", "sign")
        .env("POSTBOUND_TOKEN", API_KEY)
        .env(secret_of(CLERK_PATH), CLERK)
        .env(secret_of(BACKEND_PATH), BACKEND);
    let said = run(&mut command, "").await;
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap();
    let (total, tested) = (number("/operations/total"), number("/operations/tested"));
    let (cases, failed) = (number("/test_cases/generated"), number("/test_cases/with_failures"));
    eprintln!("{server}: {tested} of {total} operations, {cases} cases, {failed} failures");
    assert!(total > 0 && (tested, failed) == (total, 0), "{said}");
}

/// The variable that tells `sign.py` how a path's requests are signed.
fn secret_of(path: &str) -> String {
    format!("SECRET_OF{}", path.replace(['/', '-'], "_"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_served_is_what_is_described() {
    let options = options()
        .with("ingress.events.wait_max", "50ms")
        .with("ingress.tokens.all.token", API_KEY)
        .with("ingress.tokens.all.scopes", "events,status,directory");
    let mut installation = Installation::start(options).await;
    let door = Door::open(&installation).await;
    let (url, notify) = (door.url(""), door.url(BACKEND_PATH));
    let ingress = check("ingress", &url);
    ingress.await;
    drop(door);
    let relay = installation.relay();
    relay.until_ready("it is ready", |readiness| readiness.status == 200).await;
    check("relay", &relay.telemetry_url().await).await;
    let notify = NotifyConfig { url: notify, secret: BACKEND.to_owned(), echo: false };
    for (name, receiver) in [("backend", &mut installation.backend), ("crm", &mut installation.crm)] {
        receiver
            .serve_with(|config| {
                config.notify = Some(notify.clone());
                // They would hit what is tried next.
                config.faults = false;
            })
            .await;
        check(name, &receiver.base_url()).await;
    }
}
