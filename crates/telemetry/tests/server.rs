//! The routes over real HTTP.

use std::net::SocketAddr;

use metrics::{counter, gauge, histogram};
use postbound_telemetry::{Health, Metrics, names, serve};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Served {
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
    task: JoinHandle<()>,
    client: reqwest::Client,
}

impl Served {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (health, stop) = (Health::new(), CancellationToken::new());
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::install().unwrap();
        let task = tokio::spawn(serve(listener, health.clone(), metrics, stop.clone()));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { address, health, stop, task, client }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(format!("http://{}{path}", self.address)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

#[tokio::test]
async fn readiness_follows_the_components_and_liveness_does_not() {
    let served = Served::start().await;
    assert_eq!(served.get("/readyz").await, (503, r#"{"ready":false,"components":{}}"#.to_owned()));

    let relay = served.health.component("relay");
    let worker = served.health.component("worker");
    relay.standby("another relay is active");
    worker.not_ready("the configuration of target `crm` differs from the registered one");
    let (status, body) = served.get("/readyz").await;
    assert_eq!(status, 503);
    insta::assert_snapshot!(body, @r#"{"ready":false,"components":{"relay":{"state":"standby","reason":"another relay is active","progress_age_seconds":null},"worker":{"state":"not_ready","reason":"the configuration of target `crm` differs from the registered one","progress_age_seconds":null}}}"#);
    assert_eq!(served.get("/healthz").await, (200, "ok\n".to_owned()));

    worker.ready();
    worker.progress();
    let (status, body) = served.get("/readyz").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(r#""worker":{"state":"ready","progress_age_seconds":0."#), "{body}");
    assert_eq!(served.get("/nothing").await.0, 404);
    // Other tests of this process set the same gauge between its being set and rendered.
    let is_said = async |line: &str| {
        for _ in 0..50 {
            if served.get("/metrics").await.1.lines().any(|one| one == line) {
                return true;
            }
        }
        false
    };
    assert!(is_said("postbound_ready 1").await);
    worker.not_ready("it lost its lease");
    assert!(is_said("postbound_ready 0").await);
}

#[tokio::test]
async fn each_route_is_described_with_the_answers_it_gives() {
    let served = Served::start().await;
    let (status, document) = served.get("/openapi.json").await;
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(
        paths.keys().collect::<Vec<_>>(),
        ["/healthz", "/metrics", "/openapi.json", "/readyz"],
        "{document:#}"
    );
    for (path, operations) in paths {
        let (status, _) = served.get(path).await;
        assert!(operations["get"]["responses"][status.to_string()].is_object(), "{path}: {status}");
    }
    let schemas = &document["components"]["schemas"];
    let component = &schemas["HealthReport"]["properties"]["components"]["additionalProperties"]["$ref"];
    assert_eq!(component, "#/components/schemas/ComponentReport");
    let state = &schemas["ComponentReport"]["properties"]["state"]["$ref"];
    assert_eq!(state, "#/components/schemas/ComponentState");
    let states = ["starting", "ready", "standby", "not_ready", "stalled", "stopped"];
    assert_eq!(schemas["ComponentState"]["enum"], json!(states), "{schemas:#}");
}

#[tokio::test]
async fn metrics_have_help_types_and_real_buckets() {
    let served = Served::start().await;
    counter!(names::DELIVERIES, "target" => "crm", "outcome" => names::outcome::DELIVERED).increment(3);
    gauge!(names::RELAY_LEADER).set(1.0);
    histogram!(names::ATTEMPT_DURATION, "target" => "crm", "status" => "200").record(0.02);
    histogram!(names::LEDGER_BATCH_SIZE).record(3.0);
    let (status, text) = served.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "# HELP postbound_deliveries_total events settled, by outcome",
        "# TYPE postbound_deliveries_total counter",
        r#"postbound_deliveries_total{target="crm",outcome="delivered"} 3"#,
        "postbound_relay_leader 1",
        "# TYPE postbound_attempt_duration_seconds histogram",
        r#"postbound_attempt_duration_seconds_bucket{target="crm",status="200",le="0.01"} 0"#,
        r#"postbound_attempt_duration_seconds_bucket{target="crm",status="200",le="0.025"} 1"#,
        r#"postbound_ledger_batch_size_bucket{le="4"} 1"#,
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in:\n{text}");
    }
}

#[tokio::test]
async fn a_stop_ends_the_server_even_while_a_client_holds_on() {
    let served = Served::start().await;
    assert_eq!(served.get("/healthz").await.0, 200);
    let mut holding = TcpStream::connect(served.address).await.unwrap();
    holding.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    served.stop.cancel();
    served.task.await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}
