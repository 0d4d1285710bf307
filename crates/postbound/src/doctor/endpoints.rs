use super::{Finding, reason, within};
use crate::worker::client;
use postbound_config::{Config, Target};

/// Asks every target's endpoint for a sign of life, all at once.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let probes: Vec<_> =
        config.enabled_targets().cloned().map(|target| tokio::spawn(probe(target))).collect();
    let mut findings = Vec::with_capacity(probes.len());
    for probe in probes {
        let lost = |error| Finding::problem("endpoints", format!("the check ended by itself: {error}"));
        findings.push(probe.await.unwrap_or_else(lost));
    }
    findings
}

async fn probe(target: Target) -> Finding {
    let name = &target.name;
    // The rest of a URL may hold what nobody should read.
    let address = target.endpoint().map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    let client = match client(&target) {
        Ok(client) => client,
        Err(exit) => {
            return Finding::problem("endpoints", format!("{name}: {}", reason(exit)))
                .mend(format!("correct targets.{name}"));
        }
    };
    match within(client.probe()).await {
        Ok(()) => Finding::ok("endpoints", format!("{name}: {address} answers")),
        Err(why) => Finding::problem("endpoints", format!("{name}: {address} cannot be used: {why}"))
            .mend(format!("bring the target up, or correct targets.{name}.url; its changes wait meanwhile")),
    }
}
