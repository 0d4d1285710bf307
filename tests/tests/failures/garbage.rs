//! A target that answers garbage: each answer ends where it should, and the worker never stalls.

use super::{SOON, emit};
use postbound_receiver::{Fault, FaultAnswer};
use postbound_tests::{Installation, Options, eventually};

const JSON: (&str, &str) = ("content-type", "application/json");

fn says(status: u16, headers: &[(&str, &str)], body: impl Into<String>) -> Option<FaultAnswer> {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Some(FaultAnswer { status, headers, body: body.into() })
}

fn result(user: &str, status: &str) -> String {
    format!(r#"{{"userId":"{user}","status":"{status}","crmUserId":"c-{user}"}}"#)
}

fn results(results: &[String]) -> String {
    format!(r#"{{"success":true,"message":"ok","results":[{}]}}"#, results.join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_crm_answers_nobody_is_settled_by_it_and_everybody_is_delivered_when_it_makes_sense_again()
 {
    let options = Options::default()
        .with("targets.crm.retry.attempts", "2")
        .with("targets.crm.retry.delays", "[\"50ms\"]")
        .with("targets.crm.retry.schedule", "[\"50ms\"]")
        .with("targets.crm.breaker.pause_min", "100ms")
        .with("targets.crm.response_bytes_max", "64KiB");
    let installation = Installation::start(options).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&[]);
    let twice = [result("g-1", "created"), result("g-1", "failed")];
    let answers = [
        ("html", says(200, &[("content-type", "text/html")], "<html>maintenance</html>")),
        ("half a body", says(200, &[JSON], r#"{"success":true,"results":[{"userId":"g-1","sta"#)),
        (
            "more than is read",
            says(200, &[JSON], format!(r#"{{"success":true,"results":[],"pad":"{}"}}"#, "x".repeat(1 << 20))),
        ),
        ("success false", says(200, &[JSON], r#"{"success":false,"message":"no","results":[]}"#)),
        ("results missing", says(200, &[JSON], results(&[]))),
        ("results doubled", says(200, &[JSON], results(&twice))),
        ("unknown users", says(200, &[JSON], results(&[result("somebody", "created")]))),
        ("an unknown status", says(200, &[JSON], results(&[result("g-1", "perhaps")]))),
        ("a redirect to itself", says(302, &[("location", "/api/internal/sync/users")], "")),
        ("no answer at all", None),
    ];
    for (version, (what, respond)) in (1..).zip(answers) {
        let drop_connection = respond.is_none();
        let fault = Fault {
            for_users: vec!["g-1".to_owned()],
            times: Some(2),
            respond,
            drop_connection,
            ..Fault::default()
        };
        installation.crm.fault(fault).await;
        emit(&installation, "g", 1, if version == 1 { "created" } else { "updated" }).await;
        eventually(&format!("after {what}, it is delivered"), SOON, async || {
            let taken = installation.oracle().taken("s3", "g-1").await;
            taken.iter().any(|(delivered, _)| *delivered == version).then_some(())
        })
        .await;
        assert_eq!(installation.crm.fault_hits().await, 2, "{what}: one of the two did settle the user");
    }
    installation.crm.behave().await;
    installation.assert_converged().await;
    assert_eq!(installation.letters("crm").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn html_with_200_is_success_to_the_backend_whose_contract_is_the_status() {
    let installation = Installation::start(Options::default()).await;
    let _relay = installation.relay();
    let _worker = installation.worker(&["backend"]);
    let respond = says(200, &[("content-type", "text/html")], "<html>thanks</html>");
    installation.backend.fault(Fault { respond, ..Fault::default() }).await;
    emit(&installation, "user", 3, "created").await;
    installation.until_settled(&["backend"]).await;
    let delivered: i64 =
        sqlx::query_scalar("select count(*) from postbound.delivery_ledger where delivered_version = 1")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
    assert_eq!(delivered, 3);
}
