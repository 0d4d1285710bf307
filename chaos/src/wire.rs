//! What went over the wire to the receivers, as the links saw it: the sender's side of the story, which the receivers'
//! logs cannot tell. When a request began, what it bore, whether its answer reached the sender.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::clock::{MomentUs, now_us};
use crate::http::{Framer, Message};
use crate::mark::version_of;
use crate::proxy::Way;

/// The header by which each worker says who it is: only its name is part of a target's registration.
pub(crate) const WORKER_HEADER: &str = "x-chaos-worker";

/// Requests kept per target: many times what a run of an hour sends.
const REQUESTS_MAX: usize = 2_000_000;

/// One request that was sent whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Request {
    /// The worker that sent it, by its header.
    pub(crate) worker: String,
    /// `Idempotency-Key`, unquoted; empty where there was none.
    pub(crate) key: String,
    /// The tenant, by its header.
    pub(crate) tenant: String,
    /// The users it bore, each with its version where the request says so.
    pub(crate) users: Vec<(String, Option<i64>)>,
    /// sha256 of the body, in hex.
    pub(crate) body_sha256: String,
    /// When its first byte came.
    pub(crate) began_us: MomentUs,
    /// When the last of its answer was handed to the sender; none: it was not.
    pub(crate) answered_us: Option<MomentUs>,
    /// The answer's status, also where it did not reach the sender.
    pub(crate) status: Option<u16>,
    /// When the sender was seen to have ended the connection before an answer.
    pub(crate) abandoned_us: Option<MomentUs>,
}

/// Collects the requests of one target.
#[derive(Default)]
pub(crate) struct Observer {
    requests: Mutex<Vec<Request>>,
}

impl Observer {
    /// All requests so far, by the time they were whole.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches one connection. Clones watch the same one.
#[derive(Clone)]
pub(crate) struct Tap {
    observer: Arc<Observer>,
    connection: Arc<Mutex<Connection>>,
}

#[derive(Default)]
struct Connection {
    up: Framer,
    down: Framer,
    /// When the request that is being read began.
    began_us: Option<MomentUs>,
    /// Place of the request whose answer is awaited.
    awaiting: Option<usize>,
    /// Place of the request whose answer was read whole and is being handed on.
    answering: Option<usize>,
}

impl Tap {
    pub(crate) fn of_connection(observer: &Arc<Observer>) -> Self {
        Self { observer: Arc::clone(observer), connection: Arc::default() }
    }

    /// Bytes came in, and wait to be let through.
    pub(crate) fn read(&self, way: Way, bytes: &[u8]) {
        let mut connection = self.lock();
        match way {
            Way::Up => self.read_request(&mut connection, bytes),
            Way::Down => self.read_answer(&mut connection, bytes),
        }
    }

    /// What came in has been written on, the last of it at that time.
    pub(crate) fn passed(&self, way: Way, at_us: MomentUs) {
        let mut connection = self.lock();
        if way == Way::Down
            && let Some(place) = connection.answering.take()
        {
            self.observer.lock()[place].answered_us = Some(at_us);
        }
    }

    /// The sender has gone, or the connection was cut.
    pub(crate) fn closed(&self) {
        let connection = self.lock();
        if let Some(place) = connection.answering.or(connection.awaiting) {
            self.observer.lock()[place].abandoned_us.get_or_insert(now_us());
        }
    }

    fn read_request(&self, connection: &mut Connection, bytes: &[u8]) {
        let began_us = *connection.began_us.get_or_insert_with(now_us);
        for message in connection.up.feed(bytes) {
            let mut requests = self.observer.lock();
            if requests.len() < REQUESTS_MAX {
                connection.awaiting = Some(requests.len());
                requests.push(request(&message, began_us));
            }
        }
        if connection.up.is_between() {
            connection.began_us = None;
        }
    }

    fn read_answer(&self, connection: &mut Connection, bytes: &[u8]) {
        for message in connection.down.feed(bytes) {
            if let Some(place) = connection.awaiting.take() {
                let status = message.start_line().split(' ').nth(1).and_then(|status| status.parse().ok());
                self.observer.lock()[place].status = status;
                connection.answering = Some(place);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(message: &Message, began_us: MomentUs) -> Request {
    let header = |name: &str| message.header(name).unwrap_or_default().to_owned();
    let tenant = Some(header("postbound-tenant")).filter(|tenant| !tenant.is_empty());
    let version = header("postbound-user-version").parse().ok();
    Request {
        worker: header(WORKER_HEADER),
        key: header("idempotency-key").trim_matches('"').to_owned(),
        tenant: tenant.unwrap_or_else(|| header("x-tenant-id")),
        users: users(&message.body, version),
        body_sha256: hex(&Sha256::digest(&message.body)),
        began_us,
        ..Request::default()
    }
}

fn users(body: &[u8], version: Option<i64>) -> Vec<(String, Option<i64>)> {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Vec::new() };
    let named = |user: &Value| {
        let id = user["id"].as_str()?.to_owned();
        Some((id, version.or_else(|| user["version"].as_i64()).or_else(|| version_of(user))))
    };
    match body["users"].as_array() {
        Some(users) => users.iter().filter_map(named).collect(),
        None => named(&body).into_iter().collect(),
    }
}

/// Bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
