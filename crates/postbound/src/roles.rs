//! What all roles begin with: configuration, logging, Postgres, RabbitMQ, health and metrics.

use crate::{
    args::Common,
    exit::{Exit, failed},
};
use postbound_broker::{Broker, BrokerOptions};
use postbound_config::{Config, LogFormat, SecretSource, Target, process_environment};
use postbound_event::Action;
use postbound_store::{Registration, Store, StoreOptions};
use postbound_telemetry::{Health, Metrics, init_logging, serve};
use std::{str::FromStr as _, time::Duration};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// `application_name` of the relay's connections.
pub(crate) const RELAY: &str = "postbound relay";
/// `application_name` of the ingress' connections.
pub(crate) const INGRESS: &str = "postbound ingress";
/// `application_name` of a worker's connections.
pub(crate) const WORKER: &str = "postbound worker";
/// How long relay and worker wait at their start for a Postgres that is away.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Reads the configuration.
pub(crate) fn configuration(common: &Common) -> Result<Config, Exit> {
    Config::load(common.config.as_deref(), process_environment())
        .map_err(|errors| Exit::Configuration(errors.to_string()))
}

/// Starts logging, for the roles that keep running.
pub(crate) fn start_logging(config: &Config) -> Result<(), Exit> {
    let format = match config.telemetry.log_format {
        LogFormat::Human => postbound_telemetry::LogFormat::Human,
        LogFormat::Json => postbound_telemetry::LogFormat::Json,
    };
    // lapin logs what it also returns, and we log that where it is handled.
    let filter = match config.telemetry.log.contains("lapin") {
        true => config.telemetry.log.clone(),
        false => format!("{},lapin=off", config.telemetry.log),
    };
    init_logging(&filter, format).map_err(failed)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Postgres, for the part that calls itself `application`.
pub(crate) fn store(config: &Config, application: &'static str) -> Result<Store, Exit> {
    let source = config.database.password();
    let password = source.as_ref().map(SecretSource::current).transpose().map_err(failed)?;
    let store = Store::new(&StoreOptions {
        url: config.database.url.expose().to_owned(),
        password: password.map(|secret| secret.expose().to_owned()),
        pool_max: config.database.pool_max,
        connect_timeout: config.database.connect_timeout,
        application,
        by_index: [RELAY, WORKER, INGRESS].contains(&application),
    })
    .map_err(failed)?;
    if let Some(source) = source {
        let store = store.clone();
        tokio::spawn(follow_password(source, move |password| store.set_password(password)));
    }
    Ok(store)
}

/// Watches a password's file, so that a rotated one is used by the next connection.
async fn follow_password(source: SecretSource, apply: impl Fn(&str)) {
    let mut look = tokio::time::interval(Duration::from_secs(5));
    let mut last = None;
    loop {
        look.tick().await;
        // An unreadable file keeps the last password; the next connection says if that was wrong.
        let Ok(current) = source.current() else { continue };
        if last.as_ref() != Some(&current) {
            apply(current.expose());
            last = Some(current);
        }
    }
}

/// A migrated database; anything else is an error that says what to do.
pub(crate) async fn migrated_store(config: &Config, application: &'static str) -> Result<Store, Exit> {
    migrated_store_within(config, application, Duration::ZERO).await
}

/// The same for roles that keep running: a server that starts, restarts or fails over is waited for.
pub(crate) async fn awaited_store(config: &Config, application: &'static str) -> Result<Store, Exit> {
    migrated_store_within(config, application, START_PATIENCE).await
}

async fn migrated_store_within(
    config: &Config,
    application: &'static str,
    patience: Duration,
) -> Result<Store, Exit> {
    let store = store(config, application)?;
    let started = Instant::now();
    let status = loop {
        match store.migration_status().await {
            Ok(status) => break status,
            Err(error) if error.is_transient() && started.elapsed() < patience => {
                tracing::warn!(error = %error, "Postgres cannot be used yet; waiting for it");
                sleep(Duration::from_secs(1)).await;
            }
            Err(error) => {
                let address = config.database.url.redacted_url();
                return Err(Exit::failed(format!("Postgres at {address} cannot be used: {error}")));
            }
        }
    };
    if !status.is_current() {
        return Err(Exit::failed(format!(
            "the database is at migration {}, this version needs {}; run: postbound migrate",
            status.applied, status.known
        )));
    }
    Ok(store)
}

/// RabbitMQ.
pub(crate) fn broker(config: &Config) -> Result<Broker, Exit> {
    let settings = &config.broker;
    let source = settings.password();
    let password = source.as_ref().map(SecretSource::current).transpose().map_err(failed)?;
    let broker = Broker::new(&BrokerOptions {
        url: settings.url.expose().to_owned(),
        password: password.map(|secret| secret.expose().to_owned()),
        heartbeat: settings.heartbeat,
        connect_timeout: settings.connect_timeout,
        ca_file: settings.ca_file.clone(),
        client_certificate: settings.client_cert_file.clone().zip(settings.client_key_file.clone()),
    })
    .map_err(failed)?;
    if let Some(source) = source {
        let broker = broker.clone();
        tokio::spawn(follow_password(source, move |password| broker.set_password(password)));
    }
    Ok(broker)
}

/// Serves health and metrics where the configuration wants them. Says the address it really has.
pub(crate) async fn serve_telemetry(
    config: &Config,
    health: &Health,
    stop: &CancellationToken,
) -> Result<(), Exit> {
    let Some(listen) = config.telemetry.listen else { return Ok(()) };
    let metrics = Metrics::install().map_err(failed)?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Exit::failed(format!("telemetry.listen: cannot listen on {listen}: {error}")))?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "serving /healthz, /readyz and /metrics");
    tokio::spawn(serve(listener, health.clone(), metrics, stop.clone()));
    Ok(())
}

/// What `topology apply` registers of a target, and a worker compares.
pub(crate) fn registration(config: &Config, target: &Target) -> Registration {
    Registration {
        name: target.name.clone(),
        adapter: target.adapter.kind().as_str().to_owned(),
        actions: target.actions.iter().filter_map(|action| Action::from_str(action.as_str()).ok()).collect(),
        origin: target.origin.clone(),
        fold: target.coalesce,
        config_hash: config.target_hash(target),
        settings: target.registered_settings(),
        partitions: config.topology.partitions,
    }
}

/// host:pid, to be recognised by people.
pub(crate) fn label() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".to_owned());
    format!("{}:{}", host.trim(), std::process::id())
}
