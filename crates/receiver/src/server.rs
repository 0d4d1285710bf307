//! The HTTP side: routes, the checks every request passes, and the life of the process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};
use postbound_http::{ApiRouter, read_body};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::{Contract, Mode, ReceiverConfig, ReceiverError};
use crate::connection::{CuttableListener, Peer};
use crate::faults::{FaultPlan, faults_router, process_under};
use crate::intake::{Delivery, Envelope};
use crate::mail::{Mailer, send_until};
use crate::notify::{Notifier, admin_router, echo, notify_until};
use crate::problem::{Problem, Refusal, rate_limited};
use crate::ratelimit::RateLimiter;
use crate::signature::Verifier;
use crate::storage::{Storage, prune_idempotency_keys};
use crate::{auth, backend, crm, describe, samples, workflow};

const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// A receiver with its database, ready to be served. Clones share everything.
#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Inner>,
}

struct Inner {
    config: ReceiverConfig,
    storage: Storage,
    verifier: Verifier,
    limiter: Option<RateLimiter>,
    faults: Option<FaultPlan>,
    mailer: Option<Mailer>,
    notifier: Option<Notifier>,
    mail_waits: Notify,
}

impl Receiver {
    /// Checks the configuration, connects to Postgres and brings the schema up to date.
    ///
    /// # Errors
    /// A schema name or signing secret that cannot be used, or a database that is not there or refuses.
    pub async fn connect(config: ReceiverConfig) -> Result<Self, ReceiverError> {
        let verifier = Verifier::new(&config.signing_secrets)?;
        let mailer = config.smtp.as_ref().map(Mailer::new).transpose()?;
        let notifier =
            config.notify.as_ref().map(|notify| Notifier::new(notify, &config.contracts)).transpose()?;
        let storage = Storage::connect(&config).await?;
        let limiter = config.rate_limit.map(RateLimiter::new);
        let faults = config.faults.then(FaultPlan::default);
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                storage,
                verifier,
                limiter,
                faults,
                mailer,
                notifier,
                mail_waits: Notify::new(),
            }),
        })
    }

    /// The receiver's connections, whose `search_path` is its schema.
    pub fn pool(&self) -> &PgPool {
        self.inner.storage.pool()
    }

    pub(crate) fn config(&self) -> &ReceiverConfig {
        &self.inner.config
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    pub(crate) fn faults(&self) -> Option<&FaultPlan> {
        self.inner.faults.as_ref()
    }

    pub(crate) fn mailer(&self) -> Option<&Mailer> {
        self.inner.mailer.as_ref()
    }

    pub(crate) fn notifier(&self) -> Option<&Notifier> {
        self.inner.notifier.as_ref()
    }

    pub(crate) fn sends_mail(&self) -> bool {
        self.inner.mailer.is_some()
    }

    /// A welcome may wait to be sent.
    pub(crate) fn wake_mailer(&self) {
        self.inner.mail_waits.notify_one();
    }

    /// Until one may.
    pub(crate) async fn mail_waits(&self) {
        self.inner.mail_waits.notified().await;
    }
}

/// The routes of the configured contracts, `GET /healthz`, and `/_faults` where faults are enabled; if guarded, also
/// `GET /openapi.json`, which tells them.
///
/// Served by anything but [`serve`], clients count as one for the rate limit, and a `drop_connection` fault answers 503.
pub fn router(receiver: Receiver) -> Router {
    let config = receiver.config();
    let mut api = ApiRouter::new().get("/healthz", async || "ok", describe::health());
    for contract in &config.contracts {
        api = match contract {
            Contract::S0 => api.post("/workflows/trigger", receive_trigger, describe::trigger(config)),
            Contract::S2 => api.post("/internal/users/sync", receive_backend, describe::sync_user(config)),
            Contract::S3 => api.post("/api/internal/sync/users", receive_crm, describe::sync_users(config)),
        };
    }
    if receiver.notifier().is_some() && config.contracts.contains(&Contract::S2) {
        api = api.merge(admin_router(config));
    }
    if receiver.faults().is_some() {
        api = api.merge(faults_router());
    }
    let router = match config.mode {
        Mode::Guarded => api.publish(&describe::info()),
        // The samples refuse in shapes of their own, and nobody has described them.
        Mode::Guardless => api.unpublished(),
    };
    router.with_state(receiver)
}

/// Serves until `shutdown` is cancelled, then finishes the requests it has.
///
/// # Errors
/// What [`Receiver::connect`] refuses, or a listener that fails.
pub async fn serve(
    listener: TcpListener,
    config: ReceiverConfig,
    shutdown: CancellationToken,
) -> Result<(), ReceiverError> {
    let receiver = Receiver::connect(config).await?;
    tracing::info!(config = ?receiver.config(), address = ?listener.local_addr().ok(), "receiver.started");
    let pruning = tokio::spawn(prune_until(receiver.clone(), shutdown.clone()));
    let mailing = tokio::spawn(send_until(receiver.clone(), shutdown.clone()));
    let notifying = tokio::spawn(notify_until(receiver.clone(), shutdown.clone()));
    let service = router(receiver.clone()).into_make_service_with_connect_info::<Peer>();
    let served = axum::serve(CuttableListener(listener), service)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .await;
    shutdown.cancel();
    if let Err(error) = pruning.await {
        tracing::error!(%error, "receiver.prune.died");
    }
    if let Err(error) = mailing.await {
        tracing::error!(%error, "receiver.mail.died");
    }
    if let Err(error) = notifying.await {
        tracing::error!(%error, "receiver.notify.died");
    }
    receiver.pool().close().await;
    tracing::info!("receiver.stopped");
    Ok(served?)
}

