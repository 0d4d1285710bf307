use super::names;
use crate::{
    exit::{Exit, failed},
    output::print,
};
use postbound_broker::{Link, QueueState};
use postbound_store::{Generation, RegisteredTarget, Store};
use serde::Serialize;

#[derive(Serialize)]
struct TargetTopology {
    target: String,
    exchange: String,
    /// The generation before, while workers drain it.
    #[serde(skip_serializing_if = "Option::is_none")]
    draining_generation: Option<i32>,
    queues: Vec<QueueRow>,
}

#[derive(Serialize)]
struct QueueRow {
    queue: String,
    exists: bool,
    messages: u32,
    consumers: u32,
}

impl From<QueueState> for QueueRow {
    fn from(state: QueueState) -> Self {
        Self { queue: state.name, exists: state.exists, messages: state.messages, consumers: state.consumers }
    }
}

/// Shows every queue in use; missing ones are findings.
pub(super) async fn show(store: &Store, link: &Link, json: bool) -> Result<Exit, Exit> {
    let mut shown = Vec::new();
    let registered = store.registered_targets().await.map_err(failed)?;
    for target in registered.iter().filter(|target| !target.retired) {
        shown.push(look(link, target).await?);
    }
    let missing = shown.iter().flat_map(|target| &target.queues).any(|queue: &QueueRow| !queue.exists);
    if json {
        print(serde_json::to_string_pretty(&shown).map_err(failed)?);
    } else {
        print(render(&shown));
    }
    Ok(if missing { Exit::Findings } else { Exit::Done })
}

async fn look(link: &Link, target: &RegisteredTarget) -> Result<TargetTopology, Exit> {
    let name = &target.registration.name;
    let mut queues = Vec::new();
    for generation in target.draining.into_iter().chain([target.current()]) {
        let names = names(name, generation);
        for partition in 0..generation.partitions {
            for queue in [names.queue(partition), names.backfill_queue(partition)] {
                queues.push(link.queue_state(&queue).await.map_err(failed)?.into());
            }
        }
    }
    let names = names(name, target.current());
    queues.push(link.queue_state(&names.dead_queue()).await.map_err(failed)?.into());
    let draining_generation = target.draining.map(|Generation { number, .. }| number);
    Ok(TargetTopology { target: name.clone(), exchange: names.exchange(), draining_generation, queues })
}

fn render(shown: &[TargetTopology]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(["queue", "messages", "consumers", ""]);
    for queue in shown.iter().flat_map(|target| &target.queues) {
        let note = if queue.exists { "" } else { "MISSING: postbound topology apply" };
        table.add_row([&queue.queue, &queue.messages.to_string(), &queue.consumers.to_string(), note]);
    }
    let draining = shown.iter().filter_map(|target| Some((&target.target, target.draining_generation?)));
    let lines = draining.map(|(target, generation)| {
        format!("\n{target} changes its partitions: workers empty generation {generation} first")
    });
    lines.fold(table.to_string(), |shown, line| shown + &line)
}
