use super::{Finding, count, postgres::ask, some_of};
use postbound_config::Config;
use postbound_store::{LogPartition, Store};

const CHECK: &str = "log-partitions";
/// With fewer days than these ready, somebody has to act now.
const DAYS_AHEAD_MIN: i32 = 3;

/// Whether producers have partitions to write to, and whether old ones go.
pub(super) async fn check(config: &Config, store: &Store) -> Vec<Finding> {
    let partitions = match ask(CHECK, store.log_partitions()).await {
        Ok(partitions) => partitions,
        Err(finding) => return vec![finding],
    };
    let days: Vec<i32> = partitions.iter().map(|partition| partition.days_from_today).collect();
    let mut findings = vec![judge_ahead(&days)];
    let retention = i32::try_from(config.relay.retention_days).unwrap_or(i32::MAX);
    // The relay tidies up some time after midnight, not at it.
    let overdue: Vec<_> =
        partitions.iter().filter(|partition| partition.days_from_today < -retention - 1).collect();
    if !overdue.is_empty() {
        findings.push(kept(store, &overdue).await);
    }
    findings
}

/// `days` are those that have a partition, counted from today (UTC), ascending.
fn judge_ahead(days: &[i32]) -> Finding {
    let mend = "is a relay running? it makes them every 10 minutes: postbound relay";
    let newest = days.last().copied().unwrap_or(-1);
    match (0..=newest.max(0)).find(|day| !days.contains(day)) {
        Some(0) => Finding::problem(CHECK, "none for today (UTC): producers fail now").mend(mend),
        Some(day) => {
            let what = format!("none for the day in {day} days (UTC): producers will fail on it");
            Finding::problem(CHECK, what).mend(mend)
        }
        None if newest < DAYS_AHEAD_MIN => {
            let what = format!("ready for today and {newest} days more; producers will fail after that");
            Finding::problem(CHECK, what).mend(mend)
        }
        None => Finding::ok(CHECK, format!("ready for {newest} more days")),
    }
}

/// Why partitions past retention are still there.
async fn kept(store: &Store, overdue: &[&LogPartition]) -> Finding {
    let names: Vec<_> = overdue.iter().map(|partition| partition.table.as_str()).collect();
    let past =
        format!("{} past relay.retention_days kept: {}", count(names.len(), "partition"), some_of(&names));
    match ask(CHECK, store.is_log_partition_read(overdue[0])).await {
        Ok(true) => Finding::warning(CHECK, format!("{past}; every stream has read them"))
            .mend("is a relay running? it drops them, once no transaction sees them: postbound relay"),
        Ok(false) => Finding::warning(CHECK, format!("{past}; a stream has not read them"))
            .mend("see lag; a target nobody needs any more goes with: postbound topology apply --prune"),
        Err(finding) => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn few_days_ahead_or_a_gap_are_a_problem() {
        let check = |days: Vec<i32>, level: Level, words: &str| {
            let finding = judge_ahead(&days);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.what.contains(words), "{finding:?}");
        };
        check((-1..=14).collect(), Level::Ok, "14 more days");
        check((-1..=3).collect(), Level::Ok, "3 more days");
        check((-1..=2).collect(), Level::Problem, "today and 2 days more");
        check((-1..=0).collect(), Level::Problem, "today and 0 days more");
        check(vec![-2, -1], Level::Problem, "fail now");
        check(Vec::new(), Level::Problem, "fail now");
        check(vec![0, 1, 2, 4, 5], Level::Problem, "in 3 days");
    }
}
