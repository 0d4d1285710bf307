use crate::{
    args::Common,
    exit::{Exit, failed},
    roles,
    shutdown::run_until_stopped,
};
use postbound_config::{
    Adapter, Answer, Config, Disposition, SecretList, SecretSource, Target as Configured, Webhook,
};
use postbound_target::{
    AdapterSettings, AddressPolicy, BodyTemplate, FailureClass, Override, SecretFn, SecretsFn, Target,
    TargetSettings, TemplateError, TextTemplate, TlsFiles, WebhookBody, WorkflowSettings,
};
use postbound_telemetry::Health;
use postbound_worker::{
    BatchSettings, BreakerSettings, RateLimit, RetrySchedule, TargetPlan, Worker, WorkerSettings,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// `postbound worker`
pub(crate) async fn run(common: &Common, only: &[String]) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    roles::start_logging(&config)?;
    let plans = plans(&config, only)?;
    let store = roles::awaited_store(&config, roles::WORKER).await?;
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
            schedule: target.retry.schedule.clone(),
            schedule_jitter: target.retry.schedule_jitter,
            horizon: target.retry.horizon,
            bounded_attempts: target.retry.bounded_attempts,
            permanent_attempts: target.retry.permanent_attempts,
        },
        guards_versions: target.guards_versions,
        doubt_after: target.doubt_after,
        breaker: BreakerSettings {
            failing_share: target.breaker.failing_share,
            calls_min: target.breaker.calls_min,
            window: target.breaker.window,
            pause_min: target.breaker.pause_min,
            pause_max: target.breaker.pause_max,
            fold_after: target.breaker.fold_after,
        },
        rate_limit: target.rate_limit.map(|limit| RateLimit { requests: limit.requests, per: limit.per }),
        live_share: target.live_share,
        batch: match &target.adapter {
            Adapter::BackendSync(_) | Adapter::Webhook(_) | Adapter::WorkflowTrigger(_) => None,
            Adapter::CrmBatch(crm) => {
                Some(BatchSettings { users_max: crm.batch_users_max, linger: crm.linger })
            }
        },
    })
}

/// The HTTP client of a target; also what `doctor` asks, and `config check` makes.
pub(crate) fn client(target: &Configured) -> Result<Target, Exit> {
    Target::new(client_settings(target)?).map_err(failed)
}

/// The settings of that client.
pub(crate) fn client_settings(target: &Configured) -> Result<TargetSettings, Exit> {
    let url = target.endpoint().map(|url| url.to_string()).unwrap_or_default();
    let headers =
        target.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
    Ok(TargetSettings {
        timeout: target.timeout,
        connect_timeout: target.connect_timeout,
        response_bytes_max: target.response_bytes_max,
        concurrency: target.concurrency,
        user_agent: target.user_agent.clone(),
        headers,
        api_key: secret(target.api_key()),
        bearer_token: secret(target.bearer_token()),
        basic_user: target.basic_user.clone(),
        basic_password: secret(target.basic_password()),
        signing_secrets: secrets(target.signing_secrets()),
        tls: TlsFiles {
            ca: target.ca_file.clone(),
            client: target.client_cert_file.clone().zip(target.client_key_file.clone()),
        },
        tenants: target.tenants.iter().cloned().collect(),
        addresses: addresses(&target.adapter),
        dispositions: target.dispositions.iter().filter_map(meaning).collect(),
        ..TargetSettings::new(target.name.clone(), url, adapter(target)?)
    })
}

fn adapter(target: &Configured) -> Result<AdapterSettings, Exit> {
    Ok(match &target.adapter {
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
        Adapter::Webhook(webhook) => webhook_settings(&target.name, webhook)?,
        Adapter::WorkflowTrigger(workflow) => AdapterSettings::WorkflowTrigger(WorkflowSettings {
            trigger: workflow.trigger.clone(),
            event_type: workflow.event_type.clone(),
            source: workflow.source.clone(),
            platform: workflow.platform.clone(),
            auth_provider: workflow.auth_provider.clone(),
            links: workflow
                .links
                .iter()
                .map(|(system, pointer)| (Arc::from(system.as_str()), pointer.clone()))
                .collect(),
        }),
    })
}

