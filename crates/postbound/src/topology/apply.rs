use super::names;
use crate::{
    exit::{Exit, failed},
    output::print,
};
use postbound_broker::{Link, QueueBounds};
use postbound_config::Config;
use postbound_store::{Generation, Operation, RegisteredTarget, Registration, Store};
use serde_json::json;

/// What is to become of a configured target.
pub(super) struct Change<'a> {
    registration: Registration,
    known: Option<&'a RegisteredTarget>,
    /// The generation whose partitions are another number than before.
    next: Option<Generation>,
}

impl<'a> Change<'a> {
    /// Decides it; another number of partitions is refused unless asked for.
    pub(super) fn of(
        registration: Registration,
        known: Option<&'a RegisteredTarget>,
        repartition: bool,
    ) -> Result<Self, Exit> {
        let (name, wanted) = (&registration.name, registration.partitions);
        let next = match known {
            Some(known) if known.registration.partitions != wanted => {
                let partitions = known.registration.partitions;
                if !repartition {
                    return Err(Exit::Configuration(format!(
                        "topology.partitions is {wanted}, but {name} was registered with {partitions}: put it back to \
                         {partitions}, or change it under way with: postbound topology apply --repartition"
                    )));
                }
                if let Some(draining) = known.draining {
                    return Err(Exit::failed(format!(
                        "{name} cannot change its partitions from {partitions} to {wanted}: it still changes them from {} \
                         to {partitions}; wait until postbound status tells of it no more, or put topology.partitions \
                         back to {partitions}",
                        draining.partitions
                    )));
                }
                Some(Generation { number: known.generation + 1, partitions: wanted })
            }
            _ => None,
        };
        Ok(Self { registration, known, next })
    }

    /// Declares what is missing and registers the target.
    pub(super) async fn apply(&self, config: &Config, store: &Store, link: &Link) -> Result<(), Exit> {
        let name = &self.registration.name;
        // Before anything is declared: a run that ends halfway must not forget what had vanished.
        if let Some(known) = self.known.filter(|known| !known.retired) {
            mend_vanished(store, link, known).await?;
        }
        // Queues first: a registered target is published to at once.
        let (mut created, mut existing) = (0, 0);
        for generation in self.generations() {
            let names = names(name, generation);
            let declared = link.declare_target(&names, generation.partitions, bounds(config)).await;
            let declared = declared.map_err(failed)?;
            created += declared.created.len();
            existing += declared.existing;
        }
        match self.known.zip(self.next) {
            None => {
                store.register_target(&self.registration).await.map_err(failed)?;
                let news = self.news();
                print(format!("{name}: {created} queues created, {existing} were there{news}"));
            }
            Some((known, next)) => {
                let moved =
                    store.repartition_target(&self.registration, known.generation).await.map_err(failed)?;
                if !moved {
                    return Err(Exit::failed(format!(
                        "{name} was registered otherwise at the same moment; see postbound topology show"
                    )));
                }
                let operation = Operation {
                    command: "topology apply --repartition",
                    acting_as: None,
                    filter: json!({ "target": name }),
                };
                let partitions = json!({ "from": known.registration.partitions, "to": next.partitions });
                store.audit(&operation, &partitions).await.map_err(failed)?;
                print(format!(
                    "{name}: {created} queues created, {existing} were there; from {} to {} partitions (generation {}): \
                     the relay goes on to them now, workers when those of generation {} are empty",
                    known.registration.partitions, next.partitions, next.number, known.generation
                ));
            }
        }
        Ok(())
    }

    /// What is registered otherwise than before.
    fn news(&self) -> &'static str {
        match self.known {
            None => "",
            Some(known) if known.retired => "; it was retired and is registered again",
            Some(known) if known.registration != self.registration => {
                "; settings updated: workers that run with other ones do not serve it until they are restarted"
            }
            Some(_) => "",
        }
    }

    /// All generations in use from now on; also one that is drained, or workers could not empty it.
    fn generations(&self) -> impl Iterator<Item = Generation> {
        let first = Generation { number: 1, partitions: self.registration.partitions };
        let current = self.known.map_or(first, RegisteredTarget::current);
        self.known.and_then(|known| known.draining).into_iter().chain([current]).chain(self.next)
    }
}

/// Bounds of the queues, as configured.
pub(crate) fn bounds(config: &Config) -> QueueBounds {
    QueueBounds {
        messages_max: u32::try_from(config.topology.queue_messages_max).unwrap_or(u32::MAX),
        bytes_max: config.topology.queue_bytes_max,
        delivery_limit: config.topology.delivery_limit,
    }
}

/// What was in a live queue that vanished is in the log. While the queue is missing, the relay's cursor does not pass
/// what should go there. What was in a backfill queue has no part in the log's cursor.
async fn mend_vanished(store: &Store, link: &Link, known: &RegisteredTarget) -> Result<(), Exit> {
    let target = &known.registration.name;
    let (mut live, mut backfill) = (0, 0);
    for generation in known.draining.into_iter().chain([known.current()]) {
        let names = names(target, generation);
        for partition in 0..generation.partitions {
            let state = link.queue_state(&names.queue(partition)).await.map_err(failed)?;
            live += usize::from(!state.exists);
            let state = link.queue_state(&names.backfill_queue(partition)).await.map_err(failed)?;
            backfill += usize::from(!state.exists);
        }
    }
    if live > 0 {
        store.rewind_cursor(target).await.map_err(failed)?;
        print(format!(
            "{target}: {live} queues had vanished with what was in them; the log is published again from its oldest row \
             (what the target holds already is not sent again)"
        ));
    }
    if backfill > 0 {
        print(format!(
            "{target}: {backfill} backfill queues were missing and are declared again; no live change was in them"
        ));
    }
    Ok(())
}
