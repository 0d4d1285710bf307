//! A webhook does not reach into our own network unless it is told to.

use super::hook::Hook;
use super::{HURRIED, SOON, Town};
use postbound_testbed::Endpoints;
use postbound_tests::{Role, eventually};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_points_inside_is_closed_and_says_why_and_nobody_loses_an_attempt() {
    let hook = Hook::start(|_| json!({})).await;
    let port = hook.address.port();
    let town = Town::start("inside", |installation| {
        // An authority of its own: the system may have none.
        let ca = installation.path("ca.crt");
        std::fs::write(&ca, Endpoints::from_env().unwrap().authority.certificate()).unwrap();
        format!(
            "adapter = \"webhook\"\nurl = \"https://localhost:{port}/in\"\nca_file = \"{}\"\n{HURRIED}",
            ca.display()
        )
    })
    .await;
    for n in 0..5 {
        town.emit("t0", &format!("u{n}"), "created", r#"{"email": "u@example.com"}"#).await;
    }
    town.installation.until_settled(&["backend", "crm"]).await;
    eventually("the target is closed for its address", SOON, async || {
        town.worker.log().contains("address_refused").then_some(())
    })
    .await;
    let probed = town.installation.run(Role::Operator, &["doctor"]).await;
    let said = String::from_utf8_lossy(&probed.stdout).into_owned();
    assert!(said.contains("address_refused") && said.contains("allow_addresses"), "{said}");
    assert!(town.installation.letters("inside").await.is_empty());
    assert_eq!(
        town.ask("select coalesce(max(attempts), 0) from postbound.parked_user where target = 'inside'")
            .await,
        "0"
    );
    assert!(hook.asked().is_empty(), "nothing was sent");
}
