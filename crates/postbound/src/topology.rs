use crate::{
    args::{Common, TopologyCommand},
    exit::{Exit, failed},
    output::print,
    roles,
};
use postbound_broker::{Link, QueueBounds, QueueState, TargetNames};
use postbound_config::Config;
use postbound_store::{RegisteredTarget, Registration, Store};
use serde::Serialize;

/// `postbound topology apply|show`
pub(crate) async fn run(common: &Common, command: &TopologyCommand) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    let store = roles::migrated_store(&config, "postbound topology").await?;
    let broker = roles::broker(&config)?;
    let link = broker
        .connect("postbound topology")
        .await
        .map_err(|error| Exit::failed(format!("RabbitMQ at {} cannot be used: {error}", broker.address())))?;
    let exit = match command {
        TopologyCommand::Apply { prune } => apply(&config, &store, &link, *prune).await,
        TopologyCommand::Show { json } => show(&store, &link, *json).await,
    };
    link.close().await;
    exit
}

async fn apply(config: &Config, store: &Store, link: &Link, prune: bool) -> Result<Exit, Exit> {
    for warning in config.warnings() {
        print(format!("warning: {warning}"));
    }
    let registered = store.registered_targets().await.map_err(failed)?;
    for target in config.enabled_targets() {
        let registration = roles::registration(config, target);
        let known = registered.iter().find(|known| known.registration.name == target.name);
        apply_target(config, store, link, &registration, known).await?;
    }
    for gone in registered.iter().filter(|known| !known.retired && !is_wanted(config, known)) {
        let name = &gone.registration.name;
        if prune {
            retire(store, link, gone).await?;
        } else {
            print(format!(
                "{name}: registered, but not in the configuration; retire it with: postbound topology apply --prune"
            ));
        }
    }
    Ok(Exit::Done)
}

fn is_wanted(config: &Config, known: &RegisteredTarget) -> bool {
    config.enabled_targets().any(|target| target.name == known.registration.name)
}

async fn apply_target(
    config: &Config,
    store: &Store,
    link: &Link,
    registration: &Registration,
    known: Option<&RegisteredTarget>,
) -> Result<(), Exit> {
    let name = &registration.name;
    if let Some(known) = known
        && known.registration.partitions != registration.partitions
    {
        return Err(Exit::Configuration(format!(
            "topology.partitions is {}, but {name} was registered with {}: users would change their partition under way; \
             put it back to {}",
            registration.partitions, known.registration.partitions, known.registration.partitions
        )));
    }
    let names = TargetNames::new(name.clone(), known.map_or(1, |known| known.generation));
    let bounds = QueueBounds {
        messages_max: u32::try_from(config.topology.queue_messages_max).unwrap_or(u32::MAX),
        bytes_max: config.topology.queue_bytes_max,
        delivery_limit: config.topology.delivery_limit,
    };
    // Before anything is declared: a run that ends halfway must not forget what had vanished.
    if known.is_some_and(|known| !known.retired) {
        rewind_if_vanished(store, link, &names, registration.partitions).await?;
    }
    // Queues first: a registered target is published to at once.
    let declared = link.declare_target(&names, registration.partitions, bounds).await.map_err(failed)?;
    store.register_target(registration).await.map_err(failed)?;
    print(format!("{name}: {} queues created, {} were there", declared.created.len(), declared.existing));
    Ok(())
}

/// What was in a queue that vanished is in the log. While the queue is missing, the relay's cursor does not pass what
/// should go there.
async fn rewind_if_vanished(
    store: &Store,
    link: &Link,
    names: &TargetNames,
    partitions: u16,
) -> Result<(), Exit> {
    let mut vanished = 0;
    for partition in 0..partitions {
        let state = link.queue_state(&names.queue(partition)).await.map_err(failed)?;
        vanished += u16::from(!state.exists);
    }
    if vanished > 0 {
        let target = names.target();
        store.rewind_cursor(target).await.map_err(failed)?;
        print(format!(
            "{target}: {vanished} queues had vanished with what was in them; the log is published again from its oldest \
             row (what the target holds already is not sent again)"
        ));
    }
    Ok(())
}

async fn retire(store: &Store, link: &Link, gone: &RegisteredTarget) -> Result<(), Exit> {
    let name = &gone.registration.name;
    store.retire_target(name).await.map_err(failed)?;
    let names = TargetNames::new(name.clone(), gone.generation);
    let mut kept = 0;
    for partition in 0..gone.registration.partitions {
        let deleted = link.delete_queue_if_empty(&names.queue(partition)).await.map_err(failed)?;
        kept += u16::from(!deleted);
    }
    print(format!(
        "{name}: retired; {kept} queues that are not empty, or in use, and the dead-letter queue are kept"
    ));
    Ok(())
}

#[derive(Serialize)]
struct TargetTopology {
    target: String,
    exchange: String,
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

async fn show(store: &Store, link: &Link, json: bool) -> Result<Exit, Exit> {
    let mut shown = Vec::new();
    for target in
        store.registered_targets().await.map_err(failed)?.into_iter().filter(|target| !target.retired)
    {
        let names = TargetNames::new(target.registration.name.clone(), target.generation);
        let mut queues = Vec::new();
        for partition in 0..target.registration.partitions {
            queues.push(link.queue_state(&names.queue(partition)).await.map_err(failed)?.into());
        }
        queues.push(link.queue_state(&names.dead_queue()).await.map_err(failed)?.into());
        shown.push(TargetTopology { target: names.target().to_owned(), exchange: names.exchange(), queues });
    }
    let missing = shown.iter().flat_map(|target| &target.queues).any(|queue: &QueueRow| !queue.exists);
    if json {
        print(serde_json::to_string_pretty(&shown).map_err(failed)?);
    } else {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING).set_header(["queue", "messages", "consumers", ""]);
        for queue in shown.iter().flat_map(|target| &target.queues) {
            let note = if queue.exists { "" } else { "MISSING: postbound topology apply" };
            table.add_row([&queue.queue, &queue.messages.to_string(), &queue.consumers.to_string(), note]);
        }
        print(table.to_string());
    }
    Ok(if missing { Exit::Findings } else { Exit::Done })
}
