//! Requests signed by the libraries others use: `svix` and `standardwebhooks` of PyPI.

use super::{BACKEND, CLERK, Door, clerk_user, options};
use postbound_client::{Change, emit};
use postbound_testbed::packages;
use postbound_tests::{Installation, Role};
use serde_json::{Value, json};
use std::{path::PathBuf, process::Stdio, time::Duration};
use tokio::{process::Command, sync::OnceCell};

/// Far above what it takes, a download included.
const PATIENCE: Duration = Duration::from_secs(180);
/// What is installed.
const CLIENTS: [&str; 2] = ["svix==2.9.1", "standardwebhooks==1.1.0"];

/// Signs stdin with the library named first, sends it, and prints the status.
const SEND: &str = r#"
import datetime, sys, urllib.request
library, prefix, secret, url, id = sys.argv[1:]
body = sys.stdin.read()
webhook = getattr(__import__(library), "Webhook")(secret)
at = datetime.datetime.now(datetime.timezone.utc)
signature = webhook.sign(id, at, body)
headers = {f"{prefix}-id": id, f"{prefix}-timestamp": str(int(at.timestamp())), f"{prefix}-signature": signature,
           "content-type": "application/json"}
request = urllib.request.Request(url, data=body.encode(), headers=headers, method="POST")
print(urllib.request.urlopen(request).status)
"#;

/// Python with the libraries.
pub(crate) async fn python() -> PathBuf {
    static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();
    PYTHON.get_or_init(async || environment(&CLIENTS).await).await.clone()
}

/// Python with these packages, kept from run to run.
pub(crate) async fn environment(wanted: &[&str]) -> PathBuf {
    if packages::program("python3").is_none() {
        tokio::task::spawn_blocking(|| packages::ensure(&["python3", "python3-venv"]))
            .await
            .unwrap()
            .unwrap();
    }
    let name = format!("clients-{}", wanted.join("-").replace("==", "-"));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join("bin/python");
    if !folder.join("whole").exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder), "").await;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(&python).args(pip).args(wanted), "").await;
        std::fs::write(folder.join("whole"), "").unwrap();
    }
    python
}

pub(crate) async fn run(command: &mut Command, input: &str) -> String {
    use tokio::io::AsyncWriteExt as _;
    let piped =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output =
        tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it does not end").unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_signed_by_svix_and_standardwebhooks_are_taken() {
    let python = python().await;
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    let mut producer = installation.database.connect(Role::Producer).await;
    let change = Change::created("default", "u-1").data(&json!({"email": "a@example.com"})).unwrap();
    emit(&mut producer, &change).await.unwrap();
    // Bytes that parsing and writing again would change.
    let clerk =
        clerk_user("user.created", "user_1", "Zo\u{eb} \u{1F600}", 1000).to_string().replace(':', ": ");
    let update =
        json!({"event": "user.updated", "data": {"frontendUserId": "u-1", "title": "Dr"}}).to_string();
    let send = async |library: &str, prefix: &str, secret: &str, path: &str, id: &str, body: &str| {
        let mut command = Command::new(&python);
        command.args(["-c", SEND, library, prefix, secret, &door.url(path), id]);
        let status = run(&mut command, body).await;
        assert_eq!(status.trim(), "200", "{library} to {path}");
    };
    send("svix", "svix", CLERK, super::CLERK_PATH, "msg_1", &clerk).await;
    send("standardwebhooks", "webhook", BACKEND, super::BACKEND_PATH, "msg_2", &update).await;
    // Svix signs under the standard's names as well.
    send("svix", "webhook", BACKEND, super::BACKEND_PATH, "msg_3", &update).await;
    let log = door.log().await;
    let users: Vec<_> = log.iter().map(|entry| (entry.user_id.as_str(), entry.version)).collect();
    assert_eq!(users, [("u-1", 1), ("user_1", 1), ("u-1", 2)]);
    assert_eq!(log[1].data["firstName"], Value::from("Zo\u{eb} \u{1F600}"));
}
