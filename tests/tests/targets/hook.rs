//! Somebody's endpoint: it remembers what it was asked, and answers as told.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What it was answered.
    pub(super) status: u16,
}

impl Request {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// The endpoint.
#[derive(Clone)]
pub(super) struct Hook {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
    refusals: Arc<Mutex<VecDeque<u16>>>,
}

impl Hook {
    /// Answers a success made of the request.
    pub(super) async fn start(answer: fn(&Value) -> Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hook =
            Self { address: listener.local_addr().unwrap(), asked: Arc::default(), refusals: Arc::default() };
        let served = hook.clone();
        let handler = move |headers: HeaderMap, body: Bytes| async move {
            let refusal = served.refusals.lock().unwrap().pop_front();
            let status = refusal.unwrap_or(200);
            let request = Request { headers, body, status };
            let said = answer(&request.json()).to_string();
            served.asked.lock().unwrap().push(request);
            (StatusCode::from_u16(status).unwrap(), said)
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        hook
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    /// The next requests are answered by these statuses.
    pub(super) fn refuse(&self, statuses: &[u16]) {
        self.refusals.lock().unwrap().extend(statuses);
    }

    /// All requests so far, in their order.
    pub(super) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// Those it took.
    pub(super) fn taken(&self) -> Vec<Request> {
        self.asked().into_iter().filter(|request| request.status == 200).collect()
    }
}
