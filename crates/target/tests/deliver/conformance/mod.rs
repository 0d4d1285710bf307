//! What every adapter promises, over real HTTP: each test asks all of `adapters::ADAPTERS`.

mod answers;
mod overrides;
mod requests;
mod transport;
mod words;

use crate::adapters::Adapter;
use crate::server::{Received, Server};
use crate::states::{brief, deliver};
use axum::response::Response;
use postbound_target::{Delivery, Outcome, TargetSettings};

/// A server that answers so, whatever it is asked.
async fn serve(reply: impl Fn() -> Response + Clone + Send + Sync + 'static) -> Server {
    Server::start(move |_| reply()).await
}

/// The only request that delivering these states with these settings makes.
async fn only_request(
    server: &Server,
    settings: TargetSettings,
    states: &[Delivery],
) -> (Received, Vec<Outcome>) {
    let before = server.received().len();
    let outcomes = deliver(settings, states).await;
    assert_eq!(outcomes.len(), states.len());
    let received = server.received();
    assert_eq!(received.len(), before + 1, "one attempt and no more");
    (received.into_iter().next_back().unwrap(), outcomes)
}

/// What becomes of a crowd that shares this failure. `bisect` counts for several users alone.
fn assert_all(adapter: &Adapter, outcomes: &[Outcome], expected: &str, bisect: bool, what: &str) {
    let flags = match (outcomes.len() > 1, bisect) {
        (false, _) => "",
        (true, false) => " shared",
        (true, true) => " shared bisect",
    };
    let expected = match expected {
        "delivered" => expected.to_owned(),
        failure => format!("{failure}{flags}"),
    };
    for outcome in outcomes {
        assert_eq!(brief(outcome), expected, "{}: {what}, {} users", adapter.name, outcomes.len());
    }
}
