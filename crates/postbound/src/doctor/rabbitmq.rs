use super::{Finding, count, flow::Workers, postgres::ask, reason, some_of, within};
use crate::roles;
use postbound_broker::{Link, QueueState, TargetNames};
use postbound_config::Config;
use postbound_store::{RegisteredTarget, Store};

const CHECK: &str = "rabbitmq";
const QUEUES: &str = "queues";
const DEAD_LETTERS: &str = "dead-letters";

/// Whether RabbitMQ can be reached; with a connection, if so.
pub(super) async fn connect(config: &Config) -> (Vec<Finding>, Option<Link>) {
    let broker = match roles::broker(config) {
        Ok(broker) => broker,
        Err(exit) => {
            let mend = "correct broker.url and the files the section [broker] names";
            return (vec![Finding::problem(CHECK, reason(exit)).mend(mend)], None);
        }
    };
    let address = format!("{}, virtual host {}", broker.address(), broker.vhost());
    match within(broker.connect("postbound doctor")).await {
        Ok(link) => (vec![Finding::ok(CHECK, address)], Some(link)),
        Err(why) => {
            let finding = Finding::problem(CHECK, format!("{address} cannot be used: {why}"))
                .mend("start RabbitMQ, or correct broker.url (host, user, password, virtual host)");
            (vec![finding], None)
        }
    }
}

/// The queues of every target that is configured and registered.
pub(super) async fn check_queues(
    config: &Config,
    store: &Store,
    link: &Link,
    targets: &[RegisteredTarget],
    workers: &Workers,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for target in targets {
        findings.extend(missing_exchanges(link, target).await);
        findings.extend(leftovers(store, link, &target.registration.name).await);
        match Queues::look(link, target).await {
            Ok(queues) => {
                let serving = workers.serving(&queues.target);
                findings.extend(queues.judge(serving, config.topology.queue_messages_max));
            }
            Err(why) => {
                let what = format!("{}: {why}", target.registration.name);
                findings.push(
                    Finding::problem(QUEUES, what).mend("see RabbitMQ's log; rabbitmq-diagnostics status"),
                );
            }
        }
    }
    // One check after the other, each by target.
    findings.sort_by_key(|finding| finding.check == DEAD_LETTERS);
    findings
}

/// An exchange that is gone: the relay cannot publish, the workers cannot dead-letter.
async fn missing_exchanges(link: &Link, target: &RegisteredTarget) -> Vec<Finding> {
    let names = TargetNames::new(target.registration.name.clone(), target.generation);
    let mut findings = Vec::new();
    for exchange in [names.exchange(), TargetNames::dead_exchange().to_owned()] {
        if let Ok(false) = within(link.exchange_exists(&exchange)).await {
            let what = format!("{}: exchange {exchange} is missing", names.target());
            findings.push(Finding::problem(QUEUES, what).mend("postbound topology apply"));
        }
    }
    findings
}

/// Messages in queues of past generations: a relay that was frozen or cut off while the partitions changed can still
/// have put some there after they were found empty.
async fn leftovers(store: &Store, link: &Link, target: &str) -> Option<Finding> {
    let past = match ask(QUEUES, store.past_partitions(target)).await {
        Ok(past) => past,
        Err(finding) => return Some(finding),
    };
    let mut left = Vec::new();
    for partition in past {
        let names = TargetNames::new(target, partition.generation);
        for queue in [names.queue(partition.partition), names.backfill_queue(partition.partition)] {
            // One that cannot be looked at shows with the queues in use.
            let Ok(state) = within(link.queue_state(&queue)).await else { return None };
            left.extend((state.messages > 0).then_some(queue));
        }
    }
    let queues = count(left.len(), "queue");
    (!left.is_empty()).then(|| {
        let what = format!(
            "{target}: {queues} of past generations not empty, late copies of what was published again: {}",
            some_of(&left)
        );
        Finding::warning(QUEUES, what).mend(
            "delete them with RabbitMQ's own tools; postbound topology apply --prune deletes the empty ones",
        )
    })
}

/// One target's queues, live and backfill.
#[derive(Debug, Clone)]
struct Queues {
    target: String,
    /// Of the generation workers lease.
    partitions: Vec<QueueState>,
    /// Of the current generation, while the one before is drained.
    next: Vec<QueueState>,
    dead: QueueState,
}

impl Queues {
    async fn look(link: &Link, target: &RegisteredTarget) -> Result<Self, String> {
        let names = TargetNames::new(target.registration.name.clone(), target.generation);
        let look = async |queue: String| {
            within(link.queue_state(&queue))
                .await
                .map_err(|why| format!("{queue} cannot be looked at: {why}"))
        };
        let mut generations = [Vec::new(), Vec::new()];
        let next = target.draining.map(|_| target.current());
        for (queues, generation) in generations.iter_mut().zip([Some(target.leasable()), next]) {
            let Some(generation) = generation else { continue };
            let names = TargetNames::new(names.target(), generation.number);
            for partition in 0..generation.partitions {
                queues.push(look(names.queue(partition)).await?);
                queues.push(look(names.backfill_queue(partition)).await?);
            }
        }
        let [partitions, next] = generations;
        Ok(Self {
            target: names.target().to_owned(),
            partitions,
            next,
            dead: look(names.dead_queue()).await?,
        })
    }

