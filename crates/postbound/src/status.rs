use crate::{
    args::Common,
    closed::why_closed,
    exit::{Exit, failed},
    moment,
    output::{print, print_json, table},
    roles,
};
use postbound_store::{DrainingTarget, Snapshot, TargetStatus};
use std::collections::BTreeMap;

/// Closed tenants told one by one, per target.
const CLOSED_SHOWN: usize = 5;

/// `postbound status`
pub(crate) async fn run(common: &Common, json: bool) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    let store = roles::migrated_store(&config, "postbound status").await?;
    let status = store.status().await.map_err(failed)?;
    if json {
        print_json(&status)?;
    } else {
        print(render(&status));
    }
    Ok(Exit::Done)
}

/// The status for people: one block per question.
fn render(status: &Snapshot) -> String {
    let relay = status.relay.holder.as_deref().unwrap_or("none: start one with postbound relay");
    let mut blocks = vec![format!("active relay  {relay}")];
    if let Some(halt) = &status.halted {
        blocks.push(format!("publishing is halted since {}\n{}", moment::show(halt.since), halt.reason));
    }
    let mut streams = table(["stream", "lag rows", "lag seconds"]);
    for lag in &status.streams {
        streams.add_row([lag.stream.clone(), lag.rows.to_string(), format!("{:.1}", lag.seconds)]);
    }
    blocks.push(streams.to_string());
    blocks.push(targets(&status.targets));
    blocks.extend(status.draining.iter().map(draining));
    let mut workers = table(["worker", "targets", "partitions"]);
    for worker in &status.workers {
        let partitions = match worker.partitions {
            0 => "none left: spare".to_owned(),
            owned => owned.to_string(),
        };
        workers.add_row([worker.label.clone(), worker.targets.join(", "), partitions]);
    }
    blocks.push(workers.to_string());
    let mut owners: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for owner in &status.partitions {
        let label = owner.owner.as_deref().unwrap_or("NOBODY");
        owners.entry((&owner.target, label)).or_default().push(owner.partition.to_string());
    }
    let mut partitions = table(["target", "owner", "partitions"]);
    for ((target, owner), numbers) in owners {
        partitions.add_row([target.to_owned(), owner.to_owned(), numbers.join(" ")]);
    }
    blocks.push(partitions.to_string());
    blocks.push(format!("log partitions ready for {} more days", status.log_partition_days_ahead));
    blocks.join("\n\n")
}

fn targets(targets: &[TargetStatus]) -> String {
    let mut rows =
        table(["target", "in sync", "pending", "dead", "parked users", "open letters", "requests"]);
    for target in targets {
        let TargetStatus { counts, parked_users, open_letters, closed } = target;
        let requests = match (closed.is_empty(), closed.iter().any(|closed| closed.tenant.is_none())) {
            (true, _) => "go out",
            (false, true) => "held back",
            (false, false) => "held back in part",
        };
        let numbers = [counts.in_sync, counts.pending, counts.dead, *parked_users, *open_letters];
        let cells = [counts.target.clone()].into_iter().chain(numbers.map(|number| number.to_string()));
        rows.add_row(cells.chain([requests.to_owned()]));
    }
    let mut text = rows.to_string();
    for target in targets {
        for closed in target.closed.iter().take(CLOSED_SHOWN) {
            text.push_str(&format!("\n{}", why_closed(&target.counts.target, closed)));
        }
        if let Some(more) = target.closed.len().checked_sub(CLOSED_SHOWN).filter(|more| *more > 0) {
            text.push_str(&format!(
                "\n{}: {more} more tenants; postbound targets list",
                target.counts.target
            ));
        }
    }
    text
}

fn draining(target: &DrainingTarget) -> String {
    let DrainingTarget { target, generation, partitions, drained, relay_moved_on } = target;
    let relay = if *relay_moved_on { "" } else { "; the relay has not gone on yet" };
    format!(
        "{target} changes its partitions: {drained} of {partitions} of generation {generation} are empty{relay}"
    )
}
