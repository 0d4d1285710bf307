use serde::Serialize;
use std::fmt::Write as _;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works, but is worth a look; or it could not be checked.
    Warning,
    /// Changes are not delivered, or soon will not be.
    Problem,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What one check found. Holds no secret and nothing of a user: names, numbers and addresses only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Which check.
    pub(super) check: &'static str,
    /// How bad it is.
    pub(super) level: Level,
    /// What was found, in one line.
    pub(super) what: String,
    /// The command or setting that mends it.
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, what: impl AsRef<str>) -> Self {
        Self::new(check, Level::Ok, what.as_ref())
    }

    pub(super) fn warning(check: &'static str, what: impl AsRef<str>) -> Self {
        Self::new(check, Level::Warning, what.as_ref())
    }

    pub(super) fn problem(check: &'static str, what: impl AsRef<str>) -> Self {
        Self::new(check, Level::Problem, what.as_ref())
    }

    /// Checks that had to be left out for want of something another finding tells of.
    pub(super) fn not_checked(checks: &str, needed: &str) -> Self {
        Self::warning("not-checked", format!("{checks}: they need {needed}"))
    }

    /// Adds how to mend it.
    pub(super) fn mend(self, how: impl Into<String>) -> Self {
        Self { mend: Some(how.into()), ..self }
    }

    fn new(check: &'static str, level: Level, what: &str) -> Self {
        // What servers say may have line breaks.
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { check, level, what, mend: None }
    }
}

/// The findings for people: a line each, the mending below, a summary at the end.
pub(super) fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let indent = width + "  problem  ".len();
    let mut text = String::new();
    for Finding { check, level, what, mend } in findings {
        let _ = writeln!(text, "{check:<width$}  {:<7}  {what}", level.as_str());
        if let Some(mend) = mend {
            let _ = writeln!(text, "{:indent$}mend: {mend}", "");
        }
    }
    let number = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings) = (number(Level::Problem), number(Level::Warning));
    let _ = writeln!(text, "\n{}, {}", super::count(problems, "problem"), super::count(warnings, "warning"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("relay", "active"),
            Finding::warning("lag", "crm is 90 s behind").mend("see the queues"),
            Finding::problem("log-partitions", "no room\nfor tomorrow").mend("postbound relay"),
        ]
    }

    #[test]
    fn people_read_one_aligned_line_per_finding_with_the_mending_below() {
        insta::assert_snapshot!(render(&findings()), @r"
        relay           ok       active
        lag             warning  crm is 90 s behind
                                 mend: see the queues
        log-partitions  problem  no room for tomorrow
                                 mend: postbound relay

        1 problem, 1 warning
        ");
    }

    #[test]
    fn scripts_read_check_level_what_and_mend() {
        insta::assert_json_snapshot!(findings(), @r#"
        [
          {
            "check": "relay",
            "level": "ok",
            "what": "active",
            "mend": null
          },
          {
            "check": "lag",
            "level": "warning",
            "what": "crm is 90 s behind",
            "mend": "see the queues"
          },
          {
            "check": "log-partitions",
            "level": "problem",
            "what": "no room for tomorrow",
            "mend": "postbound relay"
          }
        ]
        "#);
    }
}