    /// `serving` is the number of live workers for the target; None: not known.
    fn judge(&self, serving: Option<usize>, messages_max: u64) -> Vec<Finding> {
        let findings: Vec<_> = [self.missing(), self.unconsumed(serving), self.full(messages_max)]
            .into_iter()
            .flatten()
            .collect();
        let waiting: u64 = self.partitions.iter().map(|queue| u64::from(queue.messages)).sum();
        let well = || {
            let queues = count(self.partitions.len(), "queue");
            let changing = match self.next.len() {
                0 => "",
                _ => "; its partitions are changing, and workers empty these queues first",
            };
            Finding::ok(QUEUES, format!("{}: {queues}, {waiting} messages wait{changing}", self.target))
        };
        let mut findings = if findings.is_empty() { vec![well()] } else { findings };
        findings.extend(self.unarchived(serving));
        findings
    }

    fn all(&self) -> impl Iterator<Item = &QueueState> {
        self.partitions.iter().chain(&self.next)
    }

    fn missing(&self) -> Option<Finding> {
        let all = self.all().chain([&self.dead]);
        let missing: Vec<_> = all.filter(|queue| !queue.exists).map(|queue| queue.name.as_str()).collect();
        let (gone, names) = (count(missing.len(), "queue"), some_of(&missing));
        (!missing.is_empty()).then(|| {
            let what = format!("{}: {gone} missing, what should go there waits: {names}", self.target);
            Finding::problem(QUEUES, what).mend("postbound topology apply")
        })
    }

    fn unconsumed(&self, serving: Option<usize>) -> Option<Finding> {
        let idle = self.partitions.iter().filter(|queue| queue.exists && queue.consumers == 0);
        let (queues, waiting) = idle
            .fold((0, 0_u64), |(queues, waiting), queue| (queues + 1, waiting + u64::from(queue.messages)));
        if queues == 0 || (waiting == 0 && serving != Some(0)) {
            return None;
        }
        let target = &self.target;
        let what = format!("{target}: nobody consumes {}, {waiting} messages wait", count(queues, "queue"));
        let mend = match serving {
            Some(1..) => {
                "look again in some seconds; if it stays, see the workers' logs and /readyz".to_owned()
            }
            _ => format!("postbound worker --target {target}"),
        };
        Some(Finding::problem(QUEUES, what).mend(mend))
    }

    fn full(&self, messages_max: u64) -> Option<Finding> {
        let full: Vec<_> = self.all().filter(|queue| u64::from(queue.messages) >= messages_max).collect();
        let names: Vec<_> = full.iter().map(|queue| queue.name.as_str()).collect();
        (!full.is_empty()).then(|| {
            let what = format!(
                "{}: {} full, the relay holds this target back: {}",
                self.target,
                count(full.len(), "queue"),
                some_of(&names)
            );
            Finding::warning(QUEUES, what).mend("see why the target is slow; postbound status")
        })
    }

    /// Workers archive what is here within moments.
    fn unarchived(&self, serving: Option<usize>) -> Option<Finding> {
        let QueueState { name, messages, exists, .. } = &self.dead;
        let mend = match serving {
            Some(1..) => {
                "look again in some seconds; if it stays, see dead_letters in the workers' logs and /readyz"
                    .to_owned()
            }
            _ => format!("postbound worker --target {}", self.target),
        };
        (*exists && *messages > 0).then(|| {
            let letters = count(*messages as usize, "dead letter");
            let what = format!("{}: {letters} in {name}, not archived yet", self.target);
            Finding::warning(DEAD_LETTERS, what).mend(mend)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, messages: u32, consumers: u32) -> QueueState {
        QueueState { name: name.to_owned(), exists: true, messages, consumers, answered: true }
    }

    fn missing(name: &str) -> QueueState {
        QueueState { exists: false, ..queue(name, 0, 0) }
    }

    #[test]
    fn queues_are_judged_by_what_waits_and_who_is_there_to_take_it() {
        let check = |partition: QueueState, dead: QueueState, serving, words: &[&str]| {
            let queues = Queues {
                target: "crm".to_owned(),
                partitions: vec![partition, queue("p1", 0, 1)],
                next: Vec::new(),
                dead,
            };
            let findings = queues.judge(serving, 100);
            let lines: Vec<_> = findings
                .iter()
                .map(|f| {
                    format!("{:?} {}: {}; {}", f.level, f.check, f.what, f.mend.as_deref().unwrap_or("-"))
                })
                .collect();
            assert_eq!(lines.len(), words.len(), "{lines:#?}");
            assert!(lines.iter().zip(words).all(|(line, words)| line.contains(words)), "{lines:#?}");
        };
        let none = || queue("dead", 0, 0);
        check(queue("p0", 3, 1), none(), Some(1), &["Ok queues: crm: 2 queues, 3 messages wait"]);
        check(queue("p0", 0, 0), none(), Some(1), &["Ok queues"]);
        check(queue("p0", 0, 0), none(), None, &["Ok queues"]);
        check(queue("p0", 0, 0), none(), Some(0), &["postbound worker --target crm"]);
        check(
            queue("p0", 5, 0),
            none(),
            Some(1),
            &["Problem queues: crm: nobody consumes 1 queue, 5 messages wait; look again"],
        );
        check(queue("p0", 5, 0), none(), None, &["postbound worker --target crm"]);
        check(queue("p0", 100, 1), none(), Some(1), &["Warning queues: crm: 1 queue full"]);
        check(missing("p0"), none(), Some(1), &["1 queue missing"]);
        check(
            queue("p0", 0, 1),
            missing("dead"),
            Some(1),
            &["missing, what should go there waits: dead; postbound topology apply"],
        );
        check(
            queue("p0", 0, 1),
            queue("dead", 7, 0),
            Some(1),
            &["Ok queues", "Warning dead-letters: crm: 7 dead letters in dead, not archived yet; look again"],
        );
    }
}
