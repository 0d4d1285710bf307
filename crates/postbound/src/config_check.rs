use crate::{
    args::{Common, ConfigCommand},
    exit::{Exit, failed},
    output::print,
    roles, worker,
};
use postbound_config::{Adapter, Target};

/// `postbound config check`
pub(crate) fn run(common: &Common, command: &ConfigCommand) -> Result<Exit, Exit> {
    let ConfigCommand::Check { json } = command;
    let config = roles::configuration(common)?;
    let unreadable: Vec<_> =
        config.check_secret_files().into_iter().map(|(key, error)| format!("{key}: {error}")).collect();
    if !unreadable.is_empty() {
        return Err(Exit::Configuration(unreadable.join("\n")));
    }
    for target in config.enabled_targets().filter(|target| needs_client(target)) {
        worker::client(target).map_err(|exit| match exit {
            Exit::Failed(why) => Exit::Configuration(why),
            other => other,
        })?;
    }
    if *json {
        print(serde_json::to_string_pretty(&config).map_err(failed)?);
        return Ok(Exit::Done);
    }
    for warning in config.warnings() {
        print(format!("warning: {warning}"));
    }
    let targets: Vec<_> = config.enabled_targets().map(|target| target.name.as_str()).collect();
    print(format!(
        "the configuration is good; targets: {}",
        if targets.is_empty() { "none".to_owned() } else { targets.join(", ") }
    ));
    Ok(Exit::Done)
}

/// Whether only a client can tell if the settings are good: templates and certificates are its own to read.
fn needs_client(target: &Target) -> bool {
    matches!(target.adapter, Adapter::Webhook(_))
        || target.ca_file.is_some()
        || target.client_cert_file.is_some()
}
