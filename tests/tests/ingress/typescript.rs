//! The TypeScript client and the Convex example: type-checked, and the client run.

use super::{Door, TOKEN, options};
use postbound_testbed::packages;
use postbound_tests::Installation;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::process::Command;

/// Far above what any of it takes, a download included.
const PATIENCE: Duration = Duration::from_secs(300);

/// Copies of both, with what one of them depends on installed.
async fn installed(example: &str) -> TempDir {
    if packages::program("node").is_none() || packages::program("npm").is_none() {
        tokio::task::spawn_blocking(|| packages::ensure(&["nodejs", "npm"])).await.unwrap().unwrap();
    }
    let folder = TempDir::new().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for name in ["typescript-client", "convex"] {
        copy(&examples.join(name), &folder.path().join(name));
    }
    let modules = dependencies(&examples.join(example), example).await;
    std::os::unix::fs::symlink(modules, folder.path().join(example).join("node_modules")).unwrap();
    folder
}

/// The `node_modules` of an example, kept from run to run for as long as its lock file stays.
pub(crate) async fn dependencies(example: &Path, name: &str) -> PathBuf {
    let lock = Sha256::digest(std::fs::read(example.join("package-lock.json")).unwrap());
    let lock: String = lock.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("npm-{name}-{lock}"));
    if !kept.exists() {
        let draft = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(example.join(file), draft.path().join(file)).unwrap();
        }
        let install = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
        run(Command::new("npm").args(install).current_dir(draft.path())).await.unwrap();
        // Who was first has the same.
        std::fs::rename(draft.path(), &kept).ok();
    }
    kept.join("node_modules")
}

/// The files of a folder, without what was installed or built there.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "node_modules" || name == "dist" {
            continue;
        }
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(name)),
            false => drop(std::fs::copy(entry.path(), to.join(name)).unwrap()),
        }
    }
}

/// What it printed, or all it said where it failed.
async fn run(command: &mut Command) -> Result<String, String> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, running).await.expect("it does not end").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{}{}", text(&output.stdout), text(&output.stderr))),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_client_is_type_checked_and_its_example_writes_a_change() {
    let folder = installed("typescript-client").await;
    let client = folder.path().join("typescript-client");
    run(Command::new(client.join("node_modules/.bin/tsc")).current_dir(&client)).await.unwrap();
    let installation = Installation::start(options()).await;
    let door = Door::open(&installation).await;
    let example = async |user: &str, token: &str| {
        let mut node = Command::new("node");
        node.arg(client.join("dist/example.js")).args([user, "Ada \"Countess\" L\u{f6}velace"]);
        run(node.env("POSTBOUND_URL", door.url("/")).env("POSTBOUND_TOKEN", token)).await
    };
    let printed = example("u-1", TOKEN).await.unwrap();
    let log = door.log().await;
    assert_eq!(printed.trim(), format!("event_id={} version=1", log[0].event_id));
    let state = json!({"email": "u-1@example.com", "displayName": "Ada \"Countess\" L\u{f6}velace", "isActive": true});
    assert_eq!(log[0].data, state);
    let refused = example("u-1", "another-token-of-nobody").await.unwrap_err();
    assert!(refused.contains("the ingress answered 401"), "{refused}");
    let refused = example(&"u".repeat(300), TOKEN).await.unwrap_err();
    assert!(refused.contains("the ingress answered 422"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_convex_example_is_type_checked() {
    let folder = installed("convex").await;
    let convex = folder.path().join("convex");
    let tsc = convex.join("node_modules/.bin/tsc");
    run(Command::new(&tsc).arg("--noEmit").current_dir(&convex)).await.unwrap();
    // It sees what is wrong.
    let file = convex.join("convex/users.ts");
    let wrong = std::fs::read_to_string(&file).unwrap().replace("deleted: false", "deleted: 0");
    std::fs::write(&file, wrong).unwrap();
    let said = run(Command::new(&tsc).arg("--noEmit").current_dir(&convex)).await.unwrap_err();
    assert!(said.contains("users.ts"), "{said}");
}