fn webhook_settings(target: &str, webhook: &Webhook) -> Result<AdapterSettings, Exit> {
    let refused =
        |key: &str, error: TemplateError| Exit::Configuration(format!("targets.{target}.{key}: {error}"));
    let body = match &webhook.body {
        Some(text) => {
            WebhookBody::Template(BodyTemplate::parse(text).map_err(|error| refused("body", error))?)
        }
        None => WebhookBody::CloudEvents {
            source: webhook.event_source.clone(),
            type_prefix: webhook.event_type_prefix.clone(),
        },
    };
    let header = |(name, text): (&String, &String)| {
        let template =
            TextTemplate::parse(text).map_err(|error| refused(&format!("header_templates.{name}"), error))?;
        Ok::<_, Exit>((name.clone(), template))
    };
    Ok(AdapterSettings::Webhook {
        body,
        content_type: webhook.content_type().to_owned(),
        headers: webhook.header_templates.iter().map(header).collect::<Result<_, _>>()?,
        api_key_header: webhook.api_key_header.clone(),
        external_id: webhook.external_id.clone(),
        changed_fields: webhook.changed_fields.clone(),
    })
}

/// The URLs of webhooks may be other people's to choose; those of our own systems are ours.
fn addresses(adapter: &Adapter) -> AddressPolicy {
    match adapter {
        Adapter::Webhook(webhook) if !webhook.allow_private_addresses => AddressPolicy::Public {
            and: webhook.allow_addresses.iter().filter_map(|network| network.parse().ok()).collect(),
        },
        _ => AddressPolicy::Any,
    }
}

/// An entry of `[targets.x.dispositions]`. `None` for what the configuration does not let through.
fn meaning((answer, disposition): (Answer, Disposition)) -> Option<Override> {
    let class = match disposition {
        Disposition::Delivered => None,
        Disposition::Transient => Some(FailureClass::Transient),
        Disposition::Permanent => Some(FailureClass::Permanent),
        Disposition::WholeTarget => Some(FailureClass::WholeTarget),
        Disposition::Unknown => Some(FailureClass::Unknown),
    };
    match answer {
        Answer::Statuses { from, to } => Some(Override::Status { from, to, class }),
        Answer::Reason(word) => Some(Override::Reason { word: word.to_owned(), class: class? }),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn target(adapter: &str, dispositions: &[(String, &str)]) -> Configured {
        let mut environment = vec![
            ("POSTBOUND_DATABASE__URL".to_owned(), "postgres://db".to_owned()),
            ("POSTBOUND_BROKER__URL".to_owned(), "amqp://mq".to_owned()),
            ("POSTBOUND_TARGETS__X__ADAPTER".to_owned(), adapter.to_owned()),
            ("POSTBOUND_TARGETS__X__URL".to_owned(), "http://host".to_owned()),
        ];
        let variable =
            |answer: &str| format!("POSTBOUND_TARGETS__X__DISPOSITIONS__{}", answer.to_uppercase());
        environment
            .extend(dispositions.iter().map(|(answer, means)| (variable(answer), (*means).to_owned())));
        Config::load(None, environment).unwrap().targets.remove("x").unwrap()
    }

    #[test]
    fn configuration_and_client_know_the_same_reasons() {
        let known: Vec<&str> = Answer::REASONS.into_iter().chain(Answer::RESULT_REASONS).collect();
        assert_eq!(known, Override::reasons().collect::<Vec<_>>());
        let every: Vec<_> = known.iter().map(|word| ((*word).to_owned(), "permanent")).collect();
        let target = target("crm-batch", &every);
        assert_eq!(target.dispositions.iter().filter_map(meaning).count(), known.len());
        assert!(client(&target).is_ok());
    }

    #[test]
    fn every_disposition_reaches_the_client() {
        let words = ["delivered", "transient", "permanent", "whole-target", "unknown"];
        let statuses: Vec<_> =
            words.iter().enumerate().map(|(place, word)| ((400 + place).to_string(), *word)).collect();
        let target = target("backend-sync", &statuses);
        let classes = [
            None,
            Some(FailureClass::Transient),
            Some(FailureClass::Permanent),
            Some(FailureClass::WholeTarget),
            Some(FailureClass::Unknown),
        ];
        let expected =
            (400..).zip(classes).map(|(status, class)| Override::Status { from: status, to: status, class });
        assert_eq!(
            target.dispositions.iter().filter_map(meaning).collect::<Vec<_>>(),
            expected.collect::<Vec<_>>()
        );
        assert!(client(&target).is_ok());
    }
}