async fn prune_until(receiver: Receiver, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(PRUNE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {
                match prune_idempotency_keys(receiver.pool(), receiver.config().idempotency_retention).await {
                    Ok(keys) => tracing::debug!(keys, "receiver.keys.pruned"),
                    Err(error) => tracing::warn!(%error, "receiver.keys.not_pruned"),
                }
            }
        }
    }
}

type PeerInfo = Option<Extension<ConnectInfo<Peer>>>;

async fn receive_trigger(State(receiver): State<Receiver>, peer: PeerInfo, request: Request) -> Response {
    receive(receiver, Contract::S0, peer, request).await
}

async fn receive_backend(State(receiver): State<Receiver>, peer: PeerInfo, request: Request) -> Response {
    receive(receiver, Contract::S2, peer, request).await
}

async fn receive_crm(State(receiver): State<Receiver>, peer: PeerInfo, request: Request) -> Response {
    receive(receiver, Contract::S3, peer, request).await
}

async fn receive(receiver: Receiver, contract: Contract, peer: PeerInfo, request: Request) -> Response {
    let peer = peer.map(|Extension(ConnectInfo(peer))| peer);
    let address = peer.as_ref().map(|peer| peer.address);
    match admit(&receiver, contract, address, request).await {
        Ok(delivery) => process_under(receiver, delivery, peer).await,
        Err(problem) => {
            tracing::warn!(
                contract = contract.as_str(), client.address = ?address, status = problem.status.as_u16(),
                reason = %problem.detail, "receiver.request.turned_away"
            );
            refusal(&receiver, contract, problem)
        }
    }
}

/// The checks that come before a byte of the body is parsed. What fails here leaves no trace but a log line.
async fn admit(
    receiver: &Receiver,
    contract: Contract,
    address: Option<SocketAddr>,
    request: Request,
) -> Result<Delivery, Problem> {
    let config = receiver.config();
    if let (Contract::S3, Some(limiter)) = (contract, &receiver.inner.limiter) {
        let client = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        limiter.admit(client, Instant::now()).map_err(rate_limited)?;
    }
    let (parts, body) = request.into_parts();
    auth::check_key(config, contract, &parts.headers)?;
    let body = read_body(body, config.body_bytes_max).await?;
    if contract != Contract::S3 && config.mode == Mode::Guarded {
        auth::check_signature(&receiver.inner.verifier, &parts.headers, &body)?;
    }
    Ok(Delivery::new(contract, parts.headers, &body))
}

/// Hands an admitted request to its contract, and logs it where that refused it before the database could.
pub(crate) async fn process(receiver: &Receiver, delivery: &Delivery, failing: &[String]) -> Response {
    let result = match (receiver.config().mode, delivery.contract) {
        (Mode::Guarded | Mode::Guardless, Contract::S0) => workflow::trigger(receiver, delivery).await,
        (Mode::Guarded, Contract::S2) => backend::sync(receiver, delivery).await,
        (Mode::Guarded, Contract::S3) => crm::sync(receiver, delivery, failing).await,
        (Mode::Guardless, Contract::S2) => samples::sync_backend(receiver, delivery).await,
        (Mode::Guardless, Contract::S3) => samples::sync_crm(receiver, delivery, failing).await,
    };
    match result {
        Ok(response) => {
            if receiver.config().notify.as_ref().is_some_and(|notify| notify.echo) {
                echo(receiver, delivery).await;
            }
            response
        }
        Err(problem) => {
            if problem.status.is_client_error() {
                log_refused(receiver, delivery, &problem).await;
            }
            refusal(receiver, delivery.contract, problem)
        }
    }
}

async fn log_refused(receiver: &Receiver, delivery: &Delivery, problem: &Problem) {
    let envelope = Envelope::lenient(&delivery.headers);
    let contract = delivery.contract.as_str();
    let users = delivery.users();
    let ids: Vec<&str> = users.iter().take(10).map(|user| user.id).collect();
    let status = problem.status.as_u16();
    tracing::warn!(contract, users = ?ids, status, reason = %problem.detail, "receiver.request.refused");
    let storage = receiver.storage();
    let logged = storage.log(contract, &envelope, &delivery.sha256, &users, (status, "refused")).await;
    if let Err(error) = logged {
        tracing::error!(%error, "receiver.refusal.not_logged");
    }
}

fn refusal(receiver: &Receiver, contract: Contract, problem: Problem) -> Response {
    match receiver.config().mode {
        Mode::Guarded => Refusal::from(problem).into_response(),
        Mode::Guardless => samples::refusal(contract, problem),
    }
}
