//! What was published is published again, and nobody hears of it.

use super::{SOON, emit};
use postbound_tests::{Installation, Options, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewound_cursor_publishes_everything_again_and_sends_nothing_twice() {
    let installation = Installation::start(Options::every_event()).await;
    let relay = installation.relay();
    let worker = installation.worker(&[]);
    for action in ["created", "updated", "deleted", "created"] {
        emit(&installation, "user", 50, action).await;
    }
    installation.assert_converged().await;

    for target in ["backend", "crm"] {
        installation.store().rewind_cursor(target).await.unwrap();
    }
    for target in ["backend", "crm"] {
        let label = format!("target=\"{target}\"");
        eventually("everything is published again", SOON, async || {
            let published = relay.metric("postbound_relay_published_total", &[&label]).await;
            (published >= 400.0).then_some(())
        })
        .await;
        eventually("everything is recognised", SOON, async || {
            let labels = [label.as_str(), r#"outcome="superseded""#];
            let settled = worker.metric("postbound_deliveries_total", &labels).await;
            (settled >= 200.0).then_some(())
        })
        .await;
    }
    for contract in ["s2", "s3"] {
        assert_eq!(
            installation.oracle().count(contract, None).await,
            200,
            "{contract} was sent something twice"
        );
    }
    // Life goes on where it was.
    emit(&installation, "user", 50, "updated").await;
    installation.assert_converged().await;
}
