//! What is held back or failed: open breakers and pauses, parked users, dead letters in the archive.

use super::{Finding, count, postgres::ask};
use crate::closed::why_closed;
use postbound_store::{BreakerRow, ClosedScope, RegisteredTarget, Store, TargetBacklog};

const BREAKERS: &str = "breakers";
const PARKED: &str = "parked";
const DEAD_LETTERS: &str = "dead-letters";
/// Closed tenants told one by one, per target.
const TENANTS_SHOWN: usize = 3;

pub(super) async fn check(store: &Store, targets: &[RegisteredTarget]) -> Vec<Finding> {
    let names: Vec<&str> = targets.iter().map(|target| target.registration.name.as_str()).collect();
    let mut findings = match ask(BREAKERS, store.breakers()).await {
        Ok(breakers) => judge_breakers(&names, &breakers),
        Err(finding) => vec![finding],
    };
    match ask(DEAD_LETTERS, store.target_backlogs()).await {
        Ok(backlogs) => findings.extend(judge_backlogs(&names, &backlogs)),
        Err(finding) => findings.push(finding),
    }
    findings
}

fn judge_breakers(targets: &[&str], breakers: &[BreakerRow]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for target in targets {
        let of_target = || breakers.iter().filter(|breaker| breaker.target == *target);
        findings.extend(of_target().take(TENANTS_SHOWN).map(judge_breaker));
        let more = of_target().count().saturating_sub(TENANTS_SHOWN);
        if more > 0 {
            let what = format!("{target}: closed to {} as well", count(more, "other tenant"));
            findings.push(Finding::warning(BREAKERS, what).mend("postbound targets list"));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(BREAKERS, "closed: requests go out to every target"));
    }
    findings
}

fn judge_breaker(breaker: &BreakerRow) -> Finding {
    let target = &breaker.target;
    let mend = match (&breaker.paused_by, &breaker.tenant) {
        (Some(_), None) => format!("when that is over: postbound targets resume {target}"),
        (Some(_), Some(tenant)) => {
            format!("when that is over: postbound targets resume {target} --tenant {tenant}")
        }
        (None, _) => {
            "see why the target fails; workers probe it until it answers, and its changes wait".to_owned()
        }
    };
    Finding::warning(BREAKERS, why_closed(target, &ClosedScope::from(breaker.clone()))).mend(mend)
}

fn judge_backlogs(targets: &[&str], backlogs: &[TargetBacklog]) -> Vec<Finding> {
    let of = |number: fn(&TargetBacklog) -> i64| {
        let wanted = backlogs.iter().filter(|backlog| targets.contains(&backlog.target.as_str()));
        wanted.map(move |backlog| (&backlog.target, usize::try_from(number(backlog)).unwrap_or(0)))
    };
    let mut findings = Vec::new();
    for (target, users) in of(|backlog| backlog.parked_users).filter(|(_, users)| *users > 0) {
        let wait = if users == 1 { "waits" } else { "wait" };
        let what = format!("{target}: {} {wait} for another attempt", count(users, "user"));
        let mend = "postbound targets list; why one of them waits: postbound users show TENANT USER";
        findings.push(Finding::warning(PARKED, what).mend(mend));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(PARKED, "nobody waits for another attempt"));
    }
    let before = findings.len();
    for (target, letters) in of(|backlog| backlog.open_letters).filter(|(_, letters)| *letters > 0) {
        let what = format!("{target}: {} open", count(letters, "dead letter"));
        let mend = format!("postbound dead-letters summary --target {target}");
        findings.push(Finding::warning(DEAD_LETTERS, what).mend(mend));
    }
    if findings.len() == before {
        findings.push(Finding::ok(DEAD_LETTERS, "none is open"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use postbound_store::BreakerCause;
    use std::time::Duration;
    use time::macros::datetime;

    fn texts(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|f| format!("{}; {}", f.what, f.mend.as_deref().unwrap_or("-"))).collect()
    }

    #[test]
    fn what_holds_a_target_back_is_told_with_since_when_why_and_what_ends_it() {
        let breaker = |tenant: Option<&str>, by: Option<&str>| BreakerRow {
            target: "crm".into(),
            tenant: tenant.map(Into::into),
            opened_at: datetime!(2026-11-21 22:00 UTC),
            open_for: Duration::from_secs(60),
            cause: BreakerCause::WholeTarget,
            reason: "http_503".into(),
            status: Some(503),
            detail: String::new(),
            retry_at: None,
            retry_in: None,
            probe_for: None,
            paused_by: by.map(Into::into),
            pause_reason: by.map(|_| "migration".into()),
        };
        let check = |breakers: &[BreakerRow], level, expected: &[&str]| {
            let findings = judge_breakers(&["crm"], breakers);
            let told = texts(&findings);
            assert_eq!(told.len(), expected.len(), "{told:?}");
            assert!(told.iter().zip(expected).all(|(told, words)| told.contains(words)), "{told:?}");
            assert!(findings.iter().all(|finding| finding.level == level), "{findings:?}");
        };
        check(&[], Level::Ok, &["requests go out"]);
        let open = "crm: breaker open (http_503) since 2026-11-21 22:00:00Z, next probe -; see why";
        check(&[breaker(None, None)], Level::Warning, &[open]);
        check(
            &[breaker(Some("t1"), Some("ada"))],
            Level::Warning,
            &[
                "crm, tenant t1: paused by ada: migration; closed since 2026-11-21 22:00:00Z, until it is resumed; \
               when that is over: postbound targets resume crm --tenant t1",
            ],
        );
        let many: Vec<_> = ["t1", "t2", "t3", "t4", "t5"].map(|tenant| breaker(Some(tenant), None)).into();
        check(&many, Level::Warning, &["t1", "t2", "t3", "closed to 2 other tenants as well"]);
        let other = BreakerRow { target: "gone".into(), ..breaker(None, None) };
        check(&[other], Level::Ok, &["requests go out"]);
    }

    #[test]
    fn parked_users_and_open_letters_are_told_with_the_command_to_look() {
        let check = |parked_users, open_letters, levels: [Level; 2], expected: [&str; 2]| {
            let backlog = TargetBacklog { target: "crm".into(), parked_users, open_letters };
            let findings = judge_backlogs(&["crm"], &[backlog]);
            assert_eq!(findings.iter().map(|f| f.level).collect::<Vec<_>>(), levels, "{findings:?}");
            let told = texts(&findings);
            assert!(told.iter().zip(expected).all(|(told, words)| told.contains(words)), "{told:?}");
        };
        use Level::{Ok, Warning};
        check(0, 0, [Ok, Ok], ["nobody waits", "none is open"]);
        check(1, 0, [Warning, Ok], ["crm: 1 user waits", "none is open"]);
        check(
            12,
            7,
            [Warning, Warning],
            ["postbound users show", "postbound dead-letters summary --target crm"],
        );
    }
}
