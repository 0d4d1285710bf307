use super::{Finding, count};
use postbound_config::Config;

/// What the configuration itself shows; it could be read, or there would be no doctor.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<_> = config
        .targets
        .values()
        .filter(|target| !target.is_enabled())
        .map(|target| {
            Finding::warning("configuration", format!("target {} has no URL: it is skipped", target.name))
                .mend(format!("set targets.{}.url", target.name))
        })
        .collect();
    let enabled = config.enabled_targets().count();
    match enabled {
        0 => findings.push(
            Finding::problem("configuration", "no target is configured: nothing will be delivered")
                .mend("give a target its url, e.g. [targets.backend] url = \"https://...\""),
        ),
        _ => findings.push(Finding::ok("configuration", format!("{} with a URL", count(enabled, "target")))),
    }
    findings.extend(secret_files(config));
    findings
}

fn secret_files(config: &Config) -> Vec<Finding> {
    let unreadable = config.check_secret_files();
    if unreadable.is_empty() {
        return vec![Finding::ok("secrets", "every file that holds a secret can be read")];
    }
    let finding = |(key, error): (String, _)| {
        Finding::problem("secrets", format!("{key}: {error}"))
            .mend(format!("let the file be readable for the user postbound runs as, or change {key}"))
    };
    unreadable.into_iter().map(finding).collect()
}
