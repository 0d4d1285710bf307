//! `postbound targets`: which targets there are, whether they are open, and pausing them by hand.

use crate::{
    args::Common,
    closed::{scope, why_closed},
    exit::{Exit, failed},
    operate::{self, Acting, parse_name},
    output::{lines, print, print_json, table},
};
use postbound_store::{ClosedScope, Resumed, Store, TargetBacklog};
use serde::Serialize;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TargetsCommand {
    /// List targets: adapter, partitions, whether requests go out, parked users, open letters
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Send nothing to a target, or for one tenant of it, until it is resumed; what comes meanwhile waits
    Pause {
        /// The target
        target: String,
        /// For this tenant only
        #[arg(long, value_name = "ID", value_parser = parse_name)]
        tenant: Option<String>,
        /// Why, for those who look at the target
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        acting: Acting,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End a pause
    Resume {
        /// The target
        target: String,
        /// Of this tenant only
        #[arg(long, value_name = "ID", value_parser = parse_name)]
        tenant: Option<String>,
        #[command(flatten)]
        acting: Acting,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Serialize)]
struct TargetRow {
    target: String,
    adapter: String,
    partitions: u16,
    parked_users: i64,
    open_letters: i64,
    closed: Vec<ClosedScope>,
}

/// `postbound targets list|pause|resume`
pub(crate) async fn run(common: &Common, command: &TargetsCommand) -> Result<Exit, Exit> {
    let (_, store) = operate::open(common).await?;
    match command {
        TargetsCommand::List { json } => {
            let targets = targets(&store).await?;
            match json {
                true => print_json(&targets)?,
                false => print(render(&targets)),
            }
        }
        TargetsCommand::Pause { target, tenant, reason, acting, json } => {
            operate::target(&store, target).await?;
            let by = acting.name(&store).await?;
            let operation = acting
                .operation("targets pause", json!({ "target": target, "tenant": tenant, "reason": reason }));
            store.pause_target(target, tenant.as_deref(), &by, reason, &operation).await.map_err(failed)?;
            match json {
                true => print_json(&json!({ "target": target, "tenant": tenant, "paused_by": by }))?,
                false => print(format!(
                    "{}: paused; resume it with: postbound targets resume {target}{}",
                    scope(target, tenant.as_deref()),
                    tenant_flag(tenant)
                )),
            }
        }
        TargetsCommand::Resume { target, tenant, acting, json } => {
            operate::target(&store, target).await?;
            let operation = acting.operation("targets resume", json!({ "target": target, "tenant": tenant }));
            let resumed = store.resume_target(target, tenant.as_deref(), &operation).await.map_err(failed)?;
            let (word, said) = match resumed {
                Resumed::Closed => ("open", "requests go out again"),
                Resumed::StillOpen => {
                    ("breaker_open", "resumed, but it failed too: workers probe it until it answers")
                }
                Resumed::NotPaused => ("not_paused", "was not paused"),
            };
            match json {
                true => print_json(&json!({ "target": target, "tenant": tenant, "state": word }))?,
                false => print(format!("{}: {said}", scope(target, tenant.as_deref()))),
            }
        }
    }
    Ok(Exit::Done)
}

async fn targets(store: &Store) -> Result<Vec<TargetRow>, Exit> {
    let mut breakers = store.breakers().await.map_err(failed)?;
    let backlogs = store.target_backlogs().await.map_err(failed)?;
    let rows = operate::targets(store).await?.into_iter().map(|target| {
        let name = target.registration.name;
        let backlog = backlogs.iter().find(|backlog| backlog.target == name);
        let closed =
            breakers.extract_if(.., |breaker| breaker.target == name).map(ClosedScope::from).collect();
        TargetRow {
            adapter: target.registration.adapter,
            partitions: target.registration.partitions,
            parked_users: backlog.map_or(0, |backlog: &TargetBacklog| backlog.parked_users),
            open_letters: backlog.map_or(0, |backlog| backlog.open_letters),
            closed,
            target: name,
        }
    });
    Ok(rows.collect())
}

fn render(targets: &[TargetRow]) -> String {
    if targets.is_empty() {
        return "no targets; register them with: postbound topology apply".to_owned();
    }
    let mut rows = table(["target", "adapter", "partitions", "parked users", "open letters", "requests"]);
    for target in targets {
        let state = match target.closed.iter().any(|closed| closed.tenant.is_none()) {
            true => "held back".to_owned(),
            false if target.closed.is_empty() => "go out".to_owned(),
            false => "held back in part".to_owned(),
        };
        rows.add_row([
            target.target.clone(),
            target.adapter.clone(),
            target.partitions.to_string(),
            target.parked_users.to_string(),
            target.open_letters.to_string(),
            state,
        ]);
    }
    let mut text = lines(&rows);
    let closed = targets.iter().flat_map(|target| target.closed.iter().map(move |closed| (target, closed)));
    for (index, (target, closed)) in closed.enumerate() {
        let lead = if index == 0 { "\n\n" } else { "\n" };
        text.push_str(&format!("{lead}{}", why_closed(&target.target, closed)));
    }
    text
}

fn tenant_flag(tenant: &Option<String>) -> String {
    tenant.as_ref().map_or_else(String::new, |tenant| format!(" --tenant {tenant}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn people_read_which_targets_are_held_back_and_why() {
        let target = |target: &str, closed| TargetRow {
            target: target.into(),
            adapter: "crm-batch".into(),
            partitions: 16,
            parked_users: 12,
            open_letters: 3,
            closed,
        };
        let closed = |tenant: Option<&str>, by: Option<&str>| ClosedScope {
            tenant: tenant.map(str::to_owned),
            since: datetime!(2026-11-21 22:00 UTC),
            reason: "http_503".into(),
            paused_by: by.map(str::to_owned),
            pause_reason: by.map(|_| "migration".into()),
            next_probe_at: by.is_none().then_some(datetime!(2026-11-21 22:05 UTC)),
        };
        let targets = [
            target("backend", vec![]),
            target("crm", vec![closed(None, Some("ada"))]),
            target("hub", vec![closed(Some("acme"), None)]),
        ];
        insta::assert_snapshot!(render(&targets), @r"
        target   adapter    partitions  parked users  open letters  requests
        backend  crm-batch  16          12            3             go out
        crm      crm-batch  16          12            3             held back
        hub      crm-batch  16          12            3             held back in part

        crm: paused by ada: migration; closed since 2026-11-21 22:00:00Z, until it is resumed
        hub, tenant acme: breaker open (http_503) since 2026-11-21 22:00:00Z, next probe 2026-11-21 22:05:00Z
        ");
    }
}
