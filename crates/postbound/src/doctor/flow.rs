//! Whether changes are on their way: the relay, the streams' lag, the workers.

use super::{Finding, count, postgres::ask};
use postbound_store::{PartitionOwner, RegisteredTarget, RelayHalt, Store, StreamLag, WorkerRow};

const LAG_MAX_S: f64 = 60.0;

/// The live workers, or why they are not known.
pub(super) struct Workers(Result<Vec<WorkerRow>, Finding>);

impl Workers {
    pub(super) async fn look(store: &Store) -> Self {
        Self(ask("workers", store.live_workers()).await)
    }

    /// How many live workers serve a target; None when that is not known.
    pub(super) fn serving(&self, target: &str) -> Option<usize> {
        let workers = self.0.as_ref().ok()?;
        Some(workers.iter().filter(|worker| worker.targets.iter().any(|served| served == target)).count())
    }
}

/// Relay, lag and workers.
pub(super) async fn check(store: &Store, targets: &[RegisteredTarget], workers: &Workers) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut relaying = true;
    match ask("relay", store.relay_status()).await {
        Ok(status) => {
            relaying = status.holder.is_some();
            findings.push(judge_relay(status.holder.as_deref()));
        }
        Err(finding) => findings.push(finding),
    }
    match ask("witness", store.relay_halt()).await {
        Ok(halt) => findings.push(judge_halt(halt)),
        Err(finding) => findings.push(finding),
    }
    match ask("lag", store.stream_lags()).await {
        Ok(lags) => findings.extend(judge_lags(&lags, relaying)),
        Err(finding) => findings.push(finding),
    }
    match (&workers.0, ask("workers", store.partition_owners()).await) {
        (Ok(_), Ok(owners)) => findings.extend(targets.iter().map(|target| {
            let name = &target.registration.name;
            judge_owners(name, &owners, workers.serving(name).unwrap_or(0))
        })),
        (Err(finding), _) => findings.push(finding.clone()),
        (_, Err(finding)) => findings.push(finding),
    }
    findings
}

fn judge_relay(holder: Option<&str>) -> Finding {
    match holder {
        Some(holder) => Finding::ok("relay", format!("active: {holder}")),
        None => Finding::problem("relay", "none is active: committed changes wait in the log")
            .mend("postbound relay"),
    }
}

/// The active relay writes what it finds; the command stands in its words.
fn judge_halt(halt: Option<RelayHalt>) -> Finding {
    match halt {
        None => Finding::ok("witness", "neither Postgres nor RabbitMQ has gone back in time"),
        Some(halt) => Finding::problem("witness", halt.reason).mend("postbound rebase --dry-run"),
    }
}

fn judge_lags(lags: &[StreamLag], relaying: bool) -> Vec<Finding> {
    let late: Vec<_> = lags.iter().filter(|lag| lag.seconds > LAG_MAX_S).collect();
    if late.is_empty() {
        let worst = lags.iter().map(|lag| lag.seconds).fold(0.0, f64::max);
        return vec![Finding::ok(
            "lag",
            format!("{}, at most {worst:.1} s behind", count(lags.len(), "stream")),
        )];
    }
    let mend = if relaying {
        "its queues are full, or its exchange is gone: see queues, and the relay's log; postbound topology apply puts back what is gone"
    } else {
        "postbound relay"
    };
    let finding = |lag: &&StreamLag| {
        Finding::warning("lag", format!("{} is {:.0} s behind, {} rows", lag.stream, lag.seconds, lag.rows))
            .mend(mend)
    };
    late.iter().map(finding).collect()
}

/// `serving` is the number of live workers that serve the target.
fn judge_owners(target: &str, owners: &[PartitionOwner], serving: usize) -> Finding {
    let partitions = owners.iter().filter(|owner| owner.target == target);
    let (mut all, mut free) = (0, 0);
    for partition in partitions {
        all += 1;
        free += usize::from(partition.owner.is_none());
    }
    if serving == 0 {
        return Finding::problem(
            "workers",
            format!("{target}: none, {free} of {all} partitions have no owner"),
        )
        .mend(format!("postbound worker --target {target}"));
    }
    if free > 0 {
        return Finding::warning("workers", format!("{target}: {free} of {all} partitions have no owner"))
            .mend("look again in some seconds; if it stays, see the workers' logs and /readyz");
    }
    Finding::ok("workers", format!("{target}: {} for {all} partitions", count(serving, "worker")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_stream_is_late_after_a_minute() {
        let check = |seconds, relaying, level, words: &str| {
            let lags = [StreamLag { stream: "crm".to_owned(), rows: 12, seconds }];
            let findings = judge_lags(&lags, relaying);
            assert_eq!(findings[0].level, level, "{findings:?}");
            let text = format!("{} {}", findings[0].what, findings[0].mend.as_deref().unwrap_or_default());
            assert!(text.contains(words), "{text}");
        };
        check(59.0, true, Level::Ok, "at most 59.0 s");
        check(61.0, true, Level::Warning, "see queues");
        check(61.0, false, Level::Warning, "postbound relay");
    }

    #[test]
    fn partitions_without_owner_are_a_problem_only_while_no_worker_serves_the_target() {
        let check = |owner: Option<&str>, serving, level| {
            let free =
                PartitionOwner { target: "crm".to_owned(), partition: 0, owner: owner.map(str::to_owned) };
            let others = PartitionOwner { target: "backend".to_owned(), ..free.clone() };
            let finding = judge_owners("crm", &[free, others], serving);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(
                finding.what.contains("of 1 partitions") || finding.what.contains("for 1 partitions"),
                "{finding:?}"
            );
        };
        check(Some("host:1"), 1, Level::Ok);
        check(None, 2, Level::Warning);
        check(None, 0, Level::Problem);
    }
}
