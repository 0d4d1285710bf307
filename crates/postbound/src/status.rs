use crate::{
    args::Common,
    exit::{Exit, failed},
    output::print,
    roles,
};
use comfy_table::{Table, presets::NOTHING};
use postbound_store::{DrainingTarget, Snapshot};
use std::collections::BTreeMap;

/// `postbound status`
pub(crate) async fn run(common: &Common, json: bool) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    let store = roles::migrated_store(&config, "postbound status").await?;
    let status = store.status().await.map_err(failed)?;
    if json {
        print(serde_json::to_string_pretty(&status).map_err(failed)?);
    } else {
        print(render(&status));
    }
    Ok(Exit::Done)
}

/// The status for people: one block per question.
fn render(status: &Snapshot) -> String {
    let relay = status.relay.holder.as_deref().unwrap_or("none: start one with postbound relay");
    let mut blocks = vec![format!("active relay  {relay}")];
    let mut streams = table(["stream", "lag rows", "lag seconds"]);
    for lag in &status.streams {
        streams.add_row([lag.stream.clone(), lag.rows.to_string(), format!("{:.1}", lag.seconds)]);
    }
    blocks.push(streams.to_string());
    let mut targets = table(["target", "in sync", "pending", "dead"]);
    for counts in &status.targets {
        targets.add_row([
            counts.target.clone(),
            counts.in_sync.to_string(),
            counts.pending.to_string(),
            counts.dead.to_string(),
        ]);
    }
    blocks.push(targets.to_string());
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

fn draining(target: &DrainingTarget) -> String {
    let DrainingTarget { target, generation, partitions, drained, relay_moved_on } = target;
    let relay = if *relay_moved_on { "" } else { "; the relay has not gone on yet" };
    format!(
        "{target} changes its partitions: {drained} of {partitions} of generation {generation} are empty{relay}"
    )
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header);
    table
}
