//! `postbound links`: which id a user has at each target, whose an id is, and whether the links are whole.

mod check;
mod find;
mod show;

use crate::{
    args::Common,
    exit::Exit,
    moment::{parse_span, show_if},
    operate::{self, parse_name},
    output::{lines, table},
};
use postbound_store::LinkRow;
use std::time::Duration;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum LinksCommand {
    /// The ids of a user in the systems at and behind each target
    Show {
        /// Tenant of the user
        #[arg(value_parser = parse_name)]
        tenant: String,
        /// The user's id
        #[arg(value_parser = parse_name)]
        user: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Whose an id of a target is (exit 4: more than one user's)
    Find {
        /// The target
        #[arg(value_parser = parse_name)]
        target: String,
        /// The id there
        #[arg(value_parser = parse_name)]
        external_id: String,
        /// Only in this of the systems behind the target, such as crmContactId
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        system: Option<String>,
        /// Only users of this tenant
        #[arg(long, value_name = "ID", value_parser = parse_name)]
        tenant: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say which links are missing, doubled, left over, or of deleted users that a target still holds (exit 4: some are)
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// At this target only [default: all]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    target: Option<String>,
    /// Users of this tenant only. Where ids are unique per tenant and not per target, check tenant by tenant
    #[arg(long, value_name = "ID", value_parser = parse_name)]
    tenant: Option<String>,
    /// A deleted user may be held for so long
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "15m")]
    older_than: Duration,
    /// List so many of each kind at most; all are counted
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// `postbound links show|find|check`
pub(crate) async fn run(common: &Common, command: &LinksCommand) -> Result<Exit, Exit> {
    let (config, store) = operate::open(common).await?;
    match command {
        LinksCommand::Show { tenant, user, json } => show::run(&store, (tenant, user), *json).await,
        LinksCommand::Find { target, external_id, system, tenant, json } => {
            let within = (system.as_deref(), tenant.as_deref());
            find::run(&store, (target, external_id), within, *json).await
        }
        LinksCommand::Check(args) => check::run(&config, &store, args).await,
    }
}

fn render(links: &[LinkRow]) -> String {
    let mut rows = table([
        "target",
        "system",
        "external id",
        "tenant",
        "user",
        "since",
        "last synced",
        "holds",
        "present",
    ]);
    for link in links {
        rows.add_row([
            link.target.clone(),
            system(&link.system).to_owned(),
            link.external_id.clone(),
            link.tenant_id.clone(),
            link.user_id.clone(),
            show_if(Some(link.linked_at)),
            show_if(link.last_synced_at),
            link.held_version.to_string(),
            if link.present { "yes" } else { "no" }.to_owned(),
        ]);
    }
    lines(&rows)
}

/// The system as people read it: the target's own has no name.
fn system(name: &str) -> &str {
    if name.is_empty() { "-" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn people_read_each_id_with_its_system_and_when_it_was_last_synced() {
        let own = LinkRow {
            target: "crm".into(),
            system: String::new(),
            tenant_id: "acme".into(),
            user_id: "u1".into(),
            external_id: "crm-1".into(),
            linked_at: datetime!(2026-11-21 20:00 UTC),
            last_synced_at: Some(datetime!(2026-11-21 21:59 UTC)),
            held_version: 7,
            present: true,
            deleted: false,
        };
        let behind = LinkRow {
            target: "workflow".into(),
            system: "frontendUserId".into(),
            external_id: "f-3".into(),
            last_synced_at: None,
            held_version: 0,
            present: false,
            ..own.clone()
        };
        insta::assert_snapshot!(render(&[own, behind]), @r"
        target    system          external id  tenant  user  since                 last synced           holds  present
        crm       -               crm-1        acme    u1    2026-11-21 20:00:00Z  2026-11-21 21:59:00Z  7      yes
        workflow  frontendUserId  f-3          acme    u1    2026-11-21 20:00:00Z  -                     0      no
        ");
    }
}
