use crate::{
    args::Common,
    exit::{Exit, failed},
    roles,
    shutdown::run_until_stopped,
};
use postbound_config::{Adapter, Config, SecretList, SecretSource, Target as Configured};
use postbound_target::{AdapterSettings, SecretFn, SecretsFn, Target, TargetSettings};
use postbound_telemetry::Health;
use postbound_worker::{BatchSettings, RateLimit, RetrySchedule, TargetPlan, Worker, WorkerSettings};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// `postbound worker`
pub(crate) async fn run(common: &Common, only: &[String]) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    roles::start_logging(&config)?;
    let plans = plans(&config, only)?;
    let store = roles::migrated_store(&config, "postbound worker").await?;
    let broker = roles::broker(&config)?;
    let (health, stop) = (Health::new(), CancellationToken::new());
    roles::serve_telemetry(&config, &health, &stop.child_token()).await?;
    let settings = WorkerSettings {
        lease: config.worker.lease,
        heartbeat: config.worker.heartbeat,
        ledger_batch_max: config.worker.ledger_batch_max,
    };
    let worker = Worker::new(store, broker, settings, plans, health, roles::label());
    run_until_stopped(stop.clone(), config.worker.drain_deadline, worker.run(stop.clone())).await?;
    Ok(Exit::Done)
}

fn plans(config: &Config, only: &[String]) -> Result<Vec<TargetPlan>, Exit> {
    if let Some(unknown) = only.iter().find(|name| !config.targets.contains_key(*name)) {
        let known: Vec<_> = config.targets.keys().map(String::as_str).collect();
        return Err(Exit::Configuration(format!(
            "--target {unknown}: no such target in the configuration; there are: {}",
            known.join(", ")
        )));
    }
    let plans: Vec<_> = config
        .enabled_targets()
        .filter(|target| only.is_empty() || only.contains(&target.name))
        .map(|target| plan(config, target))
        .collect::<Result<_, _>>()?;
    if plans.is_empty() {
        let hint = "give a target its url, e.g. [targets.backend] url = \"http://...\"";
        return Err(Exit::Configuration(format!("there is no target to work for; {hint}")));
    }
    Ok(plans)
}

fn plan(config: &Config, target: &Configured) -> Result<TargetPlan, Exit> {
    let client = client(target)?;
    Ok(TargetPlan {
        registration: roles::registration(config, target),
        client,
        timeout: target.timeout,
        concurrency: target.concurrency,
        in_flight_bytes_max: target.in_flight_bytes_max,
        prefetch_messages: target.prefetch_messages,
        retry: RetrySchedule {
            attempts: target.retry.attempts,
            delays: target.retry.delays.clone(),
            jitter: target.retry.jitter,
        },
        batch: match &target.adapter {
            Adapter::BackendSync(_) => None,
            Adapter::CrmBatch(crm) => Some(BatchSettings {
                users_max: crm.batch_users_max,
                linger: crm.linger,
                rate_limit: crm
                    .rate_limit
                    .map(|limit| RateLimit { requests: limit.requests, per: limit.per }),
            }),
        },
    })
}

/// The HTTP client of a target; also what `doctor` asks.
pub(crate) fn client(target: &Configured) -> Result<Target, Exit> {
    let url = target.endpoint().map(|url| url.to_string()).unwrap_or_default();
    let adapter = match &target.adapter {
        Adapter::BackendSync(backend) => {
            AdapterSettings::BackendSync { send_tenant_header: backend.send_tenant_header }
        }
        Adapter::CrmBatch(crm) => AdapterSettings::CrmBatch {
            sync_source: crm.sync_source.clone(),
            synced_by: crm.synced_by.clone(),
            application_code: crm.application_code.clone(),
            batch_users_max: crm.batch_users_max,
            send_versions: crm.send_versions,
        },
    };
    let headers =
        target.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
    Target::new(TargetSettings {
        timeout: target.timeout,
        connect_timeout: target.connect_timeout,
        response_bytes_max: target.response_bytes_max,
        concurrency: target.concurrency,
        user_agent: target.user_agent.clone(),
        headers,
        api_key: secret(target.api_key()),
        bearer_token: secret(target.bearer_token()),
        signing_secrets: secrets(target.signing_secrets()),
        ..TargetSettings::new(target.name.clone(), url, adapter)
    })
    .map_err(failed)
}

fn secret(source: Option<SecretSource>) -> SecretFn {
    let Some(source) = source else { return SecretFn::none() };
    SecretFn::new(move || {
        let secret = source.current().map_err(|error| error.to_string())?;
        Ok(Some(Arc::from(secret.expose())))
    })
}

fn secrets(source: Option<SecretList>) -> SecretsFn {
    let Some(source) = source else { return SecretsFn::none() };
    SecretsFn::new(move || {
        let secrets = source.current().map_err(|error| error.to_string())?;
        Ok(secrets.iter().map(|secret| Arc::from(secret.expose())).collect())
    })
}
