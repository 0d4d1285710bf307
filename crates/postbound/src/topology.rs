mod apply;
mod prune;
mod show;

pub(crate) use apply::bounds;

use crate::{
    args::{Common, TopologyCommand},
    exit::{Exit, failed},
    output::print,
    roles,
};
use apply::Change;
use postbound_broker::{Link, TargetNames};
use postbound_config::Config;
use postbound_store::{Generation, Operation, RegisteredTarget, Store};
use serde_json::json;

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
        TopologyCommand::Apply { prune, repartition } => {
            apply(&config, &store, &link, *prune, *repartition).await
        }
        TopologyCommand::Show { json } => show::show(&store, &link, *json).await,
    };
    link.close().await;
    exit
}

async fn apply(
    config: &Config,
    store: &Store,
    link: &Link,
    prune: bool,
    repartition: bool,
) -> Result<Exit, Exit> {
    for warning in config.warnings() {
        print(format!("warning: {warning}"));
    }
    let registered = store.registered_targets().await.map_err(failed)?;
    let known = |name: &str| registered.iter().find(|known| known.registration.name == name);
    // All or none is refused: nothing is changed before every target was looked at.
    let changes = config
        .enabled_targets()
        .map(|target| Change::of(roles::registration(config, target), known(&target.name), repartition))
        .collect::<Result<Vec<_>, _>>()?;
    for change in &changes {
        change.apply(config, store, link).await?;
    }
    for gone in registered.iter().filter(|known| !known.retired && !is_wanted(config, known)) {
        let name = &gone.registration.name;
        if prune {
            prune::retire(store, link, gone).await?;
        } else {
            print(format!(
                "{name}: registered, but not in the configuration; retire it with: postbound topology apply --prune"
            ));
        }
    }
    mend_witness(store, link).await?;
    if prune {
        for known in &registered {
            prune::past_generations(store, link, &known.registration.name).await?;
        }
    }
    Ok(Exit::Done)
}

/// RabbitMQ's witness of what was published. Where Postgres knows of one and the queue is gone, so is what was in other
/// queues, whether they are there again or not. Last: a run that ends before is followed by one that still sees it.
async fn mend_witness(store: &Store, link: &Link) -> Result<(), Exit> {
    let exists = link.witness_queue().await.map_err(failed)?.exists;
    let witness = store.database_witness().await.map_err(failed)?;
    if !exists && witness.beat > 0 {
        let operation = Operation {
            command: "topology apply",
            acting_as: None,
            filter: json!({ "witness": "vanished" }),
        };
        store.republish_log(witness.epoch, &operation).await.map_err(failed)?;
        print(
            "RabbitMQ's witness had vanished; the log is published again to all targets from its oldest row (what they hold \
             already is not sent again)",
        );
    }
    link.declare_witness().await.map_err(failed)?;
    Ok(())
}

fn is_wanted(config: &Config, known: &RegisteredTarget) -> bool {
    config.enabled_targets().any(|target| target.name == known.registration.name)
}

/// The names of one of a target's generations.
fn names(target: &str, generation: Generation) -> TargetNames {
    TargetNames::new(target, generation.number)
}
