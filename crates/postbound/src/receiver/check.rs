//! `postbound receiver check`: sends an endpoint what Postbound would send it, by the very adapters the workers use, and
//! says what Postbound makes of each answer, whether that is right, and how to mend it.
//!
//! `endpoint` says whom to ask and how, `visit` sends one request after the other, `judge` holds each answer against what a
//! right receiver answers, `explain` says what Postbound would do about it, `mend` what is to be changed, and `report`
//! shows it all. It needs neither Postgres nor RabbitMQ.

mod endpoint;
mod explain;
mod judge;
mod mend;
mod report;
#[cfg(test)]
mod tests;
mod visit;

use crate::{
    args::Common,
    exit::Exit,
    operate::parse_name,
    output::{print, print_json},
};
use clap::ValueEnum;
use endpoint::Endpoint;
use report::Report;
use serde::Serialize;
use std::path::PathBuf;
use visit::Visit;

#[derive(Debug, Default, clap::Args)]
#[command(group(clap::ArgGroup::new("whom").required(true).args(["contract", "target"])))]
pub(crate) struct CheckArgs {
    /// What the endpoint takes
    #[arg(long, value_name = "CONTRACT", requires = "url")]
    contract: Option<Contract>,
    /// Where it is; for crm-batch the base will do
    #[arg(long, value_name = "URL", conflicts_with = "target")]
    url: Option<String>,
    /// Instead: a target of the configuration, with all its settings and secrets
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    target: Option<String>,
    /// Holds the API key: X-Internal-API-Key, of a webhook X-API-Key
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    api_key_file: Option<PathBuf>,
    /// The header of a webhook's API key
    #[arg(long, value_name = "HEADER", conflicts_with = "target")]
    api_key_header: Option<String>,
    /// Holds the token of Authorization: Bearer
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    bearer_token_file: Option<PathBuf>,
    /// Holds what signs requests, as Standard Webhooks has it (whsec_...), one a line
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    secret_file: Option<PathBuf>,
    /// Authorities in PEM to trust instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    ca_file: Option<PathBuf>,
    /// JSON pointer into a webhook's answer, to its own id of the user
    #[arg(long, value_name = "POINTER", conflicts_with = "target")]
    external_id: Option<String>,
    /// Leave `version` and `deleted` out of crm-batch users, as `send_versions = false` does
    #[arg(long, conflicts_with = "target")]
    no_versions: bool,
    /// Start the workflow for real: the check registers a user, who stays there and may be sent a welcome
    #[arg(long)]
    start_workflows: bool,
    /// Let a webhook be at an address that is not public
    #[arg(long, conflicts_with = "target")]
    allow_private_addresses: bool,
    /// Tenant of the users who are sent; one the endpoint knows, if it wants to know it
    #[arg(long, value_name = "ID", default_value = "postbound-check", value_parser = parse_name)]
    tenant: String,
    /// A check whose outcome is known and shall not count; may be repeated
    #[arg(long, value_name = "CHECK")]
    accept: Vec<Check>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The contracts that can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Contract {
    /// One user a request
    BackendSync,
    /// Up to 100 users of a tenant a request, a result for each
    CrmBatch,
    /// One user a request, as a CloudEvent
    Webhook,
    /// One registration a request, which starts a workflow
    WorkflowTrigger,
}

/// What is tried, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Check {
    /// A user who is new
    Create,
    /// The same request again, under the same key, as after a lost answer
    Duplicate,
    /// The same state under a new key, as after a request of unknown outcome
    Resend,
    /// A newer state, with another e-mail address
    Update,
    /// A state older than the one held
    StaleVersion,
    /// A malformed user among good ones (crm-batch)
    PartialFailure,
    /// The user is gone
    Delete,
    /// The same delete again, under the same key
    RepeatedDelete,
    /// A state older than the delete
    LateUpdate,
    /// The user is back, with a newer version
    Return,
    /// A delete of a user the endpoint never heard of, with nothing but the id
    UnknownDelete,
    /// A wrong API key, token or password
    BadKey,
    /// A signature made with another secret
    BadSignature,
    /// A signature of an hour ago
    OldSignature,
    /// The users of this check are deleted
    CleanUp,
}

impl Check {
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Duplicate => "duplicate",
            Self::Resend => "resend",
            Self::Update => "update",
            Self::StaleVersion => "stale-version",
            Self::PartialFailure => "partial-failure",
            Self::Delete => "delete",
            Self::RepeatedDelete => "repeated-delete",
            Self::LateUpdate => "late-update",
            Self::Return => "return",
            Self::UnknownDelete => "unknown-delete",
            Self::BadKey => "bad-key",
            Self::BadSignature => "bad-signature",
            Self::OldSignature => "old-signature",
            Self::CleanUp => "clean-up",
        }
    }
}

/// `postbound receiver check`
pub(crate) async fn run(common: &Common, args: &CheckArgs) -> Result<Exit, Exit> {
    let endpoint = Endpoint::of(common, args)?;
    let seen = Visit::new(&endpoint)?.run().await?;
    let report = Report::new(&endpoint, seen, &args.accept);
    match args.json {
        true => print_json(&report)?,
        false => print(report.render().trim_end()),
    }
    Ok(if report.is_right() { Exit::Done } else { Exit::Findings })
}
