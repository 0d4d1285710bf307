//! What operators' commands share: who acts, on which database, and what is written of it.

use crate::{
    args::Common,
    exit::{Exit, failed},
    roles,
};
use postbound_config::Config;
use postbound_store::{Operation, RegisteredTarget, Store};
use serde_json::Value;

/// Who acts.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Acting {
    /// Your name for the audit trail, beside the database login
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) acting_as: Option<String>,
}

impl Acting {
    /// The action, for the audit trail.
    pub(crate) fn operation(&self, command: &'static str, filter: Value) -> Operation {
        Operation { command, acting_as: self.acting_as.clone(), filter }
    }

    /// The name other operators see: the one given, else the database login.
    pub(crate) async fn name(&self, store: &Store) -> Result<String, Exit> {
        match &self.acting_as {
            Some(name) => Ok(name.clone()),
            None => store.login().await.map_err(failed),
        }
    }
}

/// An argument that names something. Empty, which a script's unset variable is, it could mean all.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Configuration and database of an operator's command.
pub(crate) async fn open(common: &Common) -> Result<(Config, Store), Exit> {
    let config = roles::configuration(common)?;
    let store = roles::migrated_store(&config, "postbound operator").await?;
    Ok((config, store))
}

/// The targets in use.
pub(crate) async fn targets(store: &Store) -> Result<Vec<RegisteredTarget>, Exit> {
    let all = store.registered_targets().await.map_err(failed)?;
    Ok(all.into_iter().filter(|target| !target.retired).collect())
}

/// A target in use by its name.
pub(crate) async fn target(store: &Store, name: &str) -> Result<RegisteredTarget, Exit> {
    let known = targets(store).await?;
    let names: Vec<_> = known.iter().map(|target| target.registration.name.clone()).collect();
    known.into_iter().find(|target| target.registration.name == name).ok_or_else(|| {
        Exit::Usage(format!(
            "there is no target {name}; there are: {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        ))
    })
}

/// Why nobody's newest state is sent to a target by hand; None: it may be.
pub(crate) fn why_no_newest_states(target: &RegisteredTarget) -> Option<String> {
    (!target.registration.fold).then(|| {
        format!(
            "{} gets every event (coalesce = false): a newest state sent aside would count the events before it as settled",
            target.registration.name
        )
    })
}
