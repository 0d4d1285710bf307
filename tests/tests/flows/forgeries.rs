//! Flow 5.

use super::Town;
use super::town::{Habits, now};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_5_a_forged_or_stale_webhook_leaves_nothing_but_a_metric_and_a_log_line() {
    let town = Town::start(Habits::default()).await;
    town.register("u-1", "Ada").await;
    town.until_at_rest().await;
    let before = town.user("u-1").await;
    let body = json!({"event": "user.deleted", "data": {"frontendUserId": "u-1", "reason": "forged"}});
    let stranger = "whsec_c3RyYW5nZXJzdHJhbmdlcnN0cmFuZ2Vyc3RyYW5nZXI=";
    let forged = town.backend_webhook(Some(stranger), now(), &body);
    let stale = town.backend_webhook(None, now() - 301, &body);
    let early = town.backend_webhook(None, now() + 400, &body);
    let other_body = town.backend_webhook(None, now(), &json!({})).body(body.to_string());
    for request in [forged, stale, early, other_body] {
        let status = request.send().await.unwrap().status().as_u16();
        assert!((400..500).contains(&status), "{status}");
    }
    assert_eq!(town.user("u-1").await, before);
    for trace in
        ["select count(*) from postbound.inbound_message", "select count(*) from postbound.inbound_waiting"]
    {
        assert_eq!(town.number(trace).await, 0, "{trace}");
    }
    assert_eq!(town.number("select count(*) from postbound.change_log").await, 1);
    let refused = town.ingress.metric("postbound_ingress_webhooks_total", &[r#"source="backend""#]).await;
    assert!((refused - 4.0).abs() < f64::EPSILON, "{refused}");
    let log = town.ingress.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("ingress.webhook.refused")).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("forged")), "a line tells the payload: {lines:#?}");
}
