use super::{
    Check, Contract,
    endpoint::Endpoint,
    judge::{Judgement, Verdict},
    visit::Seen,
};
use serde::Serialize;
use std::{fmt::Write as _, time::Duration};

/// All that was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    contract: Contract,
    url: String,
    tenant: String,
    checks: Vec<Finding>,
    /// Users it holds as deleted ones.
    left_deleted: Vec<String>,
    /// Users who may be there still.
    left_behind: Vec<String>,
    is_right: bool,
}

/// What came of one check.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    /// None: all that were left out for one reason.
    check: Option<Check>,
    verdict: Verdict,
    /// Whoever runs the check knows of it.
    accepted: bool,
    sent: Option<Sent>,
    took_ms: Option<u64>,
    answer: String,
    postbound: String,
    why: Option<String>,
    mend: Option<String>,
}

/// The state in question.
#[derive(Debug, Serialize)]
pub(super) struct Sent {
    pub(super) user: String,
    pub(super) action: &'static str,
    pub(super) version: i64,
}

impl Report {
    pub(super) fn new(endpoint: &Endpoint, seen: Seen, accept: &[Check]) -> Self {
        let Seen { findings: mut checks, held } = seen;
        for finding in &mut checks {
            finding.accepted = finding.check.is_some_and(|check| accept.contains(&check));
        }
        let named = |wanted: bool| {
            held.iter().filter(|(_, is_there)| **is_there == wanted).map(|(user, _)| user.clone()).collect()
        };
        let is_right = checks.iter().all(Finding::is_fine);
        Self {
            contract: endpoint.contract,
            url: endpoint.url.clone(),
            tenant: endpoint.tenant.clone(),
            checks,
            left_deleted: named(false),
            left_behind: named(true),
            is_right,
        }
    }

    /// Whether nothing is left to be mended.
    pub(super) fn is_right(&self) -> bool {
        self.is_right
    }

    /// For people: a line per check, below it what Postbound makes of the answer, and why and how that is to be mended.
    pub(super) fn render(&self) -> String {
        let name = |finding: &Finding| finding.check.map_or("", Check::as_str);
        let width = self.checks.iter().map(|finding| name(finding).len()).max().unwrap_or(0);
        let indent = width + "  skipped  ".len();
        let mut text = String::new();
        for finding in &self.checks {
            let verdict = finding.verdict.as_str();
            let _ = writeln!(text, "{:<width$}  {verdict:<7}  {}", name(finding), finding.headline());
            for (what, words) in finding.details() {
                let _ = writeln!(text, "{:indent$}{what}: {words}", "");
            }
        }
        let _ = write!(text, "\n{}", self.summary());
        text
    }

    fn summary(&self) -> String {
        let count = |verdict| {
            let counts = |finding: &&Finding| finding.verdict == verdict && !finding.is_passed_over();
            self.checks.iter().filter(counts).count()
        };
        let accepted = self.checks.iter().filter(|finding| finding.is_passed_over()).count();
        let mut text = format!(
            "{} ok, {} weak, {} wrong",
            count(Verdict::Right),
            count(Verdict::Weak),
            count(Verdict::Wrong)
        );
        if accepted > 0 {
            let _ = write!(text, ", {accepted} accepted");
        }
        text.push('\n');
        for (users, what) in [
            (&self.left_deleted, "left there as deleted"),
            (&self.left_behind, "left there, delete them by hand"),
        ] {
            if !users.is_empty() {
                let _ = writeln!(text, "{what}, in tenant {}: {}", self.tenant, users.join(", "));
            }
        }
        text
    }
}

impl Finding {
    pub(super) fn new(
        check: Option<Check>,
        sent: Option<Sent>,
        took: Option<Duration>,
        judgement: Judgement,
    ) -> Self {
        let Judgement { answer, postbound, verdict, why, mend } = judgement;
        let took_ms = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        Self { check, verdict, accepted: false, sent, took_ms, answer, postbound, why, mend }
    }

    pub(super) fn of(check: Check, sent: Sent, took: Duration, judgement: Judgement) -> Self {
        Self::new(Some(check), Some(sent), Some(took), judgement)
    }

    pub(super) fn skipped(check: Option<Check>, why: &str) -> Self {
        let judgement = Judgement {
            answer: String::new(),
            postbound: String::new(),
            verdict: Verdict::Skipped,
            why: Some(why.to_owned()),
            mend: None,
        };
        Self::new(check, None, None, judgement)
    }

    /// Whether somebody has to know of it.
    fn is_finding(&self) -> bool {
        matches!(self.verdict, Verdict::Weak | Verdict::Wrong)
    }

    fn is_fine(&self) -> bool {
        self.accepted || !self.is_finding()
    }

    /// Whether it is a finding that shall not count.
    fn is_passed_over(&self) -> bool {
        self.accepted && self.is_finding()
    }

    fn headline(&self) -> String {
        let accepted = if self.is_passed_over() { " (accepted)" } else { "" };
        match (&self.sent, self.verdict) {
            (_, Verdict::Skipped) => self.why.clone().unwrap_or_default(),
            (Some(Sent { action, version, .. }), _) => {
                format!("{action}, version {version}: {}{accepted}", self.answer)
            }
            (None, _) => format!("{}{accepted}", self.answer),
        }
    }

    fn details(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let is_skipped = self.verdict == Verdict::Skipped;
        let why = self.why.as_deref().filter(|_| !is_skipped);
        let postbound = (!is_skipped).then_some(self.postbound.as_str());
        let reason = if self.verdict == Verdict::Right { "note" } else { "why" };
        [("Postbound", postbound), (reason, why), ("mend", self.mend.as_deref())]
            .into_iter()
            .filter_map(|(what, words)| Some((what, words?)))
    }
}
