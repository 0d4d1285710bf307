//! Whether subscribed webhooks are told what they asked for.

use super::{Finding, count, postgres::ask};
use postbound_store::{NoticeBacklog, RegisteredTarget, Store};

const CHECK: &str = "notices";
/// A notice that is due is told within seconds, and tried again some times within this.
const AGE_MAX_S: f64 = 900.0;

/// Says nothing where nobody subscribes and nothing is left over.
pub(super) async fn check(store: &Store, targets: &[RegisteredTarget]) -> Vec<Finding> {
    let subscribers: Vec<(&str, bool)> = targets
        .iter()
        .map(|target| (target.registration.name.as_str(), target.registration.subscribes()))
        .collect();
    match ask(CHECK, store.notice_backlogs(None)).await {
        Ok(backlogs) => judge(&subscribers, &backlogs),
        Err(finding) => vec![finding],
    }
}

/// `targets` are those in use, and whether each asks for notices.
fn judge(targets: &[(&str, bool)], backlogs: &[NoticeBacklog]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for backlog in backlogs {
        let Some((_, subscribes)) = targets.iter().find(|(name, _)| *name == backlog.target) else {
            continue;
        };
        findings.extend(judge_waiting(backlog, *subscribes));
        findings.extend(judge_given_up(backlog));
    }
    if findings.is_empty() && targets.iter().any(|(_, subscribes)| *subscribes) {
        findings.push(Finding::ok(CHECK, "told within minutes, and none is given up"));
    }
    findings
}

fn judge_waiting(backlog: &NoticeBacklog, subscribes: bool) -> Option<Finding> {
    let NoticeBacklog { target, waiting, oldest_seconds, .. } = backlog;
    if *waiting == 0 || (subscribes && *oldest_seconds <= AGE_MAX_S) {
        return None;
    }
    let notices = notices(*waiting);
    if !subscribes {
        let what = format!("{target}: {notices} from before it stopped asking for them; nobody tells them");
        let mend = format!("put notices back into targets.{target}; else they are removed after 60 days");
        return Some(Finding::warning(CHECK, what).mend(mend));
    }
    let verb = if *waiting == 1 { "waits" } else { "wait" };
    let what = format!("{target}: {notices} {verb}, the oldest for {:.0} min", oldest_seconds / 60.0);
    let mend = format!(
        "why: postbound notices list --target {target}; nothing is told while no worker serves the target or its breaker is open"
    );
    Some(Finding::warning(CHECK, what).mend(mend))
}

fn judge_given_up(backlog: &NoticeBacklog) -> Option<Finding> {
    let NoticeBacklog { target, given_up, .. } = backlog;
    (*given_up > 0).then(|| {
        let what = format!("{target}: {} given up", notices(*given_up));
        let mend = format!(
            "why: postbound notices list --target {target}; when the target takes them: postbound notices retry --target {target}"
        );
        Finding::warning(CHECK, what).mend(mend)
    })
}

fn notices(number: i64) -> String {
    count(usize::try_from(number).unwrap_or(0), "notice")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn notices_that_wait_long_or_were_given_up_are_told_with_what_mends_it() {
        let backlog = |waiting, oldest_seconds, given_up| NoticeBacklog {
            target: "hook".to_owned(),
            waiting,
            oldest_seconds,
            given_up,
        };
        let check = |subscribes, backlogs: &[NoticeBacklog], expected: &[(Level, &str)]| {
            let findings = judge(&[("crm", false), ("hook", subscribes)], backlogs);
            let told: Vec<_> = findings
                .iter()
                .map(|f| (f.level, format!("{}; {}", f.what, f.mend.as_deref().unwrap_or("-"))))
                .collect();
            assert_eq!(told.len(), expected.len(), "{told:?}");
            for ((level, told), (expected_level, words)) in told.iter().zip(expected) {
                assert!(level == expected_level && told.contains(words), "{told:?} without {words:?}");
            }
        };
        let well = [(Level::Ok, "none is given up")];
        check(true, &[], &well);
        check(true, &[backlog(3, 60.0, 0)], &well);
        check(false, &[], &[]);
        check(
            true,
            &[backlog(1, 1200.0, 0)],
            &[(Level::Warning, "hook: 1 notice waits, the oldest for 20 min")],
        );
        let given_up = (Level::Warning, "2 notices given up; why: postbound notices list --target hook");
        check(true, &[backlog(0, 0.0, 2)], &[given_up]);
        check(true, &[backlog(5, 7200.0, 2)], &[(Level::Warning, "oldest for 120 min"), given_up]);
        check(false, &[backlog(1, 5.0, 0)], &[(Level::Warning, "put notices back into targets.hook")]);
        let gone = NoticeBacklog { target: "gone".to_owned(), ..backlog(1, 9999.0, 1) };
        check(false, &[gone], &[]);
    }
}
