//! `postbound doctor`: looks at everything, changes nothing, and says how to mend what is wrong.
//!
//! The configuration comes first, then what needs nothing else (Postgres, RabbitMQ and the targets' endpoints, side by
//! side), then what needs those. Each look at something outside has [`LOOK_TIMEOUT`]; one that fails is a finding like
//! any other, and the rest goes on. Looking and judging are apart: what was seen becomes findings in plain functions.

mod backlog;
mod configuration;
mod endpoints;
mod finding;
mod flow;
mod log_partitions;
mod notices;
mod postgres;
mod postgres_rights;
mod postgres_server;
mod rabbitmq;
mod targets;

use crate::{
    args::Common,
    exit::{Exit, failed},
    output::print,
    roles,
};
use finding::{Finding, Level, render};
use postbound_broker::Link;
use postbound_config::Config;
use postbound_store::Store;
use std::{fmt::Display, time::Duration};

/// How long one look at Postgres, RabbitMQ or a target may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// `postbound doctor`
pub(crate) async fn run(common: &Common, json: bool) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    let findings = Box::pin(examine(&config)).await;
    if json {
        print(serde_json::to_string_pretty(&findings).map_err(failed)?);
    } else {
        print(render(&findings).trim_end());
    }
    let sick = findings.iter().any(|finding| finding.level == Level::Problem);
    Ok(if sick { Exit::Findings } else { Exit::Done })
}

async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = configuration::check(config);
    let ((of_postgres, store), (of_rabbitmq, link), of_endpoints) =
        tokio::join!(postgres::check(config), rabbitmq::connect(config), endpoints::check(config));
    findings.extend(of_postgres);
    findings.extend(of_rabbitmq);
    match store {
        Some(store) => findings.extend(examine_schema(config, &store, link.as_ref()).await),
        None => findings.push(Finding::not_checked(
            "rights, log-partitions, targets, queues, relay, lag, workers, breakers, parked, dead-letters, notices",
            "a Postgres that answers and is migrated",
        )),
    }
    findings.extend(of_endpoints);
    if let Some(link) = link {
        // A broker that no longer answers must not keep us from saying so.
        let _ = tokio::time::timeout(LOOK_TIMEOUT, link.close()).await;
    }
    findings
}

/// What needs our schema.
async fn examine_schema(config: &Config, store: &Store, link: Option<&Link>) -> Vec<Finding> {
    let mut findings = postgres_rights::check(store).await;
    findings.extend(log_partitions::check(config, store).await);
    let registry = targets::look(config, store).await;
    findings.extend(registry.findings);
    let workers = flow::Workers::look(store).await;
    match link {
        Some(link) => {
            findings.extend(rabbitmq::check_queues(config, store, link, &registry.in_use, &workers).await);
        }
        None => findings.push(Finding::not_checked("queues", "a RabbitMQ that answers")),
    }
    findings.extend(flow::check(store, &registry.in_use, &workers).await);
    findings.extend(backlog::check(store, &registry.in_use).await);
    findings.extend(notices::check(store, &registry.in_use).await);
    findings
}

/// Waits for a look at something outside, but not for ever; the reason of a failure is in one line.
async fn within<T, E: Display>(look: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(LOOK_TIMEOUT, look).await {
        Ok(seen) => seen.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {LOOK_TIMEOUT:?}")),
    }
}

/// The reason in the error of a command's part, when a check uses that part.
fn reason(exit: Exit) -> String {
    match exit {
        Exit::Failed(why) | Exit::Usage(why) | Exit::Configuration(why) | Exit::Undrained(why) => why,
        Exit::Done | Exit::Findings => String::new(),
    }
}

/// `1 queue`, `2 queues`.
fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The first few names of a list that may be long.
fn some_of<N: AsRef<str>>(names: &[N]) -> String {
    const SHOWN: usize = 3;
    let mut shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    if names.len() > SHOWN {
        shown.push("...");
    }
    shown.join(", ")
}
