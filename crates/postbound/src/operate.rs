//! What operators' commands share: who acts, on which database, and what is written of it.

use crate::{
    args::Common,
    exit::{Exit, failed},
    roles,
};
use postbound_config::Config;
use postbound_store::{CreatedJob, JobOptions, Operation, RegisteredTarget, Store};
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

/// On what terms a command changes something: whether in earnest, without a question, by whom, and how it answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Terms {
    /// Only say what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) acting: Acting,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How fast a job goes, and when it stops by itself.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Pace {
    /// Users per second at most [default: as fast as live traffic leaves room]
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// Stop when so many fail: dead-lettered, or parked for a failure of their own (not because the target is closed)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) stop_after_failures: Option<i32>,
}

impl Pace {
    /// A job of this pace, and nothing else that is special.
    pub(crate) fn options(&self) -> JobOptions {
        JobOptions {
            rate_per_second: self.rate,
            stop_after_failures: self.stop_after_failures,
            ..JobOptions::default()
        }
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| format!("{text:?} is not a number above 0"))
}

/// How to follow a job that was made.
pub(crate) fn how_to_watch(job: &CreatedJob) -> String {
    format!("watch it with: postbound jobs status {} --watch", job.job_id)
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
    (!target.takes_newest_states()).then(|| {
        format!(
            "{} gets every event (coalesce = false): a newest state sent aside would count the events before it as settled",
            target.registration.name
        )
    })
}
