mod check;

use crate::{
    args::{Common, ContractArg},
    exit::{Exit, failed},
    roles,
    shutdown::run_until_stopped,
};
use postbound_config::{Config, ReceiverMode, SecretSource};
use postbound_receiver::{Contract, Mode, NotifyConfig, RateLimit, ReceiverConfig, Smtp, serve};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ReceiverCommand {
    /// Send an endpoint what Postbound sends, and say what it makes of each answer (exit 4: not all is right). Its users
    /// are of a tenant of their own, and deleted at the end
    Check(check::CheckArgs),
}

/// `postbound receiver check`
pub(crate) async fn run_command(common: &Common, command: &ReceiverCommand) -> Result<Exit, Exit> {
    match command {
        ReceiverCommand::Check(args) => check::run(common, args).await,
    }
}

/// `postbound receiver`
pub(crate) async fn run(common: &Common, only: Option<ContractArg>, guardless: bool) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    roles::start_logging(&config)?;
    let settings = settings(&config, only, guardless)?;
    let listen = config.receiver.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Exit::failed(format!("receiver.listen: cannot listen on {listen}: {error}")))?;
    tracing::info!(address = %listener.local_addr().map_err(failed)?, "reference receiver listening");
    let stop = CancellationToken::new();
    run_until_stopped(stop.clone(), Duration::from_secs(10), serve(listener, settings, stop.clone()))
        .await?
        .map_err(failed)?;
    Ok(Exit::Done)
}

fn settings(config: &Config, only: Option<ContractArg>, guardless: bool) -> Result<ReceiverConfig, Exit> {
    let receiver = &config.receiver;
    let url = receiver.database_url.as_ref().unwrap_or(&config.database.url);
    let key = |source: Option<SecretSource>| {
        let secret = source.map(|source| source.current()).transpose().map_err(failed)?;
        Ok::<_, Exit>(secret.map(|secret| secret.expose().to_owned()))
    };
    let secrets = receiver.signing_secrets().map(|list| list.current()).transpose().map_err(failed)?;
    let guardless = guardless || matches!(receiver.mode, ReceiverMode::Guardless);
    Ok(ReceiverConfig {
        schema: receiver.schema.clone(),
        contracts: match only {
            None => vec![Contract::S0, Contract::S2, Contract::S3],
            Some(ContractArg::BackendSync) => vec![Contract::S0, Contract::S2],
            Some(ContractArg::CrmBatch) => vec![Contract::S3],
        },
        mode: if guardless { Mode::Guardless } else { Mode::Guarded },
        api_key: key(receiver.api_key())?,
        backend_api_key: key(receiver.backend_api_key())?,
        signing_secrets: secrets
            .iter()
            .flat_map(|list| list.iter())
            .map(|secret| secret.expose().to_owned())
            .collect(),
        rate_limit: receiver.rate_limit.map(|limit| RateLimit { requests: limit.requests, per: limit.per }),
        smtp: receiver
            .smtp_url
            .as_ref()
            .map(|url| Smtp { url: url.expose().to_owned(), from: receiver.smtp_from.clone() }),
        notify: receiver
            .notify_url
            .clone()
            .zip(receiver.notify_secret.as_ref())
            .map(|(url, secret)| NotifyConfig { url, secret: secret.expose().to_owned(), echo: false }),
        faults: receiver.faults,
        ..ReceiverConfig::new(url.expose())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_contract_has_its_key_from_a_value_or_a_file() {
        let file = std::env::temp_dir().join(format!("postbound-receiver-key-{}", std::process::id()));
        std::fs::write(&file, "backend-key\n").unwrap();
        let check = |variables: &[(&str, &str)], keys: (Option<&str>, Option<&str>)| {
            let variables = [("DATABASE_URL", "postgres://db")].iter().chain(variables);
            let variables =
                variables.map(|(key, value)| (format!("POSTBOUND_RECEIVER__{key}"), (*value).to_owned()));
            let settings = settings(&Config::load(None, variables).unwrap(), None, false).unwrap();
            assert_eq!((settings.api_key.as_deref(), settings.backend_api_key.as_deref()), keys);
        };
        check(&[], (None, None));
        check(&[("API_KEY", "crm-key")], (Some("crm-key"), None));
        check(&[("BACKEND_API_KEY", "backend-key")], (None, Some("backend-key")));
        let path = file.to_str().unwrap();
        check(
            &[("API_KEY", "crm-key"), ("BACKEND_API_KEY_FILE", path)],
            (Some("crm-key"), Some("backend-key")),
        );
        std::fs::remove_file(&file).unwrap();
    }
}
