use super::{CheckArgs, system};
use crate::{
    exit::{Exit, failed},
    operate,
    output::{lines, or_dash, print, print_json, table},
};
use postbound_config::{Adapter, Config};
use postbound_store::{LinkCheckFilter, LinkFault, LinkFinding, Store};
use serde::Serialize;
use serde_json::json;

/// How many findings of one kind there are, and how to mend them.
#[derive(Debug, Serialize)]
struct Summary {
    fault: LinkFault,
    found: i64,
    what: &'static str,
    mend: &'static str,
}

/// `postbound links check`
pub(super) async fn run(config: &Config, store: &Store, args: &CheckArgs) -> Result<Exit, Exit> {
    if let Some(name) = &args.target {
        operate::target(store, name).await?;
    }
    let filter = LinkCheckFilter {
        target: args.target.clone(),
        tenant: args.tenant.clone(),
        expected: expected(config),
        older_than: args.older_than,
        limit: i64::from(args.limit),
    };
    let findings = store.check_links(&filter).await.map_err(failed)?;
    match args.json {
        true => print_json(&json!({ "faults": summaries(&findings), "findings": findings }))?,
        false => print(render(&findings)),
    }
    Ok(if findings.is_empty() { Exit::Done } else { Exit::Findings })
}

/// Systems whose ids an adapter's contract tells, whether or not it ever told one.
fn expected(config: &Config) -> Vec<(String, String)> {
    let of_target = |(name, target): (&String, &postbound_config::Target)| {
        let own = || vec![""];
        let systems = match &target.adapter {
            Adapter::CrmBatch(_) => own(),
            Adapter::Webhook(webhook) if webhook.external_id.is_some() => own(),
            Adapter::WorkflowTrigger(workflow) => workflow.links.keys().map(String::as_str).collect(),
            Adapter::BackendSync(_) | Adapter::Webhook(_) => Vec::new(),
        };
        systems.into_iter().map(|system| (name.clone(), system.to_owned())).collect::<Vec<_>>()
    };
    config.targets.iter().flat_map(of_target).collect()
}

fn summaries(findings: &[LinkFinding]) -> Vec<Summary> {
    let mut summaries: Vec<Summary> = Vec::new();
    for LinkFinding { fault, found, .. } in findings {
        if summaries.last().is_none_or(|last| last.fault != *fault) {
            let (what, mend) = explain(*fault);
            summaries.push(Summary { fault: *fault, found: *found, what, mend });
        }
    }
    summaries
}

/// What it means, and how to mend it.
fn explain(fault: LinkFault) -> (&'static str, &'static str) {
    match fault {
        LinkFault::Missing => (
            "missing: the target holds the user and has told no id",
            "postbound resync --target NAME --tenant ID --user ID",
        ),
        LinkFault::Doubled => (
            "doubled: more than one user has the id",
            "find out at the target whose it is; a resync of the other has it told anew",
        ),
        LinkFault::Stray => (
            "stray: the user was erased, or lost with a database that went back",
            "postbound users erase TENANT USER once more; whoever was lost is to be deleted at the target",
        ),
        LinkFault::Outlived => (
            "outlived: the user is deleted, and the target still holds it",
            "postbound users show TENANT USER says what keeps the delete",
        ),
    }
}

fn render(findings: &[LinkFinding]) -> String {
    if findings.is_empty() {
        return "all links are whole".to_owned();
    }
    let mut rows = table(["fault", "target", "system", "external id", "tenant", "user"]);
    for finding in findings {
        rows.add_row([
            word(finding.fault).to_owned(),
            finding.target.clone(),
            system(&finding.system).to_owned(),
            or_dash(finding.external_id.as_ref()),
            finding.tenant_id.clone(),
            finding.user_id.clone(),
        ]);
    }
    let mut text = lines(&rows);
    text.push('\n');
    for Summary { found, what, mend, .. } in summaries(findings) {
        text.push_str(&format!("\n{found} {what}; mend: {mend}"));
    }
    text
}

fn word(fault: LinkFault) -> &'static str {
    match fault {
        LinkFault::Missing => "missing",
        LinkFault::Doubled => "doubled",
        LinkFault::Stray => "stray",
        LinkFault::Outlived => "outlived",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_is_wrong_how_often_and_how_to_mend_it() {
        let missing = LinkFinding {
            fault: LinkFault::Missing,
            target: "crm".into(),
            system: String::new(),
            tenant_id: "acme".into(),
            user_id: "u1".into(),
            external_id: None,
            found: 812,
        };
        let doubled = |user: &str| LinkFinding {
            fault: LinkFault::Doubled,
            user_id: user.into(),
            external_id: Some("crm-7".into()),
            found: 2,
            ..missing.clone()
        };
        insta::assert_snapshot!(render(&[missing.clone(), doubled("u2"), doubled("u3")]), @r"
        fault    target  system  external id  tenant  user
        missing  crm     -       -            acme    u1
        doubled  crm     -       crm-7        acme    u2
        doubled  crm     -       crm-7        acme    u3

        812 missing: the target holds the user and has told no id; mend: postbound resync --target NAME --tenant ID --user ID
        2 doubled: more than one user has the id; mend: find out at the target whose it is; a resync of the other has it told anew
        ");
        assert_eq!(render(&[]), "all links are whole");
    }
}
