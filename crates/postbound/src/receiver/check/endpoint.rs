use super::{CheckArgs, Contract};
use crate::{
    args::Common,
    exit::{Exit, failed},
    roles, worker,
};
use postbound_config::{
    Adapter, BackendSync, CrmBatch, Retry, SecretSource, Target as Configured, Webhook, WorkflowTrigger,
};
use postbound_event::Action;
use postbound_target::{SecretFn, SecretsFn, TargetSettings};

/// What is presented instead of the right API key, token or password.
const WRONG_KEY: &str = "postbound-check-wrong-key";
/// What signs instead of the right secret.
const WRONG_SECRET: &str = "whsec_cG9zdGJvdW5kLWNoZWNrLXdyb25nLXNlY3JldC4uLi4=";

/// Whom the check asks, and with which settings of a target.
pub(super) struct Endpoint {
    pub(super) contract: Contract,
    pub(super) url: String,
    pub(super) tenant: String,
    pub(super) settings: TargetSettings,
    /// How often Postbound would try what fails.
    pub(super) retry: Retry,
    /// The configuration says that it refuses older versions.
    pub(super) guards_versions: bool,
    /// Whether requests tell versions at all.
    pub(super) tells_versions: bool,
    /// Ids that answers may tell: systems of a workflow, by name; else one without a name, or none.
    pub(super) ids: Vec<String>,
    target: Configured,
}

impl Endpoint {
    /// From the command line, or the configuration.
    pub(super) fn of(common: &Common, args: &CheckArgs) -> Result<Self, Exit> {
        let target = match &args.target {
            Some(name) => configured(common, name)?,
            None => given(args)?,
        };
        let contract = match target.adapter {
            Adapter::BackendSync(_) => Contract::BackendSync,
            Adapter::CrmBatch(_) => Contract::CrmBatch,
            Adapter::Webhook(_) => Contract::Webhook,
            Adapter::WorkflowTrigger(_) if args.start_workflows => Contract::WorkflowTrigger,
            Adapter::WorkflowTrigger(_) => {
                let why = "the check would start workflows for real; --start-workflows says that it may";
                return Err(Exit::Usage(why.to_owned()));
            }
        };
        if !target.tenants.is_empty() && !target.tenants.contains(&args.tenant) {
            let tenants: Vec<&str> = target.tenants.iter().map(String::as_str).collect();
            let why = format!(
                "{} is sent users of some tenants only; name one by --tenant: {}",
                target.name,
                tenants.join(", ")
            );
            return Err(Exit::Usage(why));
        }
        check_secrets(&target)?;
        let url = target.endpoint().map(|url| url.to_string()).unwrap_or_default();
        let own_id = |is_told: bool| if is_told { vec![String::new()] } else { Vec::new() };
        let (tells_versions, ids) = match &target.adapter {
            Adapter::BackendSync(_) => (true, own_id(false)),
            Adapter::CrmBatch(crm) => (crm.send_versions, own_id(true)),
            Adapter::Webhook(webhook) => (true, own_id(webhook.external_id.is_some())),
            Adapter::WorkflowTrigger(workflow) => (true, workflow.links.keys().cloned().collect()),
        };
        Ok(Self {
            contract,
            url,
            tenant: args.tenant.clone(),
            settings: worker::client_settings(&target)?,
            retry: target.retry.clone(),
            guards_versions: target.guards_versions,
            tells_versions,
            ids,
            target,
        })
    }

    /// Whether the target is told of such changes.
    pub(super) fn wants(&self, action: Action) -> bool {
        self.target.actions.iter().any(|wanted| wanted.as_str() == action.as_str())
    }

    pub(super) fn has_key(&self) -> bool {
        let target = &self.target;
        target.api_key().is_some() || target.bearer_token().is_some() || target.basic_user.is_some()
    }

    pub(super) fn signs(&self) -> bool {
        self.target.signing_secrets().is_some()
    }

    /// Whether something else may be what it knows Postbound by: a certificate, a header of the configuration.
    pub(super) fn has_other_credentials(&self) -> bool {
        self.target.client_cert_file.is_some() || !self.target.headers.is_empty()
    }

    /// The same with wrong keys and right signatures.
    pub(super) fn with_wrong_keys(&self) -> TargetSettings {
        let wrong = |is_used: bool| if is_used { SecretFn::fixed(WRONG_KEY) } else { SecretFn::none() };
        TargetSettings {
            api_key: wrong(self.target.api_key().is_some()),
            bearer_token: wrong(self.target.bearer_token().is_some()),
            basic_password: wrong(self.target.basic_password().is_some()),
            ..self.settings.clone()
        }
    }

