use super::names;
use crate::{
    exit::{Exit, failed},
    output::print,
};
use postbound_broker::{Link, TargetNames};
use postbound_store::{Operation, RegisteredTarget, Store};
use serde_json::json;

/// Retires a target that left the configuration and deletes its empty queues.
pub(super) async fn retire(store: &Store, link: &Link, gone: &RegisteredTarget) -> Result<(), Exit> {
    let name = &gone.registration.name;
    let jobs = store.retire_target(name, &operation(name)).await.map_err(failed)?;
    let mut kept = 0;
    for generation in gone.draining.into_iter().chain([gone.current()]) {
        let names = names(name, generation);
        for partition in 0..generation.partitions {
            kept += delete_if_empty(link, &names, partition).await?.len();
        }
    }
    if jobs > 0 {
        print(format!("{name}: {jobs} unfinished jobs cancelled"));
    }
    print(format!(
        "{name}: retired; {kept} queues that are not empty, or in use, and the dead-letter queue are kept"
    ));
    Ok(())
}

/// Deletes the empty queues of a target's past generations, and says what is left in others.
pub(super) async fn past_generations(store: &Store, link: &Link, target: &str) -> Result<(), Exit> {
    let (mut deleted, mut kept) = (0, Vec::new());
    for past in store.past_partitions(target).await.map_err(failed)? {
        let names = TargetNames::new(target, past.generation);
        let left = delete_if_empty(link, &names, past.partition).await?;
        deleted += 2 - left.len();
        if left.is_empty() {
            store.forget_past_partition(target, &past).await.map_err(failed)?;
        }
        kept.extend(left);
    }
    if deleted > 0 {
        store.audit(&operation(target), &json!({ "deleted_queues": deleted })).await.map_err(failed)?;
        print(format!("{target}: {deleted} queues of past generations deleted"));
    }
    if !kept.is_empty() {
        print(format!(
            "{target}: queues of past generations that are not empty, or in use, are kept: {}; what is in them was \
             published again to the current generation: delete them with RabbitMQ's own tools",
            kept.join(", ")
        ));
    }
    Ok(())
}

fn operation(target: &str) -> Operation {
    Operation { command: "topology apply --prune", acting_as: None, filter: json!({ "target": target }) }
}

/// Deletes a partition's queues if they are empty and nobody consumes them; gives those that stay.
async fn delete_if_empty(link: &Link, names: &TargetNames, partition: u16) -> Result<Vec<String>, Exit> {
    let mut kept = Vec::new();
    for queue in [names.queue(partition), names.backfill_queue(partition)] {
        if !link.delete_queue_if_empty(&queue).await.map_err(failed)? {
            kept.push(queue);
        }
    }
    Ok(kept)
}