    /// The same with right keys and wrong signatures.
    pub(super) fn with_wrong_secret(&self) -> TargetSettings {
        TargetSettings { signing_secrets: SecretsFn::fixed([WRONG_SECRET]), ..self.settings.clone() }
    }
}

/// A target of the configuration.
fn configured(common: &Common, name: &str) -> Result<Configured, Exit> {
    let mut config = roles::configuration(common)?;
    let target = config.targets.remove(name).ok_or_else(|| {
        let known: Vec<&str> = config.targets.keys().map(String::as_str).collect();
        Exit::Usage(format!("there is no target {name}; there are: {}", known.join(", ")))
    })?;
    if target.is_enabled() { Ok(target) } else { Err(Exit::Usage(format!("target {name} has no url"))) }
}

/// A target of the command line, with every default.
fn given(args: &CheckArgs) -> Result<Configured, Exit> {
    let of_webhooks = [
        ("--api-key-header", args.api_key_header.is_some()),
        ("--external-id", args.external_id.is_some()),
        ("--allow-private-addresses", args.allow_private_addresses),
    ];
    let contract = args.contract.unwrap_or(Contract::BackendSync);
    let stray = match contract {
        Contract::Webhook => None,
        _ => of_webhooks.iter().find(|(_, is_given)| *is_given).map(|(name, _)| *name),
    };
    if let Some(name) = stray {
        return Err(Exit::Usage(format!("{name} is for --contract webhook")));
    }
    if args.no_versions && contract != Contract::CrmBatch {
        return Err(Exit::Usage("--no-versions is for --contract crm-batch".to_owned()));
    }
    if args.start_workflows && contract != Contract::WorkflowTrigger {
        return Err(Exit::Usage("--start-workflows is for --contract workflow-trigger".to_owned()));
    }
    let mut target = Configured {
        url: args.url.clone(),
        api_key_file: args.api_key_file.clone(),
        bearer_token_file: args.bearer_token_file.clone(),
        signing_secrets_file: args.secret_file.clone(),
        ca_file: args.ca_file.clone(),
        ..Configured::new("receiver-check", adapter_of(contract, args))
    };
    if contract == Contract::WorkflowTrigger {
        // As the configuration has it where it says nothing else.
        target.actions = [postbound_config::Action::Created].into();
        target.coalesce = false;
    }
    check_url(&target, args)?;
    Ok(target)
}

/// The contract's adapter, with every default.
fn adapter_of(contract: Contract, args: &CheckArgs) -> Adapter {
    match contract {
        Contract::BackendSync => Adapter::BackendSync(BackendSync::default()),
        Contract::CrmBatch => {
            Adapter::CrmBatch(CrmBatch { send_versions: !args.no_versions, ..CrmBatch::default() })
        }
        Contract::Webhook => {
            let defaults = Webhook::default();
            Adapter::Webhook(Webhook {
                api_key_header: args.api_key_header.clone().unwrap_or(defaults.api_key_header.clone()),
                external_id: args.external_id.clone(),
                allow_private_addresses: args.allow_private_addresses,
                ..defaults
            })
        }
        Contract::WorkflowTrigger => Adapter::WorkflowTrigger(WorkflowTrigger::default()),
    }
}

/// What the configuration would refuse of a URL, too.
fn check_url(target: &Configured, args: &CheckArgs) -> Result<(), Exit> {
    let refused = |why: &str| Err(Exit::Usage(format!("--url {why}")));
    let Some(url) = target.endpoint().filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return refused("is not a web address; expected http://host/path or https://host/path");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return refused("must not hold credentials: it is shown; use --api-key-file or --bearer-token-file");
    }
    let is_webhook = matches!(target.adapter, Adapter::Webhook(_));
    if is_webhook && url.scheme() == "http" && !args.allow_private_addresses {
        return refused(
            "of a webhook needs https; --allow-private-addresses lets it be one of your own network",
        );
    }
    Ok(())
}

/// Secrets that cannot be had are no answer of the endpoint's.
fn check_secrets(target: &Configured) -> Result<(), Exit> {
    for source in [target.api_key(), target.bearer_token(), target.basic_password()].iter().flatten() {
        SecretSource::current(source).map_err(failed)?;
    }
    if let Some(secrets) = target.signing_secrets() {
        for secret in secrets.current().map_err(failed)?.iter() {
            postbound_target::signature::SigningKey::parse(secret.expose()).map_err(failed)?;
        }
    }
    Ok(())
}
